"""What a part brings, runs and pushes, and when; with a remote that only notes what it is asked."""

import time
from types import SimpleNamespace

import pytest

from flows import part, running
from flows.graph import Graph
from flows.room import Room
from prunelab.errors import InputError

NEEDS = {"device": set(), "fetch": set(), "train@s1": {"fetch"}, "calibrate@s1": {"train@s1"}}
GRAPH = Graph(NEEDS, {"device"}, set())


class Lanes:
    """Notes every request; of the stages `lacking` the remote has nothing."""

    def __init__(self, lacking):
        self.lacking, self.asked, self.refusing = lacking, [], set()

    def remote(self, function, on_line, **arguments):
        self.asked.append((function, arguments))
        if function in self.refusing:
            raise InputError("the DVC remote: ConnectionError: gone")
        answers = {"remote.restore": {"lacking": self.lacking}, "checkpoints.take": {"taken": ["checkpoints/a/b"]}}
        return answers.get(function, {"put": "checkpoints/a/c"})

    @property
    def functions(self) -> list[str]:
        return [function for function, _ in self.asked]

    def pushed(self) -> list[list[str]]:
        return [arguments["names"] for function, arguments in self.asked if function == "remote.push"]


@pytest.fixture
def settings():
    return SimpleNamespace(
        study="small", efficiency=SimpleNamespace(device="here"), train=SimpleNamespace(share_minutes=10)
    )


@pytest.fixture
def play(settings, monkeypatch):
    """Carry a part out whose stages take so many seconds each; a stage that takes None fails. What was run."""

    def carry_out(lanes, seconds=None, wait=0.0):
        ran_here = []

        def run(settings, room, work, started, ran, handed, share):
            assert share == "part"  # what Prefect shows of the study is its coordinator's
            for name in (one for one in work.graph.needs if one in work.changed):
                ran_here.append(name)
                started(name)
                time.sleep(wait)
                if (taken := (seconds or {}).get(name, 1.0)) is None:
                    raise running.StageFailed(f"stage {name} failed")
                ran(name, taken)
            return len(ran_here)

        log = SimpleNamespace(info=lambda *words: None, warning=lambda *words: None)
        monkeypatch.setattr(part, "get_run_logger", lambda: log)
        monkeypatch.setattr(running, "look", lambda targets: running.Work(GRAPH, set(NEEDS) - {"device"}))
        monkeypatch.setattr(running, "run", run)
        try:
            part.carry_out(settings, lanes, Room(1), ["calibrate"])
        finally:
            lanes.ran = ran_here
        return ran_here

    return carry_out


def test_what_the_remote_has_is_not_run_and_all_that_is_there_is_pushed_at_the_end(play):
    lanes = Lanes(lacking=["calibrate@s1"])
    assert play(lanes) == ["calibrate@s1"]
    assert lanes.asked[0] == ("remote.restore", {"names": ["fetch", "train@s1", "calibrate@s1"]})
    assert lanes.pushed() == [["calibrate@s1", "fetch", "train@s1"]]
    assert lanes.functions == ["remote.restore", "remote.push"]


def test_what_took_more_than_a_minute_is_pushed_at_once(play):
    lanes = Lanes(lacking=["train@s1", "calibrate@s1"])
    play(lanes, {"train@s1": part.PUSH_AFTER_SECONDS + 1})
    assert lanes.pushed() == [["train@s1"], ["calibrate@s1", "fetch", "train@s1"]]


def test_what_was_done_before_another_stage_failed_is_pushed_and_the_failure_is_told(play):
    lanes = Lanes(lacking=["train@s1", "calibrate@s1"])
    with pytest.raises(running.StageFailed, match="calibrate@s1 failed"):
        play(lanes, {"calibrate@s1": None})
    assert lanes.pushed() == [["fetch", "train@s1"]]
    assert "checkpoints.drop" not in lanes.functions


def test_a_training_begins_with_what_another_worker_left_and_takes_it_away_once_it_is_pushed(play):
    lanes = Lanes(lacking=["train@s1", "calibrate@s1"])
    play(lanes)
    whose = {"study": "small", "stages": ["train@s1"]}
    assert lanes.asked[1] == ("checkpoints.take", whose)
    assert lanes.functions[-2:] == ["remote.push", "checkpoints.drop"] and lanes.asked[-1][1] == whose


def test_checkpoints_are_shared_while_a_training_runs_and_not_beside_other_stages(play, settings):
    settings.train.share_minutes = 0.05 / 60
    lanes = Lanes(lacking=["train@s1", "calibrate@s1"])
    play(lanes, wait=0.3)
    shared = [arguments for function, arguments in lanes.asked if function == "checkpoints.put"]
    assert shared and all(one["stage"] == "train@s1" and one["study"] == "small" for one in shared)
    assert max(one["since"] for one in shared) <= time.time() - 0.3


def test_a_remote_that_takes_no_checkpoint_stops_no_training(play, settings):
    settings.train.share_minutes = 0.02 / 60
    lanes = Lanes(lacking=["train@s1"])
    lanes.refusing = {"checkpoints.put"}
    assert play(lanes, wait=0.2) == ["train@s1"]
    assert lanes.functions.count("checkpoints.put") > 1 and lanes.functions[-1] == "checkpoints.drop"


def test_without_share_minutes_nothing_is_shared(play, settings):
    settings.train.share_minutes = None
    lanes = Lanes(lacking=["train@s1"])
    play(lanes)
    assert not {"checkpoints.take", "checkpoints.put"} & set(lanes.functions)


def test_the_machine_that_measures_publishes_what_it_is_and_all_others_take_that(play, settings, monkeypatch):
    settings.efficiency.device = "bench"
    elsewhere, there = Lanes(lacking=[]), Lanes(lacking=[])
    play(elsewhere)
    assert elsewhere.asked[0] == ("remote.take_device", {"name": "bench", "into": ".prunelab/devices/bench.json"})
    assert "remote.put_device" not in elsewhere.functions
    monkeypatch.setenv("PRUNELAB_DEVICE", "bench")
    play(there)
    assert there.asked[0] == ("remote.put_device", {"name": "bench"})
    assert "remote.take_device" not in there.functions
