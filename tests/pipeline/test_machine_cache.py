"""The hardware-aware cache, proven on the real graph: dvc.yaml itself, its commands replaced by a note-taker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import studies

ROOT = Path(__file__).parents[2]
RECORDER = """
import sys
from pathlib import Path

name, outs = sys.argv[1], sys.argv[2:]
log = Path("log.txt")
runs = log.read_text().splitlines() if log.exists() else []
log.write_text("\\n".join([*runs, name]) + "\\n")
machine = Path("machine.txt").read_text() if name == "device" else ""
measured = f"reading {len(runs)}" if name.startswith("efficiency") else ""  # never twice the same, as real readings
for out in map(Path, outs):
    if not out.suffix:
        out = out / {"fetched": "text/manifest.json", "timed": "depth-50.json"}.get(out.name, "content")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{name} {machine}{measured}")
"""


PROBES = {"device", "inputs", "mirror"}  # run always


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A clone of the graph on "machine A", run once."""
    root = tmp_path_factory.mktemp("graph")
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # the order of a matrix's axes is that of its stages' names
    pipeline = yaml.load(ROOT / "dvc.yaml")
    for name, stage in pipeline["stages"].items():
        item = "@${key}" if "matrix" in stage else ""
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
        stage["cmd"] = f"{sys.executable} record.py {name}{item} {' '.join(outs)}"
    with open(root / "dvc.yaml", "w") as file:
        yaml.dump({"stages": pipeline["stages"]}, file)
    settings = studies.raw("smoke")
    settings["prune"] |= {"methods": ["random", "magnitude"], "rates": [50], "further": ["depth-50"]}
    settings["seeds"] = ["s1", "s2"]
    with open(root / "params.yaml", "w") as file:
        yaml.dump(settings, file)
    for code in ("prunelab", "stages"):
        shutil.copytree(ROOT / code, root / code, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "record.py").write_text(RECORDER)
    for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
        execute(root, *command.split())
    run_on(root, "machine A")
    return root


def execute(root, *command):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def run_on(root, machine) -> set[str]:
    """The stages that `dvc repro` really executes on this machine."""
    (root / "machine.txt").write_text(machine)
    log = root / "log.txt"
    before = log.read_text().splitlines() if log.exists() else []
    execute(root, "dvc", "repro", "-q")
    return set(log.read_text().splitlines()[len(before) :])


def readings(root):
    return {path.parent: path.read_text() for path in sorted(root.glob("results/*/*/efficiency.json"))}


@pytest.mark.slow
def test_another_machine_measures_again_and_the_first_one_gets_its_own_numbers_back(graph):
    executed = set((graph / "log.txt").read_text().splitlines())
    measuring = {name for name in executed if name.startswith("efficiency")}
    # of both seeds: the dense model, the masks of efficiency.methods, and prune.further
    assert len(measuring) == 2 * (1 + 1 + 1)
    assert {"train@s1", "train@s2", "prune@random-50-s2", "quality@random-50-s1", "further@depth-50-s2"} < executed
    on_a = readings(graph)
    assert len(on_a) == len(measuring)

    assert run_on(graph, "machine A") == PROBES
    assert readings(graph) == on_a

    assert run_on(graph, "machine B") == PROBES | {"recommend", "export", "report"} | measuring  # these print times
    on_b = readings(graph)
    assert not set(on_a.values()) & set(on_b.values())

    assert run_on(graph, "machine A") <= PROBES | {"report"}  # its metrics are in git, not in the cache
    assert readings(graph) == on_a
