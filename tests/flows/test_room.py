"""How many stages a machine has room for."""

import json
from types import SimpleNamespace

import pytest

from flows import room

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 cores and 10 GiB of free memory, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "usable_cores", lambda: 8)
    monkeypatch.setattr(room, "free_bytes", lambda: 10 * GIB)
    return tmp_path


def grow(folder, size):
    """A model of `size` bytes, of which the disk holds none."""
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)


def test_as_many_as_cores_while_models_are_small_and_as_memory_holds_when_they_are_there(machine):
    here = room.Room(None)
    assert here.cores == 8 and here.workers == 8
    grow(machine / "models" / "s1" / "dense", GIB)  # 1 + 4 GiB a stage
    assert here.workers == 2
    grow(machine / "data" / "fetched" / "model", 20 * GIB)
    assert here.workers == 1  # a stage at least


def test_stages_do_not_share_a_gpu_unless_the_user_says_so(machine):
    (machine / "results").mkdir()
    (machine / "results" / "device.json").write_text(json.dumps({"gpus": [{"name": "x"}]}))
    assert room.Room(None).workers == 1
    assert room.Room(3).workers == 3


def test_a_part_of_a_core_counts_as_one(machine, monkeypatch):
    monkeypatch.setattr(room, "usable_cores", lambda: 0.5)
    assert room.Room(None).cores == 1


def test_a_container_has_the_memory_that_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    assert room.free_bytes(tmp_path) == 64 * GIB
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text(f"{GIB}\n")
    (group / "memory.max").write_text("max\n")
    assert room.free_bytes(tmp_path) == 64 * GIB
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    assert room.free_bytes(tmp_path) == 3 * GIB
