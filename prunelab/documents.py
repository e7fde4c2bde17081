"""Files as documents: a text file is one, each row of a table (JSON lines, Parquet) is one. Plain or gzipped."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prunelab import markdown
from prunelab.errors import InputError

TABLES = (".jsonl", ".json", ".parquet")
# What counts as text where a study names no files. A lone .json is more often a config than a table.
DEFAULT_FILES = tuple(f"**/*{end}" for end in (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz", ".parquet"))


class Document(NamedTuple):
    name: str  # the file inside its source; for a row of a table file#number
    text: str


def read(brought, strip: str, column: str, max_documents: int | None) -> list[Document]:
    """The documents in `sources.Brought` files, in the order of their names, at most `max_documents`.

    `strip` is "markdown" or "none", `column` the text column of tables. A text file must hold text (line ends become
    \\n); rows are taken as they are, also empty ones, because published protocols count them.
    """
    documents = []
    for path in brought.files:
        name = path.relative_to(brought.folder).as_posix()
        for document in _read_file(path, name, column):
            text = markdown.strip(document.text) if strip == "markdown" else document.text
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
    return " (after its Markdown was stripped)" if strip == "markdown" else ""


def _read_file(path: Path, name: str, column: str) -> Iterator[Document]:
    kind = Path(name.removesuffix(".gz")).suffix.lower()
    with _readable(name):
        if kind == ".parquet":
            yield from _parquet(path, name, column)
        elif kind in TABLES:
            with _open(path) as lines:
                yield from _json_lines(lines, name, column)
        else:
            with _open(path) as file:
                yield Document(name, file.read())


def _open(path: Path):
    # utf-8-sig: a byte order mark at the start is no part of the text.
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig")


@contextlib.contextmanager
def _readable(name: str):
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: expected a whole gzip file, found: {error}") from None


def _json_lines(lines, name: str, column: str) -> Iterator[Document]:
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{name}: expected JSON, one object a line, found line {number + 1}: {error}") from None
        keys = sorted(row) if isinstance(row, dict) else type(row).__name__
        if column not in keys or not isinstance(row[column], str):
            raise InputError(f"{name}: expected a text in column {column!r} of line {number + 1}, found {keys}")
        yield Document(f"{name}#{number}", row[column])


def _parquet(path: Path, name: str, column: str) -> Iterator[Document]:
    from pyarrow import ArrowInvalid, parquet, types

    try:
        table = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise InputError(f"{name}: expected a Parquet file, found: {error}") from None
    schema = table.schema_arrow
    is_text = column in schema.names and any(
        check(schema.field(column).type) for check in (types.is_string, types.is_large_string)
    )
    if not is_text:
        raise InputError(f"{name}: expected a text column {column!r}, found {', '.join(map(str, schema))}")
    rows = (value.as_py() for batch in table.iter_batches(columns=[column]) for value in batch.column(0))
    for number, text in enumerate(rows):
        yield Document(f"{name}#{number}", text or "")
