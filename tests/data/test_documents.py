"""Files as documents: text, JSON lines, CSV, Parquet, gzipped or not, and what is wrong with them."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from prunelab.data import documents
from prunelab.data.sources import Brought
from prunelab.errors import InputError


def brought(folder: Path) -> Brought:
    return Brought(folder, sorted(path for path in folder.rglob("*") if path.is_file()), {"name": "the source"})


def read(folder: Path, strip="none", column=None, max_documents=None):
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


def table(folder: Path, kind: str, rows: list[dict]) -> str:
    """A table of `rows` as a file of this kind; its name."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path.name
    content = io.StringIO(newline="")
    if kind.startswith(("csv", "tsv")):
        writer = csv.DictWriter(content, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    else:
        content.writelines(json.dumps(row) + "\n" for row in rows)
    data = content.getvalue().encode()
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    return path.name


KINDS = ["jsonl", "ndjson", "json.gz", "csv", "csv.gz", "tsv", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_table_are_documents_also_the_empty_ones(tmp_path, kind):
    rows = [{"body": " = Title = \n", "n": 1}, {"body": "", "n": 2}, {"body": "last", "n": 3}]
    name = table(tmp_path, kind, rows)
    assert read(tmp_path, column="body") == [(f"{name}#0", " = Title = \n"), (f"{name}#1", ""), (f"{name}#2", "last")]
    assert len(read(tmp_path, column="body", max_documents=2)) == 2
    with pytest.raises(InputError, match=r"column 'text'.*found .*body"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_of_numbers_and_a_null_are_refused_by_type_in_every_kind_of_table(tmp_path, kind):
    table(tmp_path, kind, [{"body": "one", "n": 1}, {"body": None, "n": 2}])
    with pytest.raises(InputError, match=r"text.*column 'n'"):
        read(tmp_path, column="n")
    where = {"jsonl": "line 2", "parquet": "row 1"}[kind]
    with pytest.raises(InputError, match=rf"rows\.{kind}: expected a text in column 'body' of {where}, found null"):
        read(tmp_path, column="body")


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_read_with_the_line_ends_of_a_text_file(tmp_path, kind):
    odd = "one\u2028two\x85three"
    table(tmp_path, kind, [{"text": "\ufeffAct I\r\nScene\r\n"}, {"text": "old\rMac\n"}, {"text": odd}])
    (tmp_path / "same.txt").write_bytes("\ufeffAct I\r\nScene\r\n".encode())
    texts = [document.text for document in read(tmp_path)]
    assert texts == ["Act I\nScene\n", "old\nMac\n", odd, "Act I\nScene\n"]


def test_a_line_end_that_markdown_writes_as_an_entity_is_one_too(tmp_path):
    (tmp_path / "a.md").write_text("one&#13;&#10;two")
    assert read(tmp_path, strip="markdown")[0].text == "one\ntwo"


def test_a_csv_is_read_by_column_with_quotes_and_fields_of_any_length(tmp_path):
    long = "word " * 40_000
    (tmp_path / "x.csv").write_bytes(
        f'\ufeff"body",id\r\n"He said ""no"",\r\n\r\nand left",1\r\n\r\n{long},2\r\n'.encode()
    )
    assert read(tmp_path, column="body") == [("x.csv#0", 'He said "no",\n\nand left'), ("x.csv#1", long)]


def test_a_column_of_files_that_have_none_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("id,body\n1,one\n")
    with pytest.raises(InputError, match=r"the source: column 'body' is of a table, found a\.txt, which is plain text"):
        read(tmp_path, column="body")
    with pytest.raises(InputError, match="column 'text' is of a table"):
        read(tmp_path, column="text")
    (tmp_path / "b.jsonl").write_text('{"body": "one"}\n')
    assert len(read(tmp_path, column="body")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"  \n\n", "a.txt: expected text, found an empty file"),
        ("a.txt", b"caf\xe9 au lait", "a.txt: expected UTF-8 text, found byte 0xe9"),
        ("a.txt.gz", b"not gzip at all", "a.txt.gz: expected a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"some text " * 1000, mtime=0)[:-20], "a.txt.gz: expected a whole gzip file"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl: expected JSON, one object a line, found line 2"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": ', "found line 3: Expecting value at character 10"),
        ("a.jsonl", b'"words"\n', "column 'text' of line 1, found a text"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": 7}\n',
            "a.jsonl: expected a text in column 'text' of line 2, found a number",
        ),
        ("a.jsonl", b'{"text": "hello \\ud83d"}\n', "column 'text' of line 1, found half a character"),
        (
            "a.json",
            b'[\n {"text": "x"}\n]\n',
            "found line 1: a JSON array; write each of its entries on a line of its own",
        ),
        (
            "a.csv",
            b"id,body\n1,one\n",
            "a.csv: expected one text column 'text' in its first line, found ['id', 'body']",
        ),
        ("a.csv", b"text,text\n1,one\n", "found ['text', 'text']"),
        ("a.csv", b"id,text\n1,one, two\n", "a.csv: expected 2 fields as in its first line, found 3 in line 2"),
        ("a.csv", b'id,text\n1,"one\n2,two\n', "a.csv: expected fields separated by ','"),
        ("a.csv", b"", "a.csv: expected one text column 'text' in its first line, found []"),
        ("a.csv", b"id,text\n1,caf\xe9\n", "a.csv: expected UTF-8 text, found byte 0xe9 in line 2"),
        ("a.csv", b"id,text\n1,\n", "expected text, found 1 empty documents"),
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


def test_a_parquet_file_that_holds_no_utf_8_is_told_by_its_row(tmp_path):
    import pyarrow
    from pyarrow import parquet

    raw = pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary())
    parquet.write_table(pyarrow.table({"text": raw.view(pyarrow.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: expected UTF-8 text, found byte 0xe9 in row 1"):
        read(tmp_path)


def test_a_parquet_file_that_was_cut_is_told_in_a_line(tmp_path):
    name = table(tmp_path, "parquet", [{"text": f"{i} words" * 50} for i in range(500)])
    data = bytearray((tmp_path / name).read_bytes())
    data[4:400] = bytes(396)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.parquet: expected a whole Parquet file"):
        read(tmp_path)


def test_every_way_in_which_parquet_stores_texts_is_read_and_others_are_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    def written(texts):
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")

    words = ["one", "two\r\n", "one"]
    plain = pyarrow.array(words)
    for texts in (plain, plain.cast(pyarrow.large_string()), pyarrow.array(words, pyarrow.string_view())):
        written(texts)
        assert [document.text for document in read(tmp_path)] == ["one", "two\n", "one"]
    written(plain.dictionary_encode())  # pandas' categories
    assert [document.text for document in read(tmp_path)] == ["one", "two\n", "one"]
    written(pyarrow.array([b"one"]))
    with pytest.raises(InputError, match=r"a\.parquet: expected a text column 'text', found text \(binary\)$"):
        read(tmp_path)
