"""Names in params.yaml that a shell would run, through the real dvc.yaml and the real DVC.

`dvc repro -s` of one stage runs its command before any Python of ours could refuse: what protects is how dvc.yaml
passes names. So `python` on PATH is a recorder here that notes what it was given, and fails.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.helpers import studies

ROOT = Path(__file__).parents[2]
MARKER = "injected"  # the file that each of these would create, were it run
HOSTILE = [
    f"; touch {MARKER};", f"$(touch {MARKER})", f"`touch {MARKER}`", f"x'; touch {MARKER}; '",
    f'x" | touch {MARKER}', f"x && touch {MARKER}", f"x\\'; touch {MARKER} #",
]  # fmt: skip
BROKEN = f"x\ntouch {MARKER}\n"  # DVC runs every line of a command by itself; the quote that is open stops the first
RECORDER = """#!/bin/sh
for word; do printf '%s\\0' "$word"; done >> "$DVC_ROOT/given"
exit 1
"""


def repository(folder: Path, changes: dict) -> Path:
    """The graph and its code in a repository of its own, with the smoke study's settings but for `changes`."""
    yaml = YAML(typ="safe", pure=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for code in ("prunelab", "stages"):
        shutil.copytree(ROOT / code, folder / code, ignore=shutil.ignore_patterns("__pycache__"))
    settings = studies.raw("smoke")
    for key, value in changes.items():
        section, _, inside = key.rpartition(".")
        (settings[section] if section else settings)[inside] = value
    yaml.dump(settings, folder / "params.yaml")
    for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
        answer = run(folder, *command.split())
        assert answer.returncode == 0, answer.stderr
    return folder


def run(folder: Path, *command: str, first: Path = Path(sys.executable).parent) -> subprocess.CompletedProcess:
    """The command in `folder`, whose programs are those of this environment, `first` before them on PATH."""
    path = os.pathsep.join([str(first), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SHELL": "/bin/sh"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_name_that_a_shell_would_run_reaches_the_stage_as_it_is(tmp_path):
    names, seeds = [*HOSTILE, BROKEN], [HOSTILE[3], BROKEN]
    changes = {
        "prune.methods": names, "prune.rates": [50], "prune.further": names, "efficiency.methods": [],
        "seeds": ["s1", *seeds],
    }  # fmt: skip
    folder = repository(tmp_path, changes)
    for place in ("data/fetched", "models/s1/dense", "models/s1/calibration"):
        (folder / place).mkdir(parents=True)
        (folder / place / "content").touch()
    (folder / "data/inputs").mkdir()
    (folder / "data/inputs/recipes.json").touch()
    recorder = folder / "bin/python"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    # Rows of s1 alone, whose inputs are there; hostile seeds with train, last, for DVC removes what a stage will write.
    rows = [f"prune@{name}-50-s1" for name in names]
    rows += [f"further@{name}-s1" for name in names]
    answer = run(folder, "dvc", "repro", "-s", "-k", *rows, "train", first=recorder.parent)
    assert not list(folder.rglob(f"{MARKER}*"))
    given = set(itertools.pairwise((folder / "given").read_text().split("\0")))
    for option, hostile in (("--method", HOSTILE), ("--variant", HOSTILE), ("--seed", seeds[:1])):
        told = {value for name, value in given if name == option}
        assert set(hostile) <= told, f"{option}\n{answer.stderr[-2000:]}"
        assert BROKEN not in told
    assert ("--rate", "50") in given


def test_dvc_refuses_a_name_that_is_a_mapping_whose_keys_it_would_not_quote(tmp_path):
    folder = repository(tmp_path, {"prune.methods": [{f"; touch {MARKER};": 1}], "efficiency.methods": []})
    answer = run(folder, "dvc", "repro", "-s", "prune")
    assert answer.returncode != 0 and "interpolate" in answer.stderr
    assert not list(folder.rglob(f"{MARKER}*"))


def test_a_path_in_a_name_is_refused_by_the_first_stage_before_dvc_clears_what_it_leads_to(tmp_path):
    """`dvc repro` of anything begins with `inputs`. (With -s DVC removes a stage's outputs before the stage could say
    no, see docs/security.md.)"""
    folder = repository(tmp_path, {"prune.methods": ["../kept"], "efficiency.methods": []})
    (folder / "models/kept-50").mkdir(parents=True)
    (folder / "models/kept-50/content").touch()
    answer = run(folder, "dvc", "repro", "prune")
    assert answer.returncode != 0
    assert re.search(r"^error: .*'../kept'", answer.stderr, re.M), answer.stderr
    assert re.findall(r"Running stage '(\S+)'", answer.stdout) == ["inputs"]
    assert (folder / "models/kept-50/content").exists()


def test_no_command_of_the_graph_has_a_setting_in_its_text():
    """A value in the text is code of the shell's; the mapping as a whole is quoted, and so is what DVC alone knows."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        assert set(re.findall(r"\$\{.*?\}", stage["cmd"])) <= {"${item}"}, name
        if "matrix" in stage:  # a list or mapping among the names is refused only where an output is named by it
            outs = " ".join(str(out) for out in stage["outs"])
            assert all("${item." + axis + "}" in outs for axis in stage["matrix"]), name
