"""Splits without leaks, joined as published, described by a manifest."""

import csv
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest

from prunelab.data import text
from prunelab.data.documents import Document
from prunelab.disk.files import read_json, read_text
from prunelab.errors import InputError
from prunelab.study.params import Split, Text
from prunelab.tasks.language import crops


def split(by="document", validation_percent=10, test_percent=10, characters=None, seed=7) -> Split:
    return Split(
        by=by, validation_percent=validation_percent, test_percent=test_percent, train_characters=characters, seed=seed
    )


def plays(count: int, length: int = 1000) -> list[Document]:
    """Documents of about `length` characters, each with lines that no other has."""
    return [Document(f"{i:03}.md", f"play {i} line\n" * (length // 14 + i)) for i in range(count)]


def folder_source(folder: Path, **other) -> Text:
    return Text(kind="path", name=str(folder), **other)


@pytest.mark.parametrize("seed", range(20))
def test_no_document_is_in_two_parts_and_none_is_lost(seed):
    whole = plays(38)
    parts = text.by_document(whole, 10, 10, seed)
    names = [document.name for part in parts.values() for document in part]
    assert sorted(names) == [document.name for document in whole]
    lines = {part: {line for one in content for line in one.text.splitlines()} for part, content in parts.items()}
    assert not any(lines[a] & lines[b] for a in lines for b in lines if a != b)


def test_parts_come_as_near_to_their_percent_as_whole_documents_allow():
    whole = plays(100)
    parts = text.by_document(whole, 10, 20, 3)
    sizes = {part: sum(len(document.text) for document in content) for part, content in parts.items()}
    total, largest = sum(sizes.values()), max(len(document.text) for document in whole)
    assert abs(sizes["validation"] - total * 0.10) <= largest / 2
    assert abs(sizes["test"] - total * 0.20) <= largest / 2


@pytest.mark.parametrize("characters", [1, 4, 5, 6, 7, 10, 12])
def test_the_first_characters_are_the_head_of_all_documents_joined(characters):
    whole = [Document("a", "abcd"), Document("b", "efghij")]
    joined = text.JOIN.join(document.text for document in text.first(whole, characters, "x"))
    head = "abcd\n\nefghij"[:characters]
    assert joined == (head if characters > 6 else "abcd"[:characters])  # no document of nothing behind the blank line


def test_only_the_training_part_is_cut_and_one_that_is_too_short_is_told(tmp_path):
    (tmp_path / "play.txt").write_text("".join(f"line {number}\n" for number in range(500)))
    source = folder_source(tmp_path / "play.txt")
    whole = text.prepare(source, split("position"), tmp_path / "whole")["parts"]
    cut = text.prepare(source, split("position", characters=1000), tmp_path / "cut")["parts"]
    assert cut["train"]["characters"] == 1000 and whole["train"]["characters"] > 3000
    assert cut["validation"]["sha256"] == whole["validation"]["sha256"] and cut["test"] == whole["test"] | {
        "characters_unseen_in_train": cut["test"]["characters_unseen_in_train"]
    }
    assert (tmp_path / "whole/train.txt").read_text().startswith((tmp_path / "cut/train.txt").read_text())
    found = whole["train"]["characters"]
    with pytest.raises(InputError, match=f"train_characters: 99999, but the training part of .*play.txt has {found};"):
        text.prepare(source, split("position", characters=99_999), tmp_path / "short")


def test_the_split_hangs_on_the_seed_and_not_on_the_order_of_reading():
    whole = plays(38)
    first = text.by_document(whole, 10, 10, 7)
    again = text.by_document(whole[::-1], 10, 10, 7)
    assert {part: {d.name for d in first[part]} for part in first} == {p: {d.name for d in again[p]} for p in again}
    assert text.by_document(whole, 10, 10, 8) != first
    # The order within a part is that of the source.
    assert all(a.name < b.name for content in first.values() for a, b in pairwise(content))


def test_a_document_that_is_there_twice_counts_once_so_that_its_copy_cannot_leak():
    whole = [*plays(6), Document("copy.md", plays(6)[0].text)]
    parts = text.by_document(whole, 20, 20, 1)
    contents = [document.text for part in parts.values() for document in part]
    assert len(contents) == len(set(contents)) == 6


def test_each_part_gets_a_document_even_if_one_is_larger_than_its_percent():
    parts = text.by_document(plays(3), 1, 1, 0)
    assert [len(parts[part]) for part in text.PARTS] == [1, 1, 1]


def test_position_cuts_where_nanogpt_does():
    whole = [Document("input.txt", "x" * 1_115_394)]
    parts = text.by_position(whole, 10, 0)
    assert {part: len(content[0].text) for part, content in parts.items()} == {
        "train": 1_003_854,
        "validation": 111_540,
    }
    assert parts["validation"][0].name == "characters 1003854 to 1115394"
    parts = text.by_position([Document("a", "0123456789"), Document("b", "abcdefgh")], 25, 25)
    assert [parts[part][0].text for part in text.PARTS] == ["0123456789", "\n\nabc", "defgh"]


def test_files_with_a_split_of_their_own_keep_it():
    whole = [
        Document("wikitext-2-raw-v1/test-00000-of-00001.parquet#0", "t"),
        Document("en/c4-train.00000-of-01024.json.gz#3", "a"),
        Document("train/validation.txt", "v"),
    ]
    assert {part: [d.text for d in content] for part, content in text.by_file(whole).items()} == {
        "test": ["t"],
        "train": ["a"],
        "validation": ["v"],
    }
    with pytest.raises(InputError, match=r"contest\.txt: expected train, validation or test in the file's name"):
        text.by_file([Document("contest.txt", "x")])


@pytest.mark.parametrize(
    ("whole", "how", "missing"),
    [
        (plays(2), split(), "train"),
        (plays(1), split(), "train, test"),
        ([Document("a", "abc")], split("position", 10, 0), None),
        ([Document("a", "abcdefgh")], split("position", 90, 9), "train"),
        ([Document("a", "text" + " " * 96)], split("position"), "validation, test"),
        ([Document("train.txt", "x")], split("file", 0, 0), "validation"),
        ([Document("train.txt", "x"), Document("valid.txt", "\n")], split("file", 0, 0), "validation"),
    ],
)
def test_a_part_left_empty_is_refused(whole, how, missing):
    if missing is None:
        assert text.divide(whole, how, "source")["validation"][0].text == "c"
        return
    with pytest.raises(InputError) as caught:
        text.divide(whole, how, "source")
    assert f"found none for {missing} when {len(whole)} documents" in str(caught.value)


def test_prepare_writes_three_texts_and_a_manifest_that_describes_them(tmp_path):
    (tmp_path / "plays").mkdir()
    for document in plays(10):
        (tmp_path / "plays" / document.name).write_text(f"# {document.text}")
    (tmp_path / "plays" / ".gitignore").write_text("not a play")
    source = folder_source(tmp_path / "plays", strip="markdown", licence="CC0", max_documents=9)
    manifest = text.prepare(source, split(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "test.txt",
        "train.txt",
        "validation.txt",
    ]
    assert manifest["documents"] == 9
    assert manifest["source"]["licence"] == "CC0"
    told = {"by": "document", "validation_percent": 10, "test_percent": 10, "train_characters": None, "seed": 7}
    assert manifest["split"] == told
    for part, entry in manifest["parts"].items():
        data = (tmp_path / "out" / f"{part}.txt").read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert (entry["bytes"], entry["characters"]) == (len(data), len(data.decode()))
        assert entry["documents"] == len(entry["names"]) == len(data.decode().split("\n\n"))
        assert entry["same_as"] is None
    assert sum(entry["documents"] for entry in manifest["parts"].values()) == 9


def test_characters_that_train_has_not_are_listed(tmp_path):
    (tmp_path / "a.txt").write_text("abcabcabcß€")
    manifest = text.prepare(folder_source(tmp_path / "a.txt"), split("position", 20, 0), tmp_path / "out")
    assert manifest["parts"]["validation"]["characters_unseen_in_train"] == "ß€"
    assert manifest["parts"]["train"]["characters_unseen_in_train"] == ""


def test_without_a_test_part_the_test_text_is_the_validation_text_and_the_manifest_says_so(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 10)
    manifest = text.prepare(folder_source(tmp_path / "a.txt"), split("position", 10, 0), tmp_path / "out")
    assert (tmp_path / "out" / "test.txt").read_text() == (tmp_path / "out" / "validation.txt").read_text()
    assert manifest["parts"]["test"]["same_as"] == "validation"
    assert manifest["parts"]["validation"]["same_as"] is None
    assert manifest["parts"]["test"]["sha256"] == manifest["parts"]["validation"]["sha256"]


def test_rows_are_joined_by_a_blank_line_and_otherwise_untouched(tmp_path):
    """As the field tokenises raw WikiText-2: "\\n\\n".join(rows), empty rows included."""
    rows = ["", " = Robert = \n", "", " he said . \n"]
    for part in ("train", "validation", "test"):
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (tmp_path / f"{part}.jsonl").write_text(lines)
    manifest = text.prepare(folder_source(tmp_path), split("file", 0, 0), tmp_path / "out")
    assert (tmp_path / "out" / "test.txt").read_text() == "\n\n".join(rows)
    assert manifest["parts"]["test"]["documents"] == 4


def test_a_calibration_text_is_one_file(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_text("second")
    manifest = text.prepare_whole(folder_source(tmp_path, files="*.txt"), tmp_path / "out")
    assert (tmp_path / "out" / "text.txt").read_text() == "first\n\nsecond"
    assert manifest["text"]["sha256"] == hashlib.sha256(b"first\n\nsecond").hexdigest()
    assert manifest["text"]["names"] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("by", "validation_percent", "test_percent", "message"),
    [
        ("file", 10, 0, "by: file takes the parts as they are"),
        ("document", 0, 10, "validation_percent: 0 leaves no validation text"),
        ("position", 50, 50, "leave nothing for train; expected a sum below 100"),
    ],
)
def test_percents_that_cannot_be_are_refused_before_anything_is_fetched(by, validation_percent, test_percent, message):
    with pytest.raises(ValueError, match=message):
        split(by, validation_percent, test_percent)


def rows(folder: Path, kind: str, texts: list[str]) -> Path:
    """A table of `texts`, with the line ends that they have."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path)
    elif kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([one] for one in texts)])
    else:
        path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_training_calibration_and_judging_read_the_same_characters_whatever_ends_a_line(tmp_path, kind, end):
    plain = [f"The king {i}\nand all\u2028his\x85men\x1c\n\n" for i in range(6)]
    for name, texts in (("plain", plain), ("odd", [one.replace("\n", end) for one in plain])):
        (tmp_path / name).mkdir()
        source = folder_source(rows(tmp_path / name, kind, texts))
        text.prepare(source, split("position", 20, 20), tmp_path / name / "data" / "text")
        text.prepare_whole(source, tmp_path / name / "data" / "calibration")
    for part in ("text/train.txt", "text/validation.txt", "text/test.txt", "calibration/text.txt"):
        written = (tmp_path / "odd" / "data" / part).read_bytes()
        assert written == (tmp_path / "plain" / "data" / part).read_bytes() and b"\r" not in written
        judged, trained = written.decode("utf-8"), read_text(tmp_path / "odd" / "data" / part)
        assert judged == trained == (tmp_path / "odd" / "data" / part).read_text(encoding="utf-8")
    calibrated, source = crops.text_of(tmp_path / "odd" / "data")
    manifest = read_json(tmp_path / "odd" / "data" / "calibration" / "manifest.json")
    assert (source, calibrated) == ("calibration", "\n\n".join(plain))
    assert hashlib.sha256(calibrated.encode()).hexdigest() == manifest["text"]["sha256"]
