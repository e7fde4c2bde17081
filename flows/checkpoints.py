"""Checkpoints of trainings that are not finished, on the DVC remote: another worker can go on from there.

DVC pushes finished outputs only. So beside them, through the file system of the same remote:

    checkpoints/<fingerprint of the training>/checkpoint-120/…      the newest, and the best so far
                                             /newest.json           which these are; written last, read first

The training itself (prunelab/training) knows nothing of this: it finds a folder of checkpoints/ as if it had left it.
"""

import json
import os
import shutil
import time
from pathlib import Path

from flows.remote import opened
from prunelab.disk.files import read_json

FOLDER = Path("checkpoints")
LAST_FILE = "weight_history.safetensors"  # of a checkpoint: it is whole once this is there
MARKER = "newest.json"


def put(study: str, stage: str, since: float) -> dict:
    """Share the newest checkpoint of the training that runs here: {"put": its folder, None where there is nothing new}.

    stage: which trains; since: when it began (seconds since the epoch), to know its checkpoints by.
    """
    newest = max(_whole(since), key=_step, default=None)
    if newest is None:
        return {"put": None}
    folders = [newest, *_best_of(newest)]
    content = {"study": study, "stage": stage, "files": _files(newest.parent, folders)}
    with opened() as (_, remote):
        fs, place = remote.fs, remote.fs.join(remote.path, *newest.parent.parts)
        marker = fs.join(place, MARKER)
        before = json.loads(fs.cat_file(marker)) if fs.exists(marker) else {"files": {}}
        if before == content:
            return {"put": None}
        for name, size in content["files"].items():
            if before["files"].get(name) != size:
                target = fs.join(place, *name.split("/"))
                fs.makedirs(fs.parent(target), exist_ok=True)
                fs.put_file(str(newest.parent / name), target)
        fs.pipe_file(marker, json.dumps(content).encode())
        for path in fs.find(place):
            name = fs.as_posix(fs.relpath(path, place))
            if name != MARKER and name not in content["files"]:
                fs.rm_file(path)
    return {"put": str(newest)}


def take(study: str, stages: list[str]) -> dict:
    """Bring the shared checkpoints of those `stages` of `study` here: {"taken": [folder, …]}.

    One that is behind what is here is left there. Which of them a training goes on from, its fingerprint decides.
    """
    taken = []
    with opened() as (_, remote):
        for place, content in _shared(remote):
            if content["study"] != study or content["stage"] not in stages:
                continue
            names = sorted({name.split("/")[0] for name in content["files"]}, key=lambda name: _step(Path(name)))
            folder = FOLDER / remote.fs.name(place)
            if any(_step(one) >= _step(Path(names[-1])) for one in folder.glob("checkpoint-*") if _is_whole(one)):
                continue
            for name in names:
                _bring(remote.fs, place, content["files"], folder / name)
            taken.append(str(folder / names[-1]))
    return {"taken": taken}


def drop(study: str, stages: list[str]) -> dict:
    """Remove what was shared of trainings that have finished, whose models are on the remote by now."""
    with opened() as (_, remote):
        for place, content in _shared(remote):
            if content["study"] == study and content["stage"] in stages:
                remote.fs.rm_file(remote.fs.join(place, MARKER))  # first: without it the rest is nothing
                for path in remote.fs.find(place):
                    remote.fs.rm_file(path)
    return {}


def _whole(since: float) -> list[Path]:
    return [
        folder
        for folder in FOLDER.glob("*/checkpoint-*")
        if _is_whole(folder) and (folder / LAST_FILE).stat().st_mtime >= since
    ]


def _is_whole(folder: Path) -> bool:
    return (folder / LAST_FILE).exists()


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _best_of(newest: Path) -> list[Path]:
    """The checkpoint of the lowest validation loss so far, which a training reads at its end, where it is another."""
    step = read_json(newest / "trainer_state.json").get("best_global_step")
    best = newest.with_name(f"checkpoint-{step}")
    return [best] if best != newest and _is_whole(best) else []


def _files(folder: Path, checkpoints: list[Path]) -> dict[str, int]:
    """Every file of the checkpoints, relative to `folder`, with its size in bytes."""
    found = {}
    for checkpoint in checkpoints:
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _shared(remote):
    """(place, content of its marker) of every training that is shared as a whole."""
    fs, root = remote.fs, remote.fs.join(remote.path, str(FOLDER))
    for path in fs.find(root) if fs.exists(root) else []:
        if fs.name(path) == MARKER:
            yield fs.parent(path), json.loads(fs.cat_file(path))


def _bring(fs, place: str, files: dict[str, int], folder: Path) -> None:
    """Download one checkpoint, whole or not at all: where a file has gone or changed meanwhile, FileNotFoundError."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, size in files.items():
            if name.split("/")[0] == folder.name:
                target = partial / Path(*name.split("/")[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(fs.join(place, *name.split("/")), str(target))
                if target.stat().st_size != size:
                    raise FileNotFoundError(f"{name}: {target.stat().st_size} bytes of {size}")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        os.utime(folder / LAST_FILE, (time.time(),) * 2)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
