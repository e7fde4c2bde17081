"""Where results may be written: what a folder or file of the user is, and stays.

A folder that is written as a whole carries a mark, the names of all files in it. It may be replaced as long as it holds
nothing else; any other folder with something in it belongs to somebody.
"""

import contextlib
import json
import os
from pathlib import Path

from prunelab.errors import InputError

MARK = ".written-by-prunelab"  # no .json or .txt, which are copied from a model's folder to its variants
# A file that only our stages write, and what is in it: how folders from before there was a mark are known.
SIGNS = {
    "text/manifest.json": '"parts"',
    "prunable.json": '"transposed"',
    "sparsity.json": '"variant"',
    "int8.json": '"format"',
    "calibration.json": '"hash"',
    "delivery.json": '"model_sha256"',
    "loss_vs_sparsity.csv": "series,rate,sparsity_percent,loss",
}
# Put into every folder that is looked at by the file managers of macOS and Windows.
NOBODYS = {".DS_Store", "Thumbs.db", "desktop.ini"}


def check_folder(path, *inputs) -> None:
    """Raises InputError unless `path` may become, as a whole, a folder of results. Nothing is touched.

    It may not exist, be empty, or be one that was written here and has nothing added to it. It is neither the current
    folder nor the home folder nor above them, no link, and not one of `inputs`, nor does it hold one of them, nor does
    it lie in another that was written here.
    """
    path = Path(path)
    with _seen(path):
        found = _link(path) or _everybodys(path) or _read_from(path, inputs) or _part_of(path) or _somebodys(path)
    _refuse(path, found)


def check_shared(path, *inputs) -> None:
    """Raises InputError unless single files of results may be put into the folder `path`, beside what is there.

    It may hold others' results, but is neither the current folder nor the home folder nor above them, and not one of
    `inputs`.
    """
    path = Path(path)
    with _seen(path):
        same = next((f"{one}, which is read from" for one in map(Path, inputs) if _same(path.resolve(), one)), None)
        found = _everybodys(path) or same
    _refuse(path, found)


def check_json(path, key: str) -> None:
    """Raises InputError unless `path` may become a JSON file of ours: it is none yet, or one with `key`."""
    path = Path(path)
    check_file(path)
    if path.exists() and path.stat().st_size and not _has_key(path, key):
        raise InputError(
            f"{path}: expected no file, or an earlier one with {key!r} in it, found another; name a new one"
        )


def check_file(path) -> None:
    """Raises InputError unless `path` may be the name of a file: it is no folder, and above it are only folders.

    Nor is it a device: /dev/null would be replaced by a file.
    """
    path = Path(path)
    with _seen(path):
        if path.is_dir():
            raise InputError(f"{path}: expected the name of a file to write, found a folder; name a file in it")
        found = "a device or pipe" if path.exists() and not path.is_file() else _blocked(path)
    if found:
        raise InputError(f"{path}: expected the name of a file to write, found {found}; name another")


@contextlib.contextmanager
def _seen(path: Path):
    """What the system says of a name it takes for none, or of a folder that it shows to others only, as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be looked at ({error.strerror}); name another place") from None


def is_ours(folder: Path) -> bool:
    """Whether a folder (or nothing) holds nothing but what was written here; a file or link never does."""
    folder = Path(folder)
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and not folder.is_symlink() and _somebodys(folder) is None


def mark(folder: Path) -> None:
    """Write down the names of all files in `folder`, so that what is added later is known to be another's."""
    names = "".join(f"{name}\n" for name in sorted({*_names(folder), MARK}))
    (folder / MARK).write_text(names, encoding="utf-8", errors="surrogateescape")


def _refuse(path: Path, found: str | None) -> None:
    if found:
        raise InputError(
            f"{path}: expected a new or empty folder for results, or one that was written here, found {found}; "
            "nothing was touched; name another one"
        )


def _link(path: Path) -> str | None:
    return f"a link to {os.readlink(path)}" if path.is_symlink() else None


def _everybodys(path: Path) -> str | None:
    """The places that are no project's results, whatever is in them."""
    place = path.resolve()
    if place == Path(place.anchor):
        return "the root of the file system"
    for name, one in (("current", Path.cwd()), ("home", Path(os.path.expanduser("~")))):
        if _same(place, one):
            return f"the {name} folder"
        if any(_same(place, parent) for parent in one.resolve().parents):
            return f"a folder above the {name} folder"
    if os.path.lexists(path) and not path.is_dir():
        return "a file" if path.exists() else _link(path)
    return _blocked(path)


def _blocked(path: Path) -> str | None:
    """The first file on the way to `path`, where a folder is needed."""
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    return f"that {above} is a file" if above is not None and not above.is_dir() else None


def _read_from(path: Path, inputs) -> str | None:
    place = path.resolve()
    for one in map(Path, inputs):
        for where in (Path(os.path.abspath(one)), one.resolve()):  # a link, and what it leads to
            if _same(place, where):
                return f"{one}, which is read from"
            if any(_same(place, parent) for parent in where.parents):
                return f"that {one}, which is read from, lies in it"
    return None


def _part_of(path: Path) -> str | None:
    """The folder around it that is replaced as a whole, and would hold something of another's from now on."""
    whole = next((parent for parent in path.resolve().parents if (parent / MARK).exists()), None)
    return f"that {whole} was written as a whole and lies above it" if whole else None


def _same(one: Path, other: Path) -> bool:
    """Also over bind mounts, and where a file system doesn't tell upper from lower case."""
    return one == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _somebodys(path: Path) -> str | None:
    """What is in a folder that was not written here; None also where there is no folder."""
    names = _names(path)
    if MARK in names:
        # surrogateescape: a name need not be UTF-8.
        ours = set((path / MARK).read_text(encoding="utf-8", errors="surrogateescape").split("\n"))
        names = [name for name in names if name not in ours]
    elif any((path / name).is_file() and sign.encode() in (path / name).read_bytes() for name, sign in SIGNS.items()):
        return None
    others = f" (and {len(names) - 1} others)" if len(names) > 1 else ""
    return f"{names[0]} in it, which was not{others}" if names else None


def _has_key(path: Path, key: str) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # neither UTF-8 nor JSON, so none of ours
        return False
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and key in first


def _names(folder: Path) -> list[str]:
    """The files and links in a folder and the folders in it, relative to it, sorted; none where there is no folder."""
    found = []
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        inside = Path(where).relative_to(folder)
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        found += [(inside / name).as_posix() for name in (*names, *links) if name not in NOBODYS]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename}: what is in it can't be seen ({error.strerror}), so it is not replaced")
