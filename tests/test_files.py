"""Files and folders appear whole or not at all."""

import math

import pytest

from prunelab import files
from prunelab.errors import InputError


def test_a_folder_takes_its_place_only_when_it_is_whole(tmp_path):
    with files.whole_directory(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(RuntimeError):
        with files.whole_directory(tmp_path / "out") as partial:
            (partial / "a").write_text("1")
            raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".out.abc.partial").mkdir()
    with files.whole_directory(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replaced_folder_holds_nothing_of_the_old_one(tmp_path):
    for name in ("one", "two"):
        with files.whole_directory(tmp_path / "out") as partial:
            (partial / name).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]


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
