"""One way to read what a user wrote: text files and tables of JSON lines, for training, calibration and questions.

UTF-8, gzipped or not, with or without a byte order mark. Every kind of line end (\\r\\n, \\r) becomes \\n, and nothing
else ends a line: U+2028 or U+0085 inside a text stays in it. Whatever is no text is refused by file and line.
"""

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunelab.errors import InputError

BOM = "\ufeff"
UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its byte order marks, as bytes that are no UTF-8 are read here
COMPLAINT = "{name}: expected JSON, one object a line, found line {number}: {reason}"
_HALF = re.compile("[\ud800-\udfff]")


def whole(path: Path, name: str) -> str:
    """The text of a file. Raises InputError, which calls it `name`, when it is no UTF-8."""
    return "".join(lines(path, name))


def lines(path: Path, name: str) -> Iterator[str]:
    """The lines of a text file, each with its \\n but perhaps the last. Raises InputError as `whole` does."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with _whole_gzip(name), opened(path, "rt", encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            _refuse_bytes(line, name, number)
            yield line.lstrip(BOM) if number == 1 else line


def json_lines(path: Path, name: str, complaint: str = COMPLAINT) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line of a JSON lines file; blank lines count as lines and are left out.

    Raises InputError for a line that is no JSON, and for a file that is one array; `complaint` is its line, to be
    filled with `name`, `number` and `reason`.
    """
    for number, line in enumerate(lines(path, name), start=1):
        line = line.lstrip(BOM)  # files with a mark each, one behind the other
        if not line.strip():
            continue
        try:
            if line.lstrip().startswith("["):
                raise ValueError("a JSON array; write each of its entries on a line of its own (jq -c '.[]')")
            value = json.loads(line.rstrip("\n"))
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, brackets without end
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise InputError(complaint.format(name=name, number=number, reason=reason)) from None
        yield number, value


def text(value, expected: str) -> str:
    """`value` as a text with \\n at its line ends and no byte order mark.

    Raises InputError when it is none; `expected` begins its line, such as "x.jsonl: expected a text in line 1".
    """
    if not isinstance(value, str):
        raise InputError(f"{expected}, found {kind(value)}")
    if not value.isascii() and (half := _HALF.search(value)):
        raise InputError(
            f"{expected}, found half a character (a lone surrogate, U+{ord(half[0]):04X}) at character "
            f"{half.start() + 1}; write the text again as UTF-8"
        )
    return value.replace("\r\n", "\n").replace("\r", "\n").lstrip(BOM)


def kind(value) -> str:
    """What JSON calls the type of a value."""
    names = {bool: "true or false", type(None): "null", int: "a number", float: "a number", str: "a text"}
    return (names | {list: "an array", dict: "an object"}).get(type(value), type(value).__name__)


def _refuse_bytes(line: str, name: str, number: int) -> None:
    if line.startswith(UTF16):
        raise InputError(f"{name}: expected UTF-8 text, found the byte order mark of UTF-16; save it as UTF-8")
    if not line.isascii() and (bad := _HALF.search(line)):
        raise InputError(
            f"{name}: expected UTF-8 text, found byte 0x{ord(bad[0]) - 0xDC00:02x} in line {number}; save it as UTF-8"
        )
    if "\0" in line:
        raise InputError(f"{name}: expected UTF-8 text, found byte 0x00 in line {number}, as in UTF-16 or no text")


@contextlib.contextmanager
def _whole_gzip(name: str):
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: expected a whole gzip file, found: {error}") from None
