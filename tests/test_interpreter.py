"""Another Python first on PATH: one line that names it and the way out, and nothing that was measured is lost."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from prunelab import interpreter
from prunelab.disk.files import write_json
from prunelab.efficiency import device
from prunelab.errors import InputError
from stages import device as stage
from tests.helpers import workspace


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The folder of a `python` without a single package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin"


def run(folder: Path, first: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in `folder` with the Python of `first` before all others on PATH."""
    environment = workspace.environment() | {"PATH": f"{first}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def project(tmp_path) -> Path:
    """The probe as dvc.yaml has it, and a measurement that depends on what it writes, both run with this Python."""
    for name in ("pyproject.toml", "params.yaml", "prunelab", "stages"):
        source = workspace.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    probe = re.search(r"^  device:.*?\n\n", (workspace.ROOT / "dvc.yaml").read_text(encoding="utf-8"), re.M | re.S)[0]
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n{probe}  measured:\n    cmd: cp results/device.json measured.json\n"
        "    deps: [results/device.json]\n    outs: [measured.json]\n",
        encoding="utf-8",
    )
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        assert run(tmp_path, Path(sys.executable).parent, *command).returncode == 0
    done = run(tmp_path, Path(sys.executable).parent, sys.executable, "-m", "dvc", "repro")
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_dvc_with_another_python_on_path_loses_nothing_and_says_which_one_ran_in_one_line(project, bare):
    kept = {name: (project / name).read_bytes() for name in ("results/device.json", "measured.json", "dvc.lock")}
    done = run(project, bare, sys.executable, "-m", "dvc", "repro")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: the Python that runs here ({bare / 'python'}, 3.") and "has no torch, " in line
    assert "Traceback" not in done.stderr
    assert {name: (project / name).read_bytes() for name in kept} == kept
    again = run(project, Path(sys.executable).parent, sys.executable, "-m", "dvc", "repro")
    assert again.returncode == 0 and "Stage 'measured' didn't change, skipping" in again.stdout


@pytest.mark.parametrize(
    "module", ["stages.train", "stages.device", "prunelab.study.params", "prunelab", "flows.local"]
)
def test_every_command_says_it_before_its_first_import_fails(bare, module):
    done = run(workspace.ROOT, bare, "python", "-m", module, "--help")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert str(bare / "python") in done.stderr and "has no torch, transformers, accelerate and " in done.stderr


def test_the_line_says_where_the_project_s_python_is_or_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    assert "make .venv/installed" in interpreter.what_to_do()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert ". .venv/bin/activate" in interpreter.what_to_do() and not interpreter.is_the_projects()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert interpreter.what_to_do() == "the project's environment is incomplete: make .venv/installed"


def test_this_python_has_all_that_the_project_asks_for_and_what_it_has_not_is_named(tmp_path, monkeypatch):
    assert interpreter.lacking() == []
    asked = '[project]\ndependencies = ["torch>=2", "no-such.thing>=1,<2", "ruamel.yaml"]\n'
    (tmp_path / "pyproject.toml").write_text(asked, encoding="utf-8")
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    assert interpreter.lacking() == ["no-such.thing"]
    with pytest.raises(SystemExit, match=r"error: the Python that runs here \(.*\) has no no-such\.thing; "):
        interpreter.require()


def test_a_python_that_is_too_old_is_told_so(monkeypatch):
    monkeypatch.setattr(interpreter.sys, "version_info", (3, 8, 1))
    with pytest.raises(SystemExit, match=r"3\.8\.1\) is older than 3\.11; "):
        interpreter.require()


def test_an_installed_package_without_the_project_around_it_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    monkeypatch.setattr(interpreter, "lacking", lambda: pytest.fail("asked"))
    interpreter.require()


@pytest.fixture
def measured_before(tmp_path, monkeypatch):
    """Writes a fingerprint like this machine's with changes; the project has an environment, and this is not it."""
    monkeypatch.setattr(interpreter, "has_project", lambda: True)
    monkeypatch.setattr(interpreter, "is_the_projects", lambda: False)

    def write(**changes) -> Path:
        write_json(tmp_path / "device.json", device.fingerprint() | changes)
        return tmp_path / "device.json"

    return write


def test_a_complete_python_of_another_version_does_not_have_all_measured_again(measured_before):
    path = measured_before(libraries={"torch": "0.1", "transformers": "0.1"}, python="3.11.0", id="other")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"\(libraries, python differ\).*again; .*if this Python is meant, delete"):
        stage.main(["--out", str(path)])
    assert path.read_bytes() == before


def test_the_project_s_own_python_may_be_updated(measured_before, monkeypatch):
    path = measured_before(libraries={"torch": "0.1"}, id="other")
    monkeypatch.setattr(interpreter, "is_the_projects", lambda: True)
    stage.main(["--out", str(path)])
    assert "0.1" not in path.read_text(encoding="utf-8")


def test_another_machine_is_another_machine_with_any_python(measured_before):
    path = measured_before(libraries={"torch": "0.1"}, cpu="Slow 10", id="other")
    stage.main(["--out", str(path)])
    assert "Slow 10" not in path.read_text(encoding="utf-8")
