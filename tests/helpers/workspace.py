"""A copy of the repository in a folder of its own, as a fresh clone would be, with the smoke study in params.yaml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from prunelab.study import studies
from tests.helpers import forks

ROOT = Path(__file__).parents[2]


def make(folder: Path, study: str = "smoke") -> Path:
    """Copy what git tracks (and new files that it does not ignore) to `folder` and commit it there."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "params.yaml").write_text(studies.merge(study, folder / "studies").text, encoding="utf-8")
    run(folder, "git", "init", "--quiet", ".")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "as cloned")
    return folder


def environment() -> dict[str, str]:
    """The environment of a command: this Python's folder first on PATH, because DVC runs `python` from there.

    What `make test` tells its own commands is left out: a make of ours would take it for a make within that one.
    """
    return {
        **{name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost",
    }  # fmt: skip


def run(folder: Path, *command: str, check: bool = True, fork: bool = True) -> str:
    """Run a command in `folder`; its output (both streams). A failure shows it.

    fork: the stages that dvc starts are forked from one Python that has torch in it, else begin from nothing.
    """
    more = forks.environment() if fork and command[0] == "dvc" else {}
    done = subprocess.run(
        command, cwd=folder, env=environment() | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return done.stdout
