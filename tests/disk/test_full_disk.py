"""A disk that is full while a result is written: one line, and no half of it is taken for the whole."""

import subprocess

import pytest

from prunelab.disk import files
from prunelab.errors import exit_cleanly

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; who may not mount one leaves these tests out."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def write_too_much(folder) -> None:
    with files.whole_directory(folder / "magnitude-50") as partial:
        (partial / "sparsity.json").write_text("{}")
        (partial / "model.safetensors").write_bytes(bytes(2 * MEGABYTE))


def test_a_variant_that_finds_no_room_leaves_nothing_and_is_told_in_a_line(small_disk, capsys):
    with pytest.raises(SystemExit) as caught:
        exit_cleanly(lambda: write_too_much(small_disk))
    assert caught.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "No space left on device" in told and told.count("\n") == 1
    assert list(small_disk.iterdir()) == []


def test_a_variant_that_was_there_before_stays_whole(small_disk):
    with files.whole_directory(small_disk / "magnitude-50") as partial:
        (partial / "model.safetensors").write_bytes(b"before")
    with pytest.raises(OSError, match="No space left"):
        write_too_much(small_disk)
    assert (small_disk / "magnitude-50" / "model.safetensors").read_bytes() == b"before"
    assert [path.name for path in small_disk.iterdir()] == ["magnitude-50"]


def test_a_file_that_finds_no_room_is_not_there_and_the_one_before_is(small_disk):
    files.write_json(small_disk / "quality.json", {"loss": 1})
    with pytest.raises(OSError, match="No space left"):
        files.write_json(small_disk / "quality.json", {"loss": "x" * 2 * MEGABYTE})
    assert files.read_json(small_disk / "quality.json") == {"loss": 1}
    assert [path.name for path in small_disk.iterdir()] == ["quality.json"]
