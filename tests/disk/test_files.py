"""Files and folders appear whole or not at all."""

import math
import os
import shutil

import pytest

from prunelab.disk import files, places
from prunelab.errors import InputError


def test_a_folder_takes_its_place_only_when_it_is_whole(tmp_path):
    with files.whole_directory(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"


def write(path, name):
    with files.whole_directory(path) as partial:
        (partial / name).write_text(name)


def names(folder):
    """All but the mark."""
    return sorted(path.name for path in folder.iterdir() if path.name != places.MARK)


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError):
        with files.whole_directory(tmp_path / "out") as partial:
            (partial / "a").write_text("1")
            raise RuntimeError
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".out.abc.partial").mkdir()
    (tmp_path / ".out.abc.replaced" / "out").mkdir(parents=True)
    write(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


def test_what_another_folder_of_a_longer_name_is_writing_is_left_alone(tmp_path):
    with files.whole_directory(tmp_path / "llama-3.2") as partial:
        write(tmp_path / "llama-3", "new")
        assert partial.is_dir()


def test_a_replaced_folder_holds_nothing_of_the_old_one(tmp_path):
    write(tmp_path / "out", "one")
    write(tmp_path / "out", "two")
    assert names(tmp_path / "out") == ["two"] and names(tmp_path) == ["out"]


def test_the_old_folder_stays_until_the_new_one_has_its_place(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    rename, seen = os.rename, []

    def fails_the_second_time(source, target):
        seen.append(source)
        if len(seen) == 2:
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_the_second_time)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]
    monkeypatch.undo()

    def deletes(folder, **_):
        assert names(tmp_path / "out") == ["newer"], "something goes before the new content is in its place"

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", deletes)
        write(tmp_path / "out", "newer")


def test_what_came_into_a_folder_while_it_was_written_anew_is_kept(tmp_path, capsys):
    write(tmp_path / "out", "old")
    with files.whole_directory(tmp_path / "out") as partial:
        (partial / "new").touch()
        (tmp_path / "out" / "notes.txt").write_text("precious")
    assert names(tmp_path / "out") == ["new"]
    (kept,) = tmp_path.glob(".out.*.replaced")
    assert (kept / "out" / "notes.txt").read_text() == "precious" and str(kept / "out") in capsys.readouterr().err
    write(tmp_path / "out", "newer")
    assert (kept / "out" / "notes.txt").exists()


def test_a_place_where_nothing_can_be_written_is_told_in_a_line(tmp_path):
    name = "x" * 250  # the temporary one is longer than a file system takes
    with pytest.raises(InputError, match="nothing can be written there"):
        write(tmp_path / name, "a")


def test_json_refuses_not_a_number_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"loss": math.nan})
    assert not list(tmp_path.iterdir())


def test_a_missing_or_broken_json_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"x\.json: not valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_what_appears_is_as_readable_as_any_other_file(tmp_path):
    (tmp_path / "ordinary").touch()
    (tmp_path / "folder").mkdir()
    with files.whole_directory(tmp_path / "out") as partial:
        (partial / "private").touch(mode=0o600)
    with files.whole_file(tmp_path / "single") as partial:
        partial.touch(mode=0o600)

    def mode(name):
        return (tmp_path / name).stat().st_mode

    assert mode("out/private") == mode("single") == mode("ordinary")
    assert mode("out") == mode("folder")


def test_a_text_is_read_exactly_as_it_is(tmp_path):
    (tmp_path / "x.txt").write_bytes("a\r\nb\rc\x85\u2028d\x1ce".encode())
    assert files.read_text(tmp_path / "x.txt") == "a\r\nb\rc\x85\u2028d\x1ce"
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        files.read_text(tmp_path / "none.txt")
