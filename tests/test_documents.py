"""Files as documents: text, JSON lines, Parquet, gzipped or not, and what is wrong with them."""

import gzip
import json
from pathlib import Path

import pytest

from prunelab import documents
from prunelab.errors import InputError
from prunelab.sources import Brought


def brought(folder: Path) -> Brought:
    return Brought(folder, sorted(path for path in folder.rglob("*") if path.is_file()), {"name": "the source"})


def read(folder: Path, strip="none", column="text", max_documents=None):
    return documents.read(brought(folder), strip, column, max_documents)


def test_each_text_file_is_a_document_named_by_its_path(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_bytes("Zwei\r\nZeilen é\n".encode())
    (tmp_path / "a.txt").write_text("\ufeffone", encoding="utf-8")
    assert read(tmp_path) == [("a.txt", "one"), ("b/two.txt", "Zwei\nZeilen é\n")]
    assert read(tmp_path, max_documents=1) == [("a.txt", "one")]


def test_markdown_is_stripped_when_asked(tmp_path):
    (tmp_path / "play.md").write_text("# Title\n\n**WHO**  \nWhat?\n")
    assert read(tmp_path, strip="markdown")[0].text == "Title\n\nWHO\nWhat?"
    assert read(tmp_path)[0].text == "# Title\n\n**WHO**  \nWhat?\n"


@pytest.mark.parametrize("kind", ["jsonl", "json.gz", "parquet"])
def test_rows_of_a_table_are_documents_also_the_empty_ones(tmp_path, kind):
    rows = [{"body": " = Title = \n", "n": 1}, {"body": "", "n": 2}, {"body": "last", "n": 3}]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    name = path.name
    assert read(tmp_path, column="body") == [(f"{name}#0", " = Title = \n"), (f"{name}#1", ""), (f"{name}#2", "last")]
    assert len(read(tmp_path, column="body", max_documents=2)) == 2
    with pytest.raises(InputError, match=r"text.*column 'n'|column 'n'.*body"):
        read(tmp_path, column="n")
    with pytest.raises(InputError, match=r"column 'text'.*found .*body"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"  \n\n", "a.txt: expected text, found an empty file"),
        ("a.txt", b"caf\xe9 au lait", "a.txt: expected UTF-8 text, found byte 0xe9"),
        ("a.txt.gz", b"not gzip at all", "a.txt.gz: expected a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"some text " * 1000)[:-20], "a.txt.gz: expected a whole gzip file"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl: expected JSON, one object a line, found line 2"),
        ("a.jsonl", b"[1, 2]\n", "line 1, found list"),
        ("a.jsonl", b"", "expected text, found 0 empty documents"),
        ("a.jsonl", b'{"text": ""}\n', "expected text, found 1 empty documents"),
        ("a.parquet", b"PAR1 no", "a.parquet: expected a Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_what_was_expected(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert message in str(caught.value)


def test_text_that_is_nothing_but_markdown_is_empty(tmp_path):
    (tmp_path / "a.md").write_text("# \n\n---\n")
    with pytest.raises(InputError, match="after its Markdown was stripped"):
        read(tmp_path, strip="markdown")
