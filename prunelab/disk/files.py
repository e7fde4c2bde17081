"""Files that appear whole or not at all, so that a killed process leaves nothing half-written behind."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from prunelab.disk import places
from prunelab.errors import InputError


@contextlib.contextmanager
def whole_directory(path, *inputs):
    """Yield a temporary folder beside `path` that takes its place on success and is removed on error.

    What stood at `path` before is replaced as a whole, and goes when the new folder is in its place. Raises InputError,
    with nothing touched, for a place that is not ours to replace (`places.check_folder`) or where nothing can be
    written.
    """
    places.check_folder(path, *inputs)
    place = Path(path).resolve()  # `sub/..` has no name of its own
    _clear(place, "partial")  # of a process that was killed
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise InputError(f"{path}: nothing can be written there ({error.strerror}); name another folder") from None
    try:
        yield partial
        places.mark(partial)
        _as_readable_as_any(partial)
        _take_place(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _take_place(partial: Path, place: Path) -> None:
    """Move `partial` to `place`; what stood there is moved aside first, moved back on error, and deleted last."""
    aside = None
    if os.path.lexists(place):
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".replaced", dir=place.parent)) / place.name
        os.rename(place, aside)
    try:
        os.rename(partial, place)
    except BaseException:
        if aside:
            os.rename(aside, place)
            aside.parent.rmdir()
        raise
    if aside and not places.is_ours(aside):  # a run takes hours: somebody may have used the folder meanwhile
        print(f"{place}: replaced; files of another's had come into it, which are now in {aside}", file=sys.stderr)
    _clear(place, "replaced")


def _clear(place: Path, suffix: str) -> None:
    """Remove temporary folders of `place`, but for those that somebody put something into."""
    # No dot inside: `.llama-3.2.abc.partial` may be in use, and belongs to llama-3.2.
    named = re.compile(rf"\.{re.escape(place.name)}\.[^.]+\.{suffix}")
    for orphan in place.parent.glob(f".*.{suffix}"):
        if named.fullmatch(orphan.name) and (suffix == "partial" or places.is_ours(orphan / place.name)):
            shutil.rmtree(orphan, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path):
    """Yield the name of a temporary file beside `path` that takes its place on success and is removed on error.

    Raises InputError, before anything is written, where `path` is a folder or a file stands above it.
    """
    path = Path(path)
    places.check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _as_readable_as_any(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _as_readable_as_any(path: Path) -> None:
    """Give what private temporary names left private (mkdtemp, safetensors) the modes of ordinary files."""
    mask = os.umask(0)
    os.umask(mask)
    for one in (path, *path.rglob("*")):
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


def write_json(path, content) -> None:
    """Write `content` as JSON; not-a-number is refused, because no JSON reader but Python's accepts it."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path):
    """The content of a JSON file. Raises InputError when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); run the stage that writes it again") from None


def read_text(path) -> str:
    """The characters of a UTF-8 file exactly as they are: no kind of line end is turned into another.

    Raises InputError when it is missing.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
