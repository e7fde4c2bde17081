"""What a downloaded file is and holds: its hash, an archive's content, the files in it that were asked for."""

import email.parser
import gzip
import hashlib
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from prunelab.disk import files
from prunelab.errors import InputError

FORMATS = {".whl": "zip", ".zip": "zip", ".tar": "tar", ".tar.gz": "gztar", ".tgz": "gztar"}
# What the standard library raises for a broken archive; RuntimeError is an encrypted zip or an unknown compression.
BROKEN = (shutil.ReadError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


def check_hash(path: Path, expected: str | None, name: str) -> str:
    """The sha256 of a file. Raises InputError when it isn't the expected one."""
    found = files.sha256_file(path)
    if expected is not None:
        compare(found, expected, name, path.stat().st_size)
    return found


def unpack(path: Path, folder: Path) -> Path:
    """The folder with an archive's content, or the file's own folder when its name is not that of an archive."""
    kind = next((form for suffix, form in FORMATS.items() if path.name.lower().endswith(suffix)), None)
    if kind is None:
        return path.parent
    try:
        if kind == "zip":
            _check_zip(path)
            shutil.unpack_archive(path, folder, kind)
        else:
            _unpack_tar(path, folder)
    except BROKEN as error:
        raise InputError(f"{path.name}: expected a readable {kind} archive, found: {error}; fetch it again") from None
    return folder


def _check_zip(path: Path) -> None:
    """Raises InputError for a member that is no plain file or folder inside the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # of Unix; 0 where whoever packed it knew none
            _check_member(path, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))


def _check_member(path: Path, name: str, is_plain: bool) -> None:
    """Raises InputError for a member of the archive `path` that is not `is_plain`, or whose `name` leads out of it."""
    parts = re.split(r"[/\\]", name)
    leads_out = ".." in parts or not parts[0] or re.match("[A-Za-z]:", name)
    if leads_out or not is_plain:
        found = "would lie outside of its folder" if leads_out else "is a link or device"
        raise InputError(
            f"{path.name}: expected an archive of plain files and folders, found {name!r}, which {found}; nothing was "
            "unpacked; if you trust it, unpack it yourself and name the folder (kind: path)"
        )


def _unpack_tar(path: Path, folder: Path) -> None:
    """Plain files and folders only, inside `folder`. (tarfile's own filter is missing before Python 3.11.4.)

    All members are looked at before the first is written, so that a refused archive leaves nothing.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            _check_member(path, member.name, member.isfile() or member.isdir())
        for member in archive:
            if member.isfile():
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.extractfile(member) as content, open(target, "wb") as file:
                    shutil.copyfileobj(content, file)


def choose(folder: Path, patterns: tuple[str, ...], name: str) -> list[Path]:
    """The files below `folder` that any pattern matches, sorted; hidden ones (DVC's .gitignore) never count."""
    try:
        matches = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    except (ValueError, NotImplementedError) as error:  # such as **.txt
        raise InputError(f"{name}: files: {error}; expected a glob such as texts/**/*.txt") from None
    chosen = sorted(path for path in matches if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not chosen:
        there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        raise InputError(
            f"{name}: expected files that match {' or '.join(patterns)}, found none among {len(there)} files"
            + (f" such as {', '.join(there[:3])}" if there else "")
        )
    return chosen


def compare(found: str, expected: str, name: str, size: int) -> None:
    """Raise InputError unless the two hashes are the same."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise InputError(f"{name}: expected a sha256 of 64 hex digits in params.yaml, found {expected!r}")
    if found != expected.lower():
        raise InputError(
            f"{name}: expected sha256 {expected.lower()}, found {found} ({size} bytes); it changed at its source or "
            "was damaged on the way: fetch again, or put the found hash into params.yaml if you trust what is there now"
        )


def hash_listing(folder: Path, chosen: list[Path], sha256_of=files.sha256_file) -> str:
    """The sha256 of what `sha256sum` prints for these files, names relative to the folder."""
    lines = (f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in chosen)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()  # a name need not be UTF-8


def wheel_licence(folder: Path) -> str | None:
    """What a wheel's metadata calls its licence, its classifier where that is all; None when it doesn't say or this is
    no wheel."""
    for metadata in folder.glob("*.dist-info/METADATA"):
        headers = email.parser.HeaderParser().parsestr(metadata.read_text(encoding="utf-8", errors="replace"))
        classes = [value for value in headers.get_all("Classifier", []) if value.startswith("License :: ")]
        classified = classes[0].rpartition(" :: ")[2] if classes else None
        licence = headers.get("License-Expression") or headers.get("License") or classified
        return " ".join(licence.split()[:12]) if licence else None  # some packages paste the whole licence here
    return None
