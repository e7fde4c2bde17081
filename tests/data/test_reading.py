"""One way to read text: encodings, marks, line ends, blank lines and halves of characters, by file and line."""

import gzip
import json

import pytest

from prunelab.data import reading
from prunelab.errors import InputError

ODD = "a\u2028b\x85c\x1cd\x0ce\x0bf\u2029g"  # what str.splitlines takes for line ends, and nobody else does


def put(folder, content: bytes, name="x.txt"):
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"one\r\ntwo\rthree\n\r\n", "one\ntwo\nthree\n\n"),
        ("\ufeffone\n".encode(), "one\n"),
        ("\ufeff\ufeffone".encode(), "one"),
        (ODD.encode(), ODD),
        ("é 中 🎉\n".encode(), "é 中 🎉\n"),
        (b"", ""),
    ],
)
def test_a_text_has_one_kind_of_line_end_and_no_mark(tmp_path, name, content, text):
    assert reading.whole(put(tmp_path, content, name), name) == text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{}\ncaf\xe9 au lait", "byte 0xe9 in line 2; save it as UTF-8"),
        (b"{}\r\nhalf \xed\xa0\xbd", "byte 0xed in line 2"),
        ("text".encode("utf-16"), "the byte order mark of UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + "text".encode("utf-16-be"), "the byte order mark of UTF-16"),
        ("text".encode("utf-16-le"), "byte 0x00 in line 1"),
        (b"\xff", "byte 0xff in line 1"),
    ],
)
def test_what_is_no_utf_8_is_told_by_its_byte_and_line(tmp_path, content, found):
    with pytest.raises(InputError) as caught:
        reading.whole(put(tmp_path, content), "x.txt")
    assert str(caught.value).startswith(f"x.txt: expected UTF-8 text, found {found}")
    with pytest.raises(InputError, match="x: expected UTF-8 text, found"):
        list(reading.json_lines(put(tmp_path, content), "x"))


def test_lines_of_json_are_numbered_as_an_editor_does_and_blank_ones_left_out(tmp_path):
    content = '\ufeff{"a": 1}\r\n\r\n \t\n\ufeff{"a": "x\u2028y\x85z"}\n\n'.encode()
    assert list(reading.json_lines(put(tmp_path, content), "x")) == [(1, {"a": 1}), (4, {"a": "x\u2028y\x85z"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": ', "Expecting value at character 7"),
        ("words", "Expecting value at character 1"),
        ("[1, 2]", "a JSON array; write each of its entries on a line of its own"),
        ("[", "a JSON array"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": ' * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_line_that_is_no_json_is_told_with_one_line_number(tmp_path, line, reason):
    with pytest.raises(InputError) as caught:
        list(reading.json_lines(put(tmp_path, f"{{}}\n\n{line}\n".encode()), "x.jsonl"))
    assert str(caught.value).startswith("x.jsonl: expected JSON, one object a line, found line 3: ")
    assert reason in str(caught.value) and str(caught.value).count("line 3") == 1 and "line 1" not in str(caught.value)


def test_a_text_of_a_row_is_read_as_that_of_a_file():
    assert reading.text("\ufeffone\r\ntwo\rthree\n" + ODD, "") == "one\ntwo\nthree\n" + ODD
    assert reading.text(json.loads('"\\ud83c\\udf89"'), "") == "🎉"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("hello \ud83d", "half a character (a lone surrogate, U+D83D) at character 7"),
        (None, "null"),
        (3, "a number"),
        (2.5, "a number"),
        (True, "true or false"),
        (["x"], "an array"),
        ({"x": 1}, "an object"),
    ],
)
def test_what_is_no_text_is_told_by_its_type(value, found):
    with pytest.raises(InputError) as caught:
        reading.text(value, "x.jsonl: expected a text in line 1")
    assert str(caught.value).startswith(f"x.jsonl: expected a text in line 1, found {found}")
