"""What the README tells a user to type exists and works."""

import re
import sys
from pathlib import Path

import pytest

from tests import workspace

README = (workspace.ROOT / "README.md").read_text(encoding="utf-8")
# The environment is this one: making another would only test pip again (.ci/run does, on a new machine).
MAKE = ("make", "-o", ".venv/installed")


def test_its_two_commands_are_make_study_and_make_test():
    block = re.search(r"## Two commands\n\n```\n(.*?)```", README, re.DOTALL)[1]
    assert re.findall(r"^make \w+", block, re.MULTILINE) == ["make study", "make test"]
    planned = workspace.run(workspace.ROOT, *MAKE, "--dry-run", "test")
    for part in ("ruff check .", "ruff format --check .", 'pytest -q -m "not slow"', "pytest -q -m slow"):
        assert part in planned
    assert (workspace.ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


def test_every_file_and_module_it_names_is_there():
    for path in re.findall(r"\]\((docs/[^)#]+)", README) + re.findall(r"`(studies/\w[\w-]*\.yaml)`", README):
        assert (workspace.ROOT / path).exists(), path
    for module in re.findall(r"python -m ([a-z_.]+\w)", README):
        assert (workspace.ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module


@pytest.mark.slow
def test_make_study_runs_prints_the_table_and_has_nothing_to_do_the_second_time(tmp_path):
    folder = workspace.make(tmp_path / "clone")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    first = workspace.run(folder, *MAKE, "study", "STUDY=smoke")
    assert re.search(r"^systematic-50 +50\.0 ", first, re.MULTILINE)
    assert "report/index.html" in first and "make ui" in first
    second = workspace.run(folder, *MAKE, "study")
    assert "nothing to do" in second and "Running stage" not in second
