"""Files that appear whole or not at all, so that a killed process leaves nothing half-written behind."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from prunelab.errors import InputError


@contextlib.contextmanager
def whole_directory(path):
    """Yield a temporary folder beside `path` that takes its place on success and is removed on error.

    What stood at `path` before is replaced as a whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for orphan in path.parent.glob(f".{path.name}.*.partial"):  # of a process that was killed
        shutil.rmtree(orphan, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        _as_readable_as_any(partial)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def whole_file(path):
    """Yield the name of a temporary file beside `path` that takes its place on success and is removed on error."""
    path = Path(path)
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
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); run the stage that writes it again") from None


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
