"""What a training says of itself: each point once, whatever kills it and however often it goes on."""

import json
import time
from types import SimpleNamespace

import pytest

from prunelab.training import points
from prunelab.training.points import Points


@pytest.fixture
def clock(monkeypatch):
    """Monotonic seconds, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(points, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    return now


def steps(told: Points, clock, first: int, last: int, seconds: float = 1.0) -> None:
    """Steps `first` to `last` of 64 tokens, `seconds` each, with a loss that is the step's number."""
    told.begin(first - 1)
    for step in range(first, last + 1):
        clock[0] += seconds
        told.step(step, float(step), 0.1)


def written(path) -> list[dict]:
    return [json.loads(line) for line in points.read(path).lines]


def test_by_the_clock_a_point_holds_the_mean_loss_and_the_speed_since_the_one_before(tmp_path, clock):
    told = Points(tmp_path / "s1.jsonl", "a", 64)
    steps(told, clock, 1, 12)
    told.close()
    found = written(tmp_path / "s1.jsonl")
    assert [(one["step"], one["recent_train_loss"]) for one in found] == [(5, 3.0), (10, 8.0), (12, 11.5)]
    assert {one["tokens_per_second"] for one in found} == {64.0} and {one["learning_rate"] for one in found} == {0.1}


def test_a_long_training_says_less_often_what_it_says(tmp_path, clock):
    told = Points(tmp_path / "s1.jsonl", "a", 64)
    steps(told, clock, 1, 24 * 360, seconds=10)  # a day
    assert 1500 < len(written(tmp_path / "s1.jsonl")) < 2300


def test_one_that_was_killed_goes_on_behind_what_is_there_and_says_nothing_twice(tmp_path, clock):
    path = tmp_path / "s1.jsonl"
    told = Points(path, "a", 64)
    steps(told, clock, 1, 5)
    told.evaluated({"step": 5, "validation_loss": 2.0})
    steps(told, clock, 6, 20)
    with path.open("a") as file:
        file.write('{"at": 1.0, "st')  # killed here; the last checkpoint is that of step 5
    first = written(path)
    again = Points(path, "a", 64)
    steps(again, clock, 6, 25)
    again.evaluated({"step": 5, "validation_loss": 2.0})
    again.evaluated({"step": 25, "validation_loss": 1.5})
    found = written(path)
    assert found[: len(first)] == first
    assert [one["step"] for one in found] == [5, 5, 10, 15, 20, 25, 25]


def test_another_training_begins_anew(tmp_path, clock):
    path = tmp_path / "s1.jsonl"
    steps(Points(path, "a", 64), clock, 1, 5)
    Points(path, "b", 64)
    assert points.read(path).training == "b" and written(path) == []


def test_what_is_no_number_is_left_out_as_json_has_none_for_it(tmp_path, clock):
    told = Points(tmp_path / "s1.jsonl", "a", 64)
    told.evaluated({"step": 1, "validation_loss": float("inf"), "train_loss": None, "epoch": 1.0})
    (point,) = written(tmp_path / "s1.jsonl")
    assert point.keys() == {"at", "step", "epoch"}


def test_at_the_end_the_points_become_a_file_of_the_results_and_the_live_one_goes(tmp_path, clock):
    live, out = tmp_path / "live" / "s1.jsonl", tmp_path / "results" / "training.jsonl"
    told = Points(live, "a", 64)
    steps(told, clock, 1, 5)
    told.close()
    before = written(live)
    points.hand_over(live, out)
    assert points.finished(out) == before != [] and not live.exists()
    points.hand_over(live, out)  # of a model that was fetched
    assert points.finished(out) == [] and out.exists()
