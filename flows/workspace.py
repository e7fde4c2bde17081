"""The folder a study runs in: whose settings it has, one study at a time, no dead locks in the way."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows import process
from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.study import params, studies

LOCK = Path(".prunelab/study.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
WRITTEN = Path(".prunelab/params.sha256")  # of the params.yaml that was merged here last


class Skipped(Exception):
    """A study whose data is not on this machine, which is no mistake; the text says so in one line."""


@contextlib.contextmanager
def alone():
    """Hold this folder for one study. Raises InputError when another has it; a killed one holds nothing."""
    if not Path("dvc.yaml").exists():
        raise InputError(f"{Path.cwd()} has no dvc.yaml; start a study in the project's folder")
    _require_git_or_none()
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"a study is already running in this folder (process {file.read().strip() or 'unknown'}); "
                "wait for its end, or use another clone"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _clear_dead_locks()
        yield


def choose(study: str | None, overrides: dict | None = None) -> params.Settings:
    """Make the study, merged onto the default, with `overrides` over it, the params.yaml that runs, and print what
    differs; without either the one there is kept. Returns its validated settings.

    Raises InputError rather than overwrite a params.yaml whose content is kept nowhere else, and Skipped where the
    study reads data that its user must bring and that is not there.
    """
    current = Path("params.yaml")
    if study is None and not overrides:
        return params.load(current)
    merged = studies.merge(study) if study else _there(current)
    if overrides:
        merged = studies.override(merged, overrides)
    _require_data(merged)
    text = merged.text.encode()
    if current.exists() and _lines(current) == text:
        return merged.settings
    if current.exists():
        _require_kept_elsewhere(current, study or "overrides")
    WRITTEN.parent.mkdir(exist_ok=True)
    WRITTEN.write_text(hashlib.sha256(text).hexdigest(), encoding="utf-8")  # first: cut off here, it only knows less
    with files.whole_file(current) as partial:
        partial.write_bytes(text)
    print(studies.told(merged), flush=True)
    return merged.settings


def _there(path: Path) -> studies.Merged:
    """The settings that are there, as a study."""
    text = params.text_of(path)
    settings = params.of_text(text, path)
    return studies.Merged(settings.study, text, settings, [])


def _require_data(merged: studies.Merged) -> None:
    """Raises Skipped where a folder of data/ is not there, which a study can name and this project cannot bring."""
    for source in merged.settings.sources().values():
        place = Path(source.name or "")
        if source.kind == "path" and place.is_relative_to("data") and not place.exists():
            raise Skipped(
                f"skipped: study {merged.name} reads {place}, which is not there; "
                f"{studies.FOLDER}/{merged.name}.yaml says where it comes from"
            )


def _require_kept_elsewhere(path: Path, study: str) -> None:
    """Raises InputError unless the content of `path` is a study's, or in git's HEAD, whatever its line ends are."""
    content = _lines(path)
    if WRITTEN.exists() and WRITTEN.read_text(encoding="utf-8") == hashlib.sha256(content).hexdigest():
        return  # nobody touched it since it was merged here, though its study may have been edited
    if content in _studies():
        return
    # Not `git diff`: it sees no change in a file that git was told to take for unchanged, nor in one it does not know.
    committed = process.ask(["git", "cat-file", "blob", f"HEAD:./{path}"])
    keep = f"keep it as a study (cp {path} studies/NAME.yaml)"
    if committed.code == 0:
        if committed.output.replace("\r\n", "\n").encode() == content:
            return
        raise InputError(
            f"{path} has edits that are kept nowhere else, and {study!r} would overwrite it: {keep} "
            f"or drop the edits (git checkout {path}), then start again"
        )
    reason = committed.reason.removeprefix("fatal: ")
    if "'HEAD'" in reason or "object name" in reason:  # git is well, but no commit holds the file
        raise InputError(
            f"{path} is in no commit, and {study!r} would overwrite it: {keep} or commit it, then start again"
        )
    cure = ""
    if "dubious ownership" in reason:
        cure = (
            f" or let git trust this folder (git config --global --add safe.directory {shlex.quote(str(Path.cwd()))})"
        )
    raise InputError(
        f"{study!r} would overwrite {path}, and git does not say whether it has edits ({reason}): "
        f"{keep}{cure}, then start again"
    )


def _studies() -> Iterator[bytes]:
    """Every study as params.yaml would have it, and as it stands in its file (one that was copied there is whole)."""
    for name in studies.names():
        yield _lines(studies.FOLDER / f"{name}.yaml")
        try:
            yield studies.merge(name).text.encode()
        except InputError:
            continue  # a study that cannot be merged has been no params.yaml


def _lines(path: Path) -> bytes:
    """The content with plain newlines: git may write others (core.autocrlf), which are no edit."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _require_git_or_none() -> None:
    """Raises InputError where DVC would refuse to work, with what to do: a folder that was no git clone, from a ZIP."""
    here = Path.cwd()
    if any((folder / ".git").exists() for folder in (here, *here.parents)):
        return
    from dvc.config import Config  # half a second that a clone does not pay

    if not Config(".dvc").get("core", {}).get("no_scm", False):
        raise InputError(
            f"{here} is not a git repository, which DVC wants: make it one (git init) or let DVC work without git "
            "(dvc config core.no_scm true), then start again"
        )


def _clear_dead_locks() -> None:
    """Remove DVC's table of file locks when no dvc is alive here.

    A killed dvc leaves its entries, even half a file; DVC forgets entries of dead processes by itself, but not when
    another program has got that process id since ("is busy"), and not a file cut short ("structure is corrupted").
    """
    if not RWLOCK.exists():
        return
    text = RWLOCK.read_text(encoding="utf-8")
    try:
        json.loads(text)
        holders = {int(pid) for pid in re.findall(r'"pid":\s*(\d+)', text)}
        dead = bool(holders) and not any(_is_dvc(pid) for pid in holders)
    except json.JSONDecodeError:
        dead = not any(_is_dvc(pid, here=True) for pid in psutil.pids())
    if dead:
        RWLOCK.unlink()


def _is_dvc(pid: int, here: bool = False) -> bool:
    """Whether the process is a dvc, and with `here` whether it runs in this folder."""
    try:
        running = psutil.Process(pid)
        return any("dvc" in Path(word).name for word in running.cmdline()[:4]) and (
            not here or Path.cwd() in (Path(running.cwd()), *Path(running.cwd()).parents)
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
