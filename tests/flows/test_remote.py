"""What clones share through a DVC remote, without a server: finished stages, fingerprints, checkpoints."""

import json
import subprocess
import sys
import time

import pytest

from flows import checkpoints, graph, remote
from prunelab.errors import InputError
from tests.helpers import toy as toys
from tests.helpers.toy import environment, toy  # noqa: F401  (a fixture)
from tests.helpers.workshop import git

STAGES = ["fetch", "train", "prune@random-50", "prune@random-80"]


def dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], env=environment(), check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def shared(toy, tmp_path_factory):  # noqa: F811
    """The toy with a remote of its own, which is returned."""
    place = tmp_path_factory.mktemp("remote")
    dvc("remote", "add", "-d", "shared", str(place))
    git(toy, "commit", "-qam", "a remote")
    return place


@pytest.mark.slow
def test_what_one_clone_pushed_another_restores_and_runs_nothing(shared, toy, tmp_path_factory, monkeypatch):  # noqa: F811
    dvc("repro", "-q", "prune@random-50")
    assert remote.restore(STAGES)["lacking"] == ["prune@random-80"]  # what is there already needs no remote
    remote.push(["fetch", "train", "prune@random-50"])
    assert not list(shared.rglob("*.tmp"))

    other = tmp_path_factory.mktemp("clones") / "other"
    git(toy, "clone", "-q", str(toy), str(other))
    monkeypatch.chdir(other)
    order = graph.in_order(graph.read(), STAGES)
    assert order[:2] == ["fetch", "train"]
    assert remote.restore(order)["lacking"] == ["prune@random-80"]
    assert (other / "models" / "random-50").read_text() == "prune@random-50\n"
    assert toys.started(other) == []
    assert "prune@random-50" not in graph.look()[1] and "prune@random-80" in graph.look()[1]

    subprocess.run(["sed", "-i", "s/epochs: 20/epochs: 3/", "params.yaml"], check=True)  # another training
    assert remote.restore(order)["lacking"] == ["train", "prune@random-50", "prune@random-80"]


@pytest.mark.slow
def test_a_run_whose_data_is_not_on_the_remote_is_lacking(shared, toy, tmp_path_factory, monkeypatch):  # noqa: F811
    dvc("repro", "-q", "train")
    remote.push(["fetch", "train"])
    for file in (shared / "files").rglob("*"):
        if file.is_file():
            file.unlink()
    other = tmp_path_factory.mktemp("clones") / "other"
    git(toy, "clone", "-q", str(toy), str(other))
    monkeypatch.chdir(other)
    assert remote.restore(["fetch", "train"])["lacking"] == ["fetch", "train"]


def test_without_a_remote_the_answer_says_so_at_once(toy):  # noqa: F811
    answer = remote.patiently(lambda: remote.push(["train"]))
    assert "no remote specified" in answer["error"]


def test_a_remote_that_comes_back_is_waited_for_and_a_wrong_key_is_not(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)
    answers = [ConnectionError("gone"), ConnectionError("gone"), {"lacking": []}]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert remote.patiently(ask) == {"lacking": []}
    for final in (PermissionError("Forbidden"), OSError(28, "No space left on device"), InputError("no such name")):
        answers = [final, {}]
        assert remote.patiently(ask)["error"].startswith(f"the DVC remote: {type(final).__name__}: ")
    answers = [KeyError("a bug of ours"), {}]
    with pytest.raises(KeyError):
        remote.patiently(ask)
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0)
    answers = [ConnectionError("gone\nfor good")]
    assert remote.patiently(ask) == {"error": "the DVC remote: ConnectionError: gone for good"}


def test_a_machines_fingerprint_is_published_and_taken_by_its_name(shared, toy):  # noqa: F811
    remote.DEVICE.parent.mkdir()
    remote.DEVICE.write_text('{"id": "abc"}')
    with pytest.raises(InputError, match="'bench' has published no fingerprint; start its worker with PRUNELAB_DEVICE"):
        remote.take_device("bench", ".prunelab/devices/bench.json")
    remote.put_device("bench")
    remote.take_device("bench", ".prunelab/devices/bench.json")
    assert json.loads((toy / ".prunelab/devices/bench.json").read_text()) == {"id": "abc"}


def checkpoint(step: int, best: int, name: str = "abc", whole: bool = True) -> None:
    folder = checkpoints.FOLDER / name / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights of step {step}")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    if whole:
        (folder / checkpoints.LAST_FILE).touch()


def remove_here() -> None:
    checkpoints.shutil.rmtree(checkpoints.FOLDER)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_and_the_best_checkpoint_reach_another_worker(shared):
    began = time.time() - 1
    checkpoint(10, best=10)
    assert checkpoints.put("small", "train@s1", began) == {"put": "checkpoints/abc/checkpoint-10"}
    assert checkpoints.put("small", "train@s1", began) == {"put": None}  # nothing new
    checkpoint(20, best=10)
    checkpoint(30, best=10)
    checkpoint(40, best=10, whole=False)  # it is being written
    assert checkpoints.put("small", "train@s1", began) == {"put": "checkpoints/abc/checkpoint-30"}
    assert names(shared / "checkpoints" / "abc") == ["checkpoint-10", "checkpoint-30", "newest.json"]

    remove_here()
    assert checkpoints.take("small", ["train@s2"]) == checkpoints.take("other", ["train@s1"]) == {"taken": []}
    assert checkpoints.take("small", ["train@s1"]) == {"taken": ["checkpoints/abc/checkpoint-30"]}
    assert names(checkpoints.FOLDER / "abc") == ["checkpoint-10", "checkpoint-30"]
    assert (checkpoints.FOLDER / "abc/checkpoint-30/model.safetensors").read_text() == "weights of step 30"
    checkpoint(50, best=10)
    assert checkpoints.take("small", ["train@s1"]) == {"taken": []}  # what is here is further

    checkpoints.drop("small", ["train@s2"])
    remove_here()
    assert checkpoints.take("small", ["train@s1"])["taken"]
    checkpoints.drop("small", ["train@s1"])
    remove_here()
    assert checkpoints.take("small", ["train@s1"]) == {"taken": []}


def test_a_checkpoint_without_its_marker_or_with_half_a_file_is_none(shared):
    checkpoint(10, best=10)
    checkpoints.put("small", "train@s1", 0)
    remove_here()
    marker = shared / "checkpoints" / "abc" / checkpoints.MARKER
    (shared / "checkpoints/abc/checkpoint-10/model.safetensors").write_text("weig")
    with pytest.raises(FileNotFoundError, match="4 bytes of 18"):
        checkpoints.take("small", ["train@s1"])
    assert not list(checkpoints.FOLDER.rglob("*.safetensors"))
    marker.unlink()
    assert checkpoints.take("small", ["train@s1"]) == {"taken": []}


def test_checkpoints_of_an_earlier_training_are_not_shared_as_those_of_this_one(shared):
    checkpoint(10, best=10)
    assert checkpoints.put("small", "train@s1", time.time() + 1) == {"put": None}


def test_a_checkpoint_is_whole_with_the_file_that_training_writes_last():
    """Its name stands in two places, because the lane of dvc imports no torch."""
    from prunelab.training import tracker

    assert checkpoints.LAST_FILE == tracker.STATE_FILE
