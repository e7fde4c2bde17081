"""Tables that are another than the settings say: one line that names the file and what to do."""

from pathlib import Path

import pytest

from prunelab.errors import InputError
from prunelab.tasks.price.bringing import tables
from tests.tasks.price.shop import settings


def read(path: Path, **changed) -> list[tables.Raw]:
    return list(tables.read(path, path.name, settings(path.parent, **changed).price))


def table(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_know_their_line_and_number(tmp_path):
    found = read(table(tmp_path, 'file,name,cost\n\n1.png,"a, b\nc",2\n2.png, d ,3\n'))
    assert [(raw.where, raw.number) for raw in found] == [("rows.csv, line 4", 1), ("rows.csv, line 5", 2)]
    assert found[0].values == {"file": "1.png", "name": "a, b\nc", "cost": "2"}
    assert found[1].values["name"] == "d"


@pytest.mark.parametrize(("other", "shown"), [(";", "';'"), ("\t", r"'\\t'"), ("|", r"'\|'"), (" ", "'whitespace'")])
def test_another_delimiter_is_told_by_the_header(tmp_path, other, shown):
    path = table(tmp_path, f"file{other}name{other}cost\n1.png{other}a{other}2\n")
    with pytest.raises(InputError, match=rf"rows\.csv: expected columns separated by ',', found 1 .* 3 if {shown}"):
        read(path)
    delimiter = "whitespace" if other == " " else other
    assert read(path, delimiter=delimiter)[0].values == {"file": "1.png", "name": "a", "cost": "2"}


def test_another_delimiter_is_told_where_the_settings_name_the_columns(tmp_path):
    path = table(tmp_path, "1.png;a;2\n", "rows.txt")
    with pytest.raises(InputError, match=r"rows\.txt, line 1: expected 3 fields as in price\.header, found 1; .* ';'"):
        read(path, header=["file", "name", "cost"])


def test_a_row_of_another_length_is_told(tmp_path):
    path = table(tmp_path, "file,name,cost\n1.png,a,2\n2.png,red, blue,3\n")
    with pytest.raises(
        InputError, match=r"rows\.csv, line 3: expected 3 fields as in its first line, found 4; .* quotes"
    ):
        read(path)


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path):
    with pytest.raises(InputError, match=r"rows\.csv: expected fields separated by ','"):
        read(table(tmp_path, 'file,name,cost\n1.png,"a,2\n2.png,b,3\n'))


def test_another_encoding_is_told_and_can_be_said(tmp_path):
    path = table(tmp_path, "file,name,cost\n1.png,café,2\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"expected UTF-8 text, found byte 0xe9 in line 2; .* price\.encoding"):
        read(path)
    assert read(path, encoding="latin-1")[0].values["name"] == "café"
    wide = table(tmp_path, "file,name,cost\n1.png,café,2\n".encode("utf-16"), "wide.csv")
    with pytest.raises(InputError, match=r"found the byte order mark of UTF-16; .* price\.encoding"):
        read(wide)
    assert read(wide, encoding="utf-16")[0].values["name"] == "café"
    with pytest.raises(InputError, match=r"expected UTF-16 text, found after line 0"):
        read(path, encoding="utf-16")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "file,name,cost,name\n1.png,a,2,b\n"),
        ("rows.jsonl", '{"file":"1","name":"a","cost":2,"name":"b"}\n'),
    ],
)
def test_two_columns_of_one_name_are_told(tmp_path, name, content):
    with pytest.raises(InputError, match=rf"{name}: expected .*'name'.*(2 times|twice)"):
        read(table(tmp_path, content, name))


def test_two_columns_of_one_name_in_parquet_are_told(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array(["a"])] * 4
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["file", "name", "name", "cost"]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: expected every column once, found 'name' 2 times"):
        read(tmp_path / "rows.parquet")


def test_columns_without_a_name_are_nobody_s(tmp_path):
    found = read(table(tmp_path, "file,name,cost,,\n1.png,a,2,,\n"))
    assert found[0].values == {"file": "1.png", "name": "a", "cost": "2"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "{picture} {nme}"}, "price.prompt: there is no column 'nme' in rows.csv (did you mean 'name'?)"),
        ({"answer": "{colour}: {price}"}, "price.answer: there is no column 'colour' in rows.csv; it has: file"),
        ({"tabular": ["costs"]}, "price.tabular: there is no column 'costs' in rows.csv (did you mean 'cost'?)"),
        (
            {"columns": {"picture": "{rows}.png", "price": "cost", "item": None}},
            "price.columns.picture: there is no column 'rows' in rows.csv",
        ),
        (
            {"columns": {"picture": "file", "price": "price", "item": None}},
            "price.columns.price: there is no column 'price' in rows.csv",
        ),
        (
            {"columns": {"picture": "file", "price": "cost", "item": "sku"}},
            "price.columns.item: there is no column 'sku' in rows.csv",
        ),
    ],
)
def test_a_column_that_is_not_there_is_told_with_its_setting_before_a_row_is_read(tmp_path, changed, told):
    with pytest.raises(InputError) as error:
        next(tables.read(*_named(table(tmp_path, "file,name,cost\n1.png,a,2\n")), settings(tmp_path, **changed).price))
    assert str(error.value).startswith(told)


def _named(path: Path) -> tuple[Path, str]:
    return path, path.name


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.jsonl", "[1, 2]\n", "a JSON array"),
        ("rows.jsonl", "3\n", "rows.jsonl, line 1: expected an object, found a number"),
        ("rows.jsonl", "{file: 1}\n", "rows.jsonl: expected JSON, one object a line, found line 1"),
        ("rows.parquet", "no parquet", "rows.parquet: expected a Parquet file, found"),
        ("rows.xlsx", "PK", "rows.xlsx: expected a table (.csv, .tsv, .tab, .txt, .jsonl"),
        ("rows.csv.gz", "file,name", "rows.csv.gz: expected a whole gzip file, found"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, name, content, told):
    with pytest.raises(InputError) as error:
        read(table(tmp_path, content, name))
    assert told in str(error.value)
