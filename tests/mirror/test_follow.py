"""A running study followed by the real process, with a real MLflow server; the runner's words are the test's."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunelab.mirror import entries, stamp, tracking
from prunelab.report import results
from prunelab.training.points import LIVE, Points, hand_over
from tests.helpers import finished, loopback, mlflow_server, synthetic

ROOT = Path(__file__).parents[2]
TRAIN, REFERENCE, TIMED = "train@s1", "reference@s1", "efficiency-dense@s1"
ROW = ("prune@magnitude-50-s1", "quality@magnitude-50-s1", "efficiency@magnitude-50-s1")
NAMES = {"default", "dense", "magnitude-50"}
NOT_RESULTS = ("mlflow.", "git.commit", "prunelab.run", "prunelab.clone")  # tags: where and by whom


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server.serve(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The files of a study of two rows, as they are when it has ended; its stages are told as if they ran now. Each
    test's has a name of its own, so that all of them share a server."""
    name = f"study-{time.time_ns()}"
    changes = {"prune": {"methods": ["magnitude"], "rates": [50], "further": []}, "study": name}
    settings = synthetic.settings(tmp_path, **changes)
    synthetic.write(tmp_path, settings)
    monkeypatch.chdir(tmp_path)
    report, energy = Path("report"), Path("results/energy/s1")
    results.write_csv(results.read(settings, "results", "models").rows, report / "results.csv")
    (report / "recommendation.json").write_text(json.dumps(finished.advice(["dense", "magnitude-50"])))
    (report / "metrics.json").write_text('{"dense": {"loss": 1.5}}')
    (report / "index.html").write_text("<h1>report</h1>")
    energy.mkdir(parents=True, exist_ok=True)
    for number, booked in enumerate(("train", "reference", "efficiency-dense", "prune-magnitude-50")):
        booking = {"began_unix_s": 1000.0 + 10 * number, "seconds": 2.0}
        (energy / f"{booked}.json").write_text(json.dumps(booking))
    return settings


class Follower:
    """`prunelab mirror --follow`, told what the runner would tell."""

    def __init__(self, address: str, handed: dict | None = None, unchanged: tuple[str, ...] = ()):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prunelab", "mirror", "--follow"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address}, text=True,
        )  # fmt: skip
        self.tell({"unchanged": unchanged, "handed": handed, "is_owner": False})

    def tell(self, line: dict) -> None:
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def began(self, stage: str, measures: bool = False) -> None:
        self.tell({"began": stage, "at": time.time(), "measures": measures})

    def ran(self, *stages: str) -> None:
        for stage in stages:
            self.began(stage)
            self.tell({"ended": stage, "outcome": "ran"})

    def end(self, how: str = "later") -> str:
        """What it printed; it ends well."""
        self.tell({"end": how})
        return self.printed()

    def printed(self) -> str:
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return output


def stored(uri: str, study) -> list:
    """The runs of the study that are there."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"prunelab-{study.study}")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def by_name(uri: str, study) -> dict:
    there = stored(uri, study)
    found = {"default" if run.info.run_name == study.study else run.info.run_name: run for run in there}
    assert len(found) == len(there), "a run is there twice"
    return found


def shown(uri: str, study, name: str) -> dict[str, float]:
    """The newest figures of a run, none where it isn't there."""
    found = by_name(uri, study)
    return found[name].data.metrics if name in found else {}


def wait_until(condition, seconds: float = 90):
    """What `condition()` gives, when it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not come")


def history(uri: str, run, metric: str) -> list[tuple]:
    import mlflow

    return [(one.step, one.value) for one in mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def train(steps: range) -> None:
    """What a training leaves that has come to the last of `steps`."""
    points = Points(LIVE / "s1.jsonl", "a", 64)
    for step in steps:
        points.evaluated({"step": step, "validation_loss": 4.0 - step / 10, "train_loss": 4.0 - step / 9})
    points.begin(steps.stop - 1)
    points.step(steps.stop, 3.5, 0.001)
    points.close()


def held(run) -> tuple:
    """What a run says of its results."""
    tags = {name: word for name, word in run.data.tags.items() if not name.startswith(NOT_RESULTS)}
    metrics = {name: repr(value) for name, value in run.data.metrics.items()}
    return run.data.params, metrics, tags, run.info.status, run.info.end_time - run.info.start_time


@pytest.mark.slow
def test_a_study_is_shown_while_it_runs_and_ends_in_the_runs_that_a_mirror_at_the_end_makes(server, study, monkeypatch):
    follower = Follower(server, unchanged=("fetch",))
    follower.began(TRAIN)
    time.sleep(0.01)
    train(range(1, 3))
    wait_until(lambda: "tokens_per_second" in shown(server, study, "dense"))
    live = by_name(server, study)
    assert live.keys() == {"default", "dense"} and {run.info.status for run in live.values()} == {"RUNNING"}
    trained = {"train_loss", "validation_loss", "recent_train_loss", "learning_rate", "tokens_per_second"}
    assert live["dense"].data.metrics.keys() == live["default"].data.metrics.keys() == trained
    assert history(server, live["default"], "validation_loss") == [(1, 3.9), (2, 3.8)]

    hand_over(LIVE / "s1.jsonl", Path("results/s1/dense/training.jsonl"))
    follower.tell({"ended": TRAIN, "outcome": "ran"})
    follower.ran(REFERENCE, *ROW[:2])
    wait_until(lambda: "loss" in shown(server, study, "magnitude-50"))
    wait_until(lambda: "loss" in shown(server, study, "dense"))
    follower.ran(TIMED, ROW[2])
    assert follower.end() == ""
    before = {name: run.info.run_id for name, run in by_name(server, study).items()}
    assert before.keys() == NAMES

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracking.bring()
    complete = by_name(server, study)
    assert {name: run.info.run_id for name, run in complete.items()} == before
    assert {run.info.status for run in complete.values()} == {"FINISHED"}
    for run in complete.values():
        points = history(server, run, "validation_loss")
        assert len(points) == len(set(points))
        for metric in run.data.metrics:
            assert len(history(server, run, metric)) == len(set(history(server, run, metric))), metric

    alone = f"sqlite:///{Path('alone.db').resolve()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", alone)
    tracking.bring()
    assert {name: held(run) for name, run in by_name(alone, study).items()} == {
        name: held(run) for name, run in complete.items()
    }
    assert by_name(alone, study)["dense"].info.start_time == 1_000_000
    stamp.PATH.unlink()
    tracking.bring()
    assert len(stored(alone, study)) == 3


@pytest.mark.slow
def test_killed_and_resumed_it_goes_on_in_the_runs_that_were_begun_and_leaves_none_running(server, study, monkeypatch):
    def losses() -> list[tuple]:
        return history(server, by_name(server, study)["dense"], "validation_loss")

    follower = Follower(server)
    follower.began(TRAIN)
    time.sleep(0.01)
    train(range(1, 3))
    wait_until(lambda: "validation_loss" in shown(server, study, "dense"))
    follower.process.kill()  # with everything else
    follower.process.communicate()
    first = {name: run.info.run_id for name, run in by_name(server, study).items()}

    again = Follower(server)
    again.began(TRAIN)
    time.sleep(0.01)
    train(range(1, 6))
    wait_until(lambda: len(losses()) == 5)
    again.process.send_signal(signal.SIGTERM)
    assert again.printed() == ""
    assert {name: run.info.run_id for name, run in by_name(server, study).items()} == first
    assert {run.info.status for run in by_name(server, study).values()} == {"KILLED"}
    assert losses() == [(1, 3.9), (2, 3.8), (3, 3.7), (4, 3.6), (5, 3.5)]

    hand_over(LIVE / "s1.jsonl", Path("results/s1/dense/training.jsonl"))  # the third time DVC finds it trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracking.bring()
    assert by_name(server, study).keys() == NAMES
    assert {by_name(server, study)[name].info.run_id for name in first} == set(first.values())
    assert {run.info.status for run in by_name(server, study).values()} == {"FINISHED"}
    # Each once, beside those of curve.csv, which is another training's here.
    assert len(losses()) == len(set(losses())) and {(step, 4 - step / 10) for step in range(1, 6)} <= {*losses()}


@pytest.mark.slow
def test_a_store_that_is_away_is_told_in_a_line_and_gets_what_it_missed_when_it_is_back(study, tmp_path):
    port = loopback.closed_port()
    follower = Follower(f"http://127.0.0.1:{port}", unchanged=(TRAIN, REFERENCE))
    follower.ran(*ROW)
    told = follower.process.stdout.readline()
    assert "does not answer" in told and "the study goes on, and its last stage mirrors what is missing" in told
    with mlflow_server.serve(tmp_path, port) as address:
        wait_until(lambda: "magnitude-50" in by_name(address, study))
        assert follower.end("failed") == ""  # nothing is told twice
        assert {run.info.status for run in by_name(address, study).values()} == {"FAILED"}


@pytest.mark.slow
def test_several_machines_tell_the_runs_that_one_of_them_began(server, study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    handed = tracking.begin()
    assert handed.keys() == {entries.STUDY, "s1/dense", "s1/magnitude-50"} and tracking.begin() == handed
    for stages in ((REFERENCE,), ROW):  # one after the other, because here they are of one folder
        part = Follower(server, handed, (TRAIN, REFERENCE))
        part.ran(*stages)
        part.end()
    tracking.bring()
    runs = by_name(server, study)
    assert {run.info.run_id for run in runs.values()} == set(handed.values())
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_a_store_of_another_version_is_told_and_the_study_goes_on(study, monkeypatch):
    uri = f"sqlite:///{Path('old.db').resolve()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.bring()
    with sqlite3.connect("old.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'acf3f17fdcc7'")
    connection.close()
    follower = Follower(uri, unchanged=(TRAIN, REFERENCE))
    follower.ran(*ROW)
    assert "another version of MLflow (found acf3f17fdcc7" in follower.process.stdout.readline()
    assert follower.end() == ""


def test_a_misspelt_address_is_told_in_a_line_and_ends_the_follower_but_nothing_else(study):
    follower = Follower("localhost:5000")
    (line,) = follower.printed().splitlines()
    assert "MLFLOW_TRACKING_URI=http://localhost:5000" in line and "the study goes on" in line
