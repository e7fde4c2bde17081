"""Files as documents: a text file is one, each row of a table (JSON lines, CSV, Parquet) is one. Plain or gzipped."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prunelab.data import markdown, reading, turns
from prunelab.errors import InputError

JSON_LINES = (".jsonl", ".ndjson", ".json")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLES = (*JSON_LINES, *SEPARATORS, ".parquet")
# What counts as text where a study names no files. A lone .json is more often a config than a table, and a lone .csv
# more often what is said about the texts beside it.
DEFAULT_FILES = tuple(f"**/*{end}" for end in (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz", ".parquet"))
COLUMN = "text"  # of a table, where the study names none
LONGEST_FIELD = 2**31 - 1  # characters in a field of a CSV; its reader stops at 131,072 otherwise


class Document(NamedTuple):
    name: str  # the file inside its source; for a row of a table file#number
    text: str


def read(brought, strip: str, column: str | None, max_documents: int | None) -> list[Document]:
    """The documents in `sources.Brought` files, in the order of their names, at most `max_documents`.

    `strip` is "markdown", "turns" or "none", `column` the text column of tables (None: `text`). Texts are read as
    `reading` says: \\n at line ends, no byte order mark. A text file must hold text; rows count also when they are
    empty, because published protocols count them. Raises InputError for what is no text, a row's null included, and for
    a `column` of files that have none.
    """
    names = [path.relative_to(brought.folder).as_posix() for path in brought.files]
    if column is not None and not any(_kind(name) in TABLES for name in names):
        raise InputError(
            f"{brought.facts['name']}: column {column!r} is of a table, found {names[0]}, which is plain text; leave "
            f"column out, or give it a table ({', '.join(TABLES)})"
        )
    documents = []
    for path, name in zip(brought.files, names, strict=True):
        for document in _read_file(path, name, column or COLUMN):
            text = document.text
            if strip == "markdown":
                # Read once more, because `&#13;` is a line end too.
                text = reading.text(markdown.strip(text), f"{name}: expected a text")
            elif strip == "turns":
                text = turns.strip(text, name)
            documents.append(document._replace(text=text))
            if document.name == name and not text.strip():
                raise InputError(f"{name}: expected text, found an empty file" + _after(strip))
            if len(documents) == max_documents:
                return documents
    if not any(document.text.strip() for document in documents):
        raise InputError(
            f"{brought.facts['name']}: expected text, found {len(documents)} empty documents" + _after(strip)
        )
    return documents


def _after(strip: str) -> str:
    return {"markdown": " (after its Markdown was stripped)", "turns": " (no turn of a conversation in it)"}.get(
        strip, ""
    )


def _kind(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _read_file(path: Path, name: str, column: str) -> Iterator[Document]:
    kind = _kind(name)
    if kind not in TABLES:
        yield Document(name, reading.whole(path, name))
        return
    if kind == ".parquet":
        rows = _parquet(path, name, column)
    elif kind in SEPARATORS:
        rows = _separated(path, name, column, SEPARATORS[kind])
    else:
        rows = _json_lines(path, name, column)
    for number, (where, value) in enumerate(rows):
        text = reading.text(value, f"{name}: expected a text in column {column!r} of {where}")
        yield Document(f"{name}#{number}", text)


def _json_lines(path: Path, name: str, column: str) -> Iterator[tuple[str, object]]:
    """(where it stands, value) of each row, as the next two."""
    for number, row in reading.json_lines(path, name):
        if not isinstance(row, dict) or column not in row:
            keys = sorted(row) if isinstance(row, dict) else reading.kind(row)
            raise InputError(f"{name}: expected a text in column {column!r} of line {number}, found {keys}")
        yield f"line {number}", row[column]


def _separated(path: Path, name: str, column: str, separator: str) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(LONGEST_FIELD)
    # strict: a quote that is never closed would swallow all further rows.
    rows = csv.reader(reading.lines(path, name), delimiter=separator, strict=True)
    try:
        header = next((row for row in rows if row), [])
        if header.count(column) != 1:
            raise InputError(f"{name}: expected one text column {column!r} in its first line, found {header}")
        place = header.index(column)
        for row in rows:
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{name}: expected {len(header)} fields as in its first line, found {len(row)} in line "
                    f"{rows.line_num}; a text that holds {separator!r} needs quotes around it"
                )
            yield f"line {rows.line_num}", row[place]
    except csv.Error as error:
        expected = f"{name}: expected fields separated by {separator!r}"
        raise InputError(f"{expected}, found line {rows.line_num}: {error}") from None


def _parquet(path: Path, name: str, column: str) -> Iterator[tuple[str, object]]:
    from pyarrow import ArrowException, parquet, types

    try:
        table = parquet.ParquetFile(path)
    except ArrowException as error:
        raise InputError(f"{name}: expected a Parquet file, found: {error}") from None
    schema = table.schema_arrow
    kind = schema.field(column).type if column in schema.names else None
    if kind is not None and types.is_dictionary(kind):  # pandas' categories
        kind = kind.value_type
    if kind is None or not any(
        is_text(kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view)
    ):
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise InputError(f"{name}: expected a text column {column!r}, found {found}")
    number = 0
    try:
        for batch in table.iter_batches(columns=[column]):
            for value in batch.column(0):
                yield f"row {number}", value.as_py()
                number += 1
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{name}: expected UTF-8 text, found byte 0x{byte:02x} in row {number}") from None
    except (ArrowException, OSError) as error:
        raise InputError(f"{name}: expected a whole Parquet file, found: {error}; fetch it again") from None
