"""One way to read what a user wrote: text files and tables of JSON lines, for training, calibration and questions.

UTF-8 (a table of prices may say otherwise), gzipped or not, with or without a byte order mark. Every kind of line end
(\\r\\n, \\r) becomes \\n, and nothing else ends a line: U+2028 or U+0085 inside a text stays in it. Whatever is no text
is refused by file and line.
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
UTF8, CURE = "utf-8", "save it as UTF-8"
UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its byte order marks, as bytes that are no UTF-8 are read here
COMPLAINT = "{name}: expected JSON, one object a line, found line {number}: {reason}"
_HALF = re.compile("[\ud800-\udfff]")


def whole(path: Path, name: str) -> str:
    """The text of a file. Raises InputError, which calls it `name`, when it is no UTF-8."""
    return "".join(lines(path, name))


def lines(path: Path, name: str, encoding: str = UTF8, cure: str = CURE) -> Iterator[str]:
    """The lines of a text file, each with its \\n but perhaps the last.

    Raises InputError as `whole` does, for another encoding likewise; `cure` says what helps.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    with _whole_gzip(name), opened(path, "rt", encoding=encoding, errors="surrogateescape") as file:
        try:
            for number, line in enumerate(file, start=1):
                _refuse_bytes(line, name, number, encoding, cure)
                yield line.lstrip(BOM) if number == 1 else line
        except UnicodeError as error:  # of encodings that have no escape for single bytes, such as UTF-16
            raise InputError(
                f"{name}: expected {encoding.upper()} text, found after line {number}: {error}; {cure}"
            ) from None


def json_lines(
    path: Path, name: str, complaint: str = COMPLAINT, encoding: str = UTF8, object_pairs_hook=None
) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line of a JSON lines file; blank lines count as lines and are left out.

    Raises InputError for a line that is no JSON, and for a file that is one array; `complaint` is its line, to be
    filled with `name`, `number` and `reason`. `object_pairs_hook` is that of json.loads, its ValueError a reason.
    """
    for number, line in enumerate(lines(path, name, encoding), start=1):
        line = line.lstrip(BOM)  # files with a mark each, one behind the other
        if not line.strip():
            continue
        try:
            if line.lstrip().startswith("["):
                raise ValueError("a JSON array; write each of its entries on a line of its own (jq -c '.[]')")
            value = json.loads(line.rstrip("\n"), object_pairs_hook=object_pairs_hook)
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


def _refuse_bytes(line: str, name: str, number: int, encoding: str, cure: str) -> None:
    expected = f"{name}: expected {encoding.upper()} text, found"
    if line.startswith(UTF16):
        raise InputError(f"{expected} the byte order mark of UTF-16; {cure}")
    if not line.isascii() and (bad := _HALF.search(line)):
        raise InputError(f"{expected} byte 0x{ord(bad[0]) - 0xDC00:02x} in line {number}; {cure}")
    if "\0" in line:
        raise InputError(f"{expected} byte 0x00 in line {number}, as in UTF-16 or no text")


@contextlib.contextmanager
def _whole_gzip(name: str):
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: expected a whole gzip file, found: {error}") from None
