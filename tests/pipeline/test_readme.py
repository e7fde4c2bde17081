"""What the README tells a user to type exists and works."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import graph
from tests.helpers import workspace

README = (workspace.ROOT / "README.md").read_text(encoding="utf-8")
# The environment is this one: making another would only test pip again (.ci/run does, on a new machine).
MAKE = ("make", "-o", ".venv/installed")


def test_its_two_commands_are_make_study_and_make_test():
    block = re.search(r"## Two commands\n\n```\n(.*?)```", README, re.DOTALL)[1]
    assert re.findall(r"^make \w+", block, re.MULTILINE) == ["make study", "make test"]
    planned = workspace.run(workspace.ROOT, *MAKE, "--dry-run", "test")
    for part in ("ruff check .", "ruff format --check .", 'pytest -q -m "not slow and not gpu', "pytest -q -m slow"):
        assert part in planned
    assert (workspace.ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


def test_every_file_and_module_it_names_is_there():
    for path in re.findall(r"\]\((docs/[^)#]+)", README) + re.findall(r"`(studies/\w[\w-]*\.yaml)`", README):
        assert (workspace.ROOT / path).exists(), path
    for module in re.findall(r"python -m ([a-z_.]+\w)", README):
        assert (workspace.ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module


def test_the_environment_is_activated_before_the_first_line_that_needs_it(tmp_path):
    """Its lines, typed in a fresh shell whose PATH knows nothing of the environment, in a clone that has one."""
    block = re.search(r"```\n(\. \.venv/bin/activate\n.*?)```", README, re.DOTALL)
    typed = [
        README.index(f"`{command}") for command in ("dvc repro", "prunelab try", "python -m flows.study", "dvc push")
    ]
    assert block.start() < min(typed)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-ec", block[1]],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Usage: prunelab" in done.stdout and "mlflow, version" in done.stdout


def kinds_drawn() -> set[tuple[str, str]]:
    """The arrows of the README's picture of the graph."""
    arrows = set()
    for line in re.search(r"```mermaid\ngraph LR\n(.*?)```", README, re.DOTALL)[1].splitlines():
        groups = [[name.strip() for name in group.split("&")] for group in line.split("-->")]
        for before, after in itertools.pairwise(groups):
            arrows |= set(itertools.product(before, after))
    return arrows


def reachable(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What lies before what, at any distance."""
    found = set(arrows)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_its_picture_of_the_graph_is_the_graph(tmp_path):
    folder = workspace.make(tmp_path / "clone", "structured")  # a study that has every kind of stage
    needs = graph.read(str(folder)).needs
    kind = {name: name.partition("@")[0] for name in needs}
    real = {(kind[before], kind[name]) for name, others in needs.items() for before in others}
    assert reachable(kinds_drawn()) == reachable(real)


@pytest.mark.parametrize("name", ["my study (2)", "a 'b' & #1 50%"])
def test_make_takes_any_name_of_the_folder_and_its_tools_from_there(tmp_path, name):
    folder = tmp_path / name
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(workspace.ROOT / "Makefile", folder)
    for tool in ("mlflow", "python"):
        (folder / ".venv" / "bin" / tool).write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
        (folder / ".venv" / "bin" / tool).chmod(0o755)
    told = workspace.run(folder, *MAKE, "ui", "PORT=5123").splitlines()[-7:]
    words = ["ui", "--backend-store-uri", "sqlite:///mlflow.db", "--host", "127.0.0.1", "--port", "5123"]
    assert told == [f"<{word}>" for word in words]
    told = workspace.run(folder, *MAKE, "study", "STUDY=my own (2)").splitlines()
    assert told == ["<-m>", "<flows.local>", "<--study>", "<my own (2)>"]


def test_make_finds_an_interpreter_whose_folder_has_a_blank(tmp_path):
    interpreter = tmp_path / "my python" / "python"
    interpreter.parent.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(workspace.ROOT / name, tmp_path)
    interpreter.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "asked for $*"; exit 3; }\n')
    interpreter.chmod(0o755)
    told = workspace.run(tmp_path, "make", ".venv/installed", f"PYTHON={interpreter}", check=False)
    assert "asked for -m venv .venv" in told
    told = workspace.run(tmp_path, "make", ".venv/installed", "PYTHON=/no such/python", check=False)
    assert "error: /no such/python not found; install Python 3.11 or say make PYTHON=..." in told


@pytest.mark.slow
def test_make_study_runs_prints_the_table_and_has_nothing_to_do_the_second_time(tmp_path):
    folder = workspace.make(tmp_path / "my study (2)")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    first = workspace.run(folder, *MAKE, "study", "STUDY=smoke")
    assert re.search(r"^systematic-50 +50\.0 ", first, re.MULTILINE)
    assert "report/index.html" in first and "make ui" in first
    second = workspace.run(folder, *MAKE, "study")
    assert "nothing to do" in second and "Running stage" not in second
