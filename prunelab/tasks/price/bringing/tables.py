"""Tables of rows, whatever they are stored as: CSV and its kin, JSON lines, Parquet. Plain or gzipped.

What is wrong with a table as a whole (another delimiter or encoding, two columns of one name, a column that the
settings name and that is not there) is an InputError; what is wrong with one row is for `rows`.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.data import documents, reading
from prunelab.errors import InputError
from prunelab.study.pricing import WHITESPACE, require_columns

BY_NAME = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": WHITESPACE}  # delimiters
DEFAULT_FILES = tuple(f"**/*{end}" for end in (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet"))
CANDIDATES = (",", ";", "\t", "|", WHITESPACE)  # which may have been meant where the one that was expected isn't there


class Raw(NamedTuple):
    where: str  # for people: "rows.csv, line 7"
    number: int  # of the row in its table, from 1, lines of a header not counted
    values: dict[str, Any]


def read(path: Path, name: str, price) -> Iterator[Raw]:
    """The rows of the table at `path`, which messages call `name`, read as the settings `price` say.

    Raises InputError for what is no such table, and for one without a column that the settings name.
    """
    kind = Path(name.lower().removesuffix(".gz")).suffix
    if kind == ".parquet":
        yield from _parquet(path, name, price)
    elif kind in documents.JSON_LINES:
        yield from _json_lines(path, name, price)
    elif kind in BY_NAME or price.delimiter:
        yield from _separated(path, name, price, price.delimiter or BY_NAME[kind])
    else:
        known = ", ".join((*BY_NAME, *documents.JSON_LINES, ".parquet"))
        raise InputError(f"{name}: expected a table ({known}), found {kind or 'no ending'}; say price.delimiter")


def require(price, columns: list[str], name: str) -> None:
    """Raises InputError for a column that stands there twice, or that the settings name and that is not there."""
    doubled = sorted({column for column in columns if column and columns.count(column) > 1})
    if doubled:
        raise InputError(f"{name}: expected every column once, found {doubled[0]!r} {columns.count(doubled[0])} times")
    try:
        require_columns(price, columns, name)
    except ValueError as error:
        raise InputError(f"price.{error}") from None


def _separated(path: Path, name: str, price, delimiter: str) -> Iterator[Raw]:
    given = price.header is not None
    header = price.header
    for number, (line, fields) in enumerate(_fields(path, name, price.encoding, delimiter), start=int(given)):
        fields = [field.strip() for field in fields]
        if header is None:
            header = fields
            _require_delimiter(path, name, price, delimiter, header)
            require(price, header, name)
            continue
        if len(fields) != len(header):
            expected = f"{len(header)} fields as in {'price.header' if given else 'its first line'}"
            other = _other(path, name, price.encoding, delimiter, len(header), line)
            cure = (
                f"they seem separated by {other!r}: set price.delimiter"
                if other
                else f"a text that holds {delimiter!r} needs quotes around it"
            )
            raise InputError(f"{name}, line {line}: expected {expected}, found {len(fields)}; {cure}")
        yield Raw(f"{name}, line {line}", number, {k: v for k, v in zip(header, fields, strict=True) if k})


def _fields(path: Path, name: str, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank."""
    lines = reading.lines(path, name, encoding, "save it as UTF-8, or say in price.encoding what it is")
    if delimiter == WHITESPACE:
        yield from ((line, text.split()) for line, text in enumerate(lines, start=1) if text.strip())
        return
    csv.field_size_limit(documents.LONGEST_FIELD)
    # strict: a quote that is never closed would swallow all further rows.
    found = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
    try:
        for fields in found:
            if any(field.strip() for field in fields):
                yield found.line_num, fields
    except csv.Error as error:
        expected = f"{name}: expected fields separated by {delimiter!r}"
        raise InputError(f"{expected}, found line {found.line_num}: {error}") from None


def _require_delimiter(path: Path, name: str, price, delimiter: str, header: list[str]) -> None:
    """Raises InputError where another delimiter makes the header hold more of the columns that the settings name."""
    wanted = set(price.used())
    if wanted <= set(header):
        return
    for other in CANDIDATES:
        if other == delimiter:
            continue
        first = next(_split(path, name, price.encoding, other))[1]
        if len(wanted & set(first)) > len(wanted & set(header)):
            raise InputError(
                f"{name}: expected columns separated by {delimiter!r}, found {len(header)} in its first line, and "
                f"{len(first)} if {other!r} separates them; set price.delimiter"
            )


def _other(path: Path, name: str, encoding: str, delimiter: str, count: int, line: int) -> str | None:
    """A delimiter that gives line `line` of the table `count` fields, where `delimiter` does not."""
    for other in CANDIDATES:
        if other != delimiter:
            found = next((fields for at, fields in _split(path, name, encoding, other) if at == line), [])
            if len(found) == count:
                return other
    return None


def _split(path: Path, name: str, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """As `_fields`, without minding quotes: for guesses alone."""
    for number, line in enumerate(reading.lines(path, name, encoding), start=1):
        fields = line.split() if delimiter == WHITESPACE else line.split(delimiter)
        yield number, [field.strip().strip('"') for field in fields]


def _json_lines(path: Path, name: str, price) -> Iterator[Raw]:
    encoding = price.encoding
    checked = False
    found = reading.json_lines(path, name, encoding=encoding, object_pairs_hook=_distinct)
    for number, (line, row) in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {line}: expected an object, found {reading.kind(row)}")
        if not checked:  # a later row without one of them is a bad row, and no bad table
            require(price, list(row), f"{name} (its first line)")
            checked = True
        yield Raw(f"{name}, line {line}", number, row)


def _distinct(pairs: list[tuple[str, Any]]) -> dict:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"every column once is expected, {next(k for k in keys if keys.count(k) > 1)!r} is there twice"
        )
    return row


def _parquet(path: Path, name: str, price) -> Iterator[Raw]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(path)
    except ArrowException as error:
        raise InputError(f"{name}: expected a Parquet file, found: {error}") from None
    columns = table.schema_arrow.names
    require(price, columns, name)
    number = 0
    try:
        for batch in table.iter_batches(columns=[column for column in price.used() if column in columns]):
            for values in batch.to_pylist():
                number += 1
                yield Raw(f"{name}, row {number}", number, values)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{name}: expected UTF-8 text, found byte 0x{byte:02x} after row {number}") from None
    except (ArrowException, OSError) as error:
        raise InputError(f"{name}: expected a whole Parquet file, found: {error}; fetch it again") from None
