"""Where a run of a worker takes place: in its clone, or for another revision in a worktree beside it.

    python -m flows.revision

A pull step of prefect.yaml runs this in the clone before anything of the study is imported; the folder that it prints
becomes the current one, and the flow, its stages and its graph are those of the revision. A worktree shares the clone's
DVC cache and remotes, so what was computed before is not computed again. The environment is shared too: a revision that
wants other versions than those that are installed is refused.
"""

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from flows import process
from prunelab import errors
from prunelab.errors import InputError

FOLDER = Path(".prunelab/revisions")
KEPT = 3  # worktrees, the one in use included; what the others computed stays in DVC's cache
NAME = re.compile(r"[0-9A-Za-z][\w./-]*")  # no option of git's, nothing that git computes
WRITTEN = {"dvc.lock", "report/metrics.json"}  # by a study itself, though git may track them
NAMED = 3  # versions that differ, in the message


def place(revision: str | None, root: Path = Path()) -> Path:
    """The folder in which `revision` (a commit, tag or branch of the origin; None: what the clone is at) can run.

    Raises InputError for one that is not there, or that wants another environment than this.
    """
    root = root.resolve()
    if revision is None:
        return root
    commit = commit_of(revision, root)
    if _head(root) == commit:
        return root
    constraints = process.ask(["git", "-C", str(root), "cat-file", "blob", f"{commit}:constraints.txt"])
    require_environment(constraints.output, revision)
    folder = root / FOLDER / commit[:12]
    if _head(folder) != commit:
        _make(folder, commit, root)
    _git("reset", "--quiet", "--hard", commit, folder=folder)  # tracked files alone: data, models, results stay
    _share_cache(folder, root)
    os.utime(folder)
    _forget_oldest(root)
    return folder


def require(revision: str | None, root: Path = Path()) -> None:
    """Raises InputError where another revision than `revision` is in the folder: only a worker goes there by itself."""
    if revision is not None and _head(root) != commit_of(revision, root):
        raise InputError(
            f"revision {revision!r} is not what is in this folder: git checkout {revision}, or use a worker"
        )


def committed(chosen: bool, root: Path = Path()) -> str:
    """The commit that other machines can run to do the same as this folder.

    chosen: params.yaml is made from what the run was asked for, so it may differ. Raises InputError where another
    tracked file does, because nobody else has it.
    """
    changed = process.ask(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]).output
    names = {line[3:] for line in changed.splitlines()} - WRITTEN - ({"params.yaml"} if chosen else set())
    commit = _head(root)
    if commit is None or names:
        found = f"{sorted(names)[0]} was edited" if names else "there is no commit"
        raise InputError(f"fan_out: workers run what is committed and pushed, and {found}; commit and push it first")
    return commit


def commit_of(revision: str, root: Path = Path()) -> str:
    """The commit that `revision` names. Raises InputError where there is none.

    A branch is the origin's, for the clone's own stands still.
    """
    if NAME.fullmatch(revision):
        for name in (f"refs/remotes/origin/{revision}", revision):
            found = process.ask(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"])
            if found.code == 0:
                return found.output.strip()
    raise InputError(
        f"revision {revision!r}: the worker's clone has no such commit, tag or branch; push it to the origin first"
    )


def require_environment(constraints: str, revision: str) -> None:
    """Raises InputError where something is installed in another version than the lines of `constraints` say.

    What is not installed belongs to an extra; what follows a + is the build, such as CUDA's.
    """
    other = []
    for name, version in re.findall(r"^([\w.-]+)==([^\s;#]+)", constraints, re.MULTILINE):
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if installed != version:
            other.append(f"{name}=={version}, here it is {installed}")
    if other:
        more = f" and {len(other) - NAMED} more" if len(other) > NAMED else ""
        raise InputError(
            f"revision {revision}: its constraints.txt wants {'; '.join(other[:NAMED])}{more}; run it on a worker "
            "whose environment was made from that revision (docs/workers.md)"
        )


def _head(folder: Path) -> str | None:
    """The commit that the working tree `folder` is at; None where there is none, or half of one."""
    if not (folder / ".git").exists():
        return None
    found = process.ask(["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"])
    return found.output.strip() if found.code == 0 else None


def _make(folder: Path, commit: str, root: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it made it
    _git("worktree", "prune", folder=root)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git("worktree", "add", "--quiet", "--detach", str(folder), commit, folder=root)


def _share_cache(folder: Path, root: Path) -> None:
    """Let DVC in the worktree use the clone's cache, and its remotes and keys as far as they are the clone's own."""
    own, local = root / ".dvc" / "config.local", folder / ".dvc" / "config.local"
    cache = process.ask([sys.executable, "-m", "dvc", "--cd", str(root), "cache", "dir"])
    if cache.code != 0:
        raise InputError(f"{root}: dvc does not say where its cache is: {cache.reason}")
    if own.exists():
        shutil.copyfile(own, local)
    else:
        local.unlink(missing_ok=True)
    place = str((root / cache.output.strip()).resolve())
    told = process.ask([sys.executable, "-m", "dvc", "--cd", str(folder), "cache", "dir", "--local", place])
    if told.code != 0:
        raise InputError(f"{folder}: dvc does not take {place} for its cache: {told.reason}")


def _forget_oldest(root: Path) -> None:
    folders = sorted((root / FOLDER).iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    for folder in folders[KEPT:]:
        _git("worktree", "remove", "--force", str(folder), folder=root)


def _git(*words: str, folder: Path) -> None:
    done = process.ask(["git", "-C", str(folder), *words])
    if done.code != 0:
        raise InputError(f"{folder}: git {words[0]} failed: {done.reason}")


def main() -> None:
    from prefect.client.orchestration import get_client  # a second that a test of the above does not wait for

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(os.environ["PREFECT__FLOW_RUN_ID"])
    print(place(run.parameters.get("revision")))


if __name__ == "__main__":
    errors.exit_cleanly(main)
