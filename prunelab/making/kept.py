"""Results that several recipes begin with, so that no step of a study is done twice.

`checkpoints/beginnings/<key>/` holds such a result (an ignored folder, as training's checkpoints are); the key is the
hash of all that decides it, the code included. Every row leaves a note of where it is, so that a recipe which is added
later finds it. One process makes a beginning, others wait and take it.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.making.given import Given
from prunelab.models.tensors import identity
from prunelab.recipes.methods import METHODS
from prunelab.recipes.variants import QUANTISED, Variant

FOLDER = Path("checkpoints/beginnings")
MOST = 8  # kept results; of more, those that were used longest ago go
# The rooms that decide what a step makes, beside that of the study's task.
ROOMS = ("models", "quantised", "training", "calibration", "pruning", "structure", "recovery", "making", "recipes")


def beginnings(settings, variant: Variant) -> list[Variant]:
    """The steps of a recipe, the last is itself. That of dense-small is the variant whose size it gets."""
    if variant.id != "dense-small":
        return variant.beginnings
    return [settings.like_small(), variant]


def shared(settings, step: Variant) -> bool:
    """Whether more than one row of the study is made by way of `step`, it being one of them or not."""
    return sum(step.id in [one.id for one in beginnings(settings, row)] for row in settings.variants()) > 1


def row(given: Given, variant: Variant, out: Path, make: Callable[[Path], object]) -> None:
    """Have `make(out)` write the row `variant` into folder `out`, unless a recipe that begins with it has made it.

    A note says where it is: recipes that are added to the study later may begin with it.
    """
    out = Path(out)
    if not shared(given.settings, variant):
        make(out)
        _note(key_of(given, variant), out)
        return
    with _open_lock(key := key_of(given, variant)) as lock:
        if _is_there(lock, FOLDER / key):
            _copy(FOLDER / key, out)
        else:
            make(out)
        _note(key, out)


@contextlib.contextmanager
def beginning(given: Given, step: Variant, make: Callable[[Path], object]) -> Iterator[Path]:
    """The folder of `step`, with which a recipe begins: found, or made by `make(folder)`. It stays while it is used.

    Afterwards it is kept where other rows need it too, and where what follows has failed and will be tried again.
    """
    key = key_of(given, step)
    place = FOLDER / key
    with _open_lock(key) as lock:
        while not _is_there(lock, place):
            if not _from_row(key, place):
                make(place)
        os.utime(place)
        _forget_old()
        yield place
        if not shared(given.settings, step):
            shutil.rmtree(place)


def _open_lock(key: str):
    FOLDER.mkdir(parents=True, exist_ok=True)
    return (FOLDER / f"{key}.lock").open("w")


def _is_there(lock, place: Path) -> bool:
    """Whether the result `place` is there, which then nobody removes until the open file `lock` is closed.

    If not, this process alone may make it until then; others wait.
    """
    fcntl.flock(lock, fcntl.LOCK_SH)
    while not place.is_dir():
        fcntl.flock(lock, fcntl.LOCK_EX)  # gives up the shared lock before it waits, so two can't wait for each other
        if not place.is_dir():
            return False
        fcntl.flock(lock, fcntl.LOCK_SH)
    return True


def _note(key: str, out: Path) -> None:
    files.write_json(FOLDER / f"{key}.json", {"folder": out.as_posix(), "files": _files(out)})


def _from_row(key: str, place: Path) -> bool:
    """Whether a row has this result, which then is copied: dvc takes a row away before it is made again."""
    try:
        known = files.read_json(FOLDER / f"{key}.json")
        if known["files"] != _files(Path(known["folder"])):
            return False
        _copy(Path(known["folder"]), place)
    except (InputError, KeyError, TypeError, OSError):  # no note, a broken one, or a row that went meanwhile
        return False
    return True


def key_of(given: Given, step: Variant) -> str:
    """The hash of all that decides what `step` makes."""
    settings = given.settings
    from_scratch = step.prunes == "mask" and METHODS[step.method].trains and not step.steps
    asked = {
        "recipe": step.id,
        "seed": given.seed,
        "dense": None if from_scratch else identity(given.dense),
        "calibration": _text(given.calibration, "calibration.json"),
        "data": _manifests(given.data),
        "task": settings.task,
        "price": settings.price and settings.price.model_dump(mode="json"),
        "prune": settings.prune.model_dump(mode="json", exclude={"methods", "rates", "further", "cells"}),
        "code": code_of(settings.task),
        "libraries": [version(name) for name in ("torch", "transformers")],
    }
    some = {"recover": "recovered" in step.steps, "retrain": "retrained" in step.steps}
    some["quantise"] = step.precision in QUANTISED
    for section in ("train", "calibrate", "structure", *(name for name, asked_for in some.items() if asked_for)):
        content = getattr(settings, section)
        asked[section] = content.model_dump(mode="json") if content is not None else None
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _text(folder: Path | None, name: str) -> str | None:
    path = Path(folder) / name if folder else None
    return path.read_text(encoding="utf-8") if path and path.exists() else None


def _manifests(folder: Path | None) -> dict[str, str]:
    """What the stage fetch says of each part of its data."""
    found = sorted(Path(folder).glob("*/manifest.json")) if folder else []
    return {path.parent.name: path.read_text(encoding="utf-8") for path in found}


@functools.cache
def code_of(task: str, rooms: tuple[str, ...] = ROOMS) -> str:
    """The hash of the modules that a step may be made by, or of those of other `rooms` and the task."""
    house = Path(__file__).parents[1]
    modules = sorted(path for room in (*rooms, f"tasks/{task}") for path in (house / room).rglob("*.py"))
    return hashlib.sha256("".join(files.sha256_file(path) for path in modules).encode()).hexdigest()


def _files(folder: Path) -> dict[str, int]:
    """Names and hashes of the files of a result: a row that was made anew with another setting has the same sizes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files.sha256_file(path) for path in found}


def _copy(folder: Path, place: Path) -> None:
    with files.whole_directory(place, folder) as partial:
        shutil.copytree(folder, partial, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _forget_old() -> None:
    """Remove all but the results that were used last, and those that are in use."""
    kept = [path for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(kept, key=_last_use)[:-MOST]:
        with _open_lock(path.name) as lock, contextlib.suppress(BlockingIOError):  # in use
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0
