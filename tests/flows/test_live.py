"""What the runner tells the process that shows a study in MLflow, and that no stage waits for it."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import live, process
from flows.live import Live
from tests.helpers import loopback
from tests.helpers.toy import environment, events, toy  # noqa: F401  (a fixture)

NOTE = """\
import sys, time
with open("told.jsonl", "a") as file:
    for line in sys.stdin:
        file.write(line)
        file.flush()
        if '"end"' in line:
            print("noted", flush=True)
            break
with open("events.log", "a") as log:
    print("start noting 0", time.time(), file=log)
"""
RUN = """\
import sys
from flows import live, local
live.COMMAND = ["note.py"]
local.main([])
"""
ADDRESS = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def run(folder: Path) -> subprocess.CompletedProcess:
    """`make study` with a process in MLflow's place that notes what it is told."""
    (folder / "note.py").write_text(NOTE)
    return subprocess.run([sys.executable, "-c", RUN], env=environment(**ADDRESS), capture_output=True, text=True)


def told(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_stage_is_told_when_it_begins_and_ends_and_all_is_told_before_the_mirror_begins(toy):  # noqa: F811
    done = run(toy)
    assert done.returncode == 0 and "noted" in done.stdout, done.stderr
    first, *rest, last = told(toy)
    assert (first["handed"], last) == (None, {"end": "later"})
    began = [line["began"] for line in rest if "began" in line]
    ended = {line["ended"]: line["outcome"] for line in rest if "ended" in line}
    assert began[:2] == ["fetch", "train"] and sorted(began) == sorted(ended) and set(ended.values()) == {"ran"}
    assert len(began) == 11 and "mirror" not in began and "device" not in began
    assert {line["began"] for line in rest if line.get("measures")} == {
        f"efficiency@{method}-{rate}" for method in ("random", "magnitude") for rate in (50, 80)
    }
    assert events(toy)["noting"][0] < events(toy)["mirror"][0]

    (toy / "told.jsonl").unlink()
    assert run(toy).returncode == 0 and not (toy / "told.jsonl").exists()  # nothing to do, nothing to show

    (toy / "models" / "random-80").unlink()
    (toy / "fail-report").touch()
    (toy / "table.csv").write_text((toy / "table.csv").read_text() + "\n")
    assert run(toy).returncode == 1
    first, *rest, last = told(toy)
    assert "train" in first["unchanged"] and "random-80" not in " ".join(first["unchanged"])
    assert {"ended": "prune@random-80", "outcome": "restored"} in rest
    assert {"ended": "report", "outcome": "failed"} in rest and last == {"end": "failed"}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Makes a Live whose process is a Python program; what it prints is noted."""
    process.allow()  # a flow that another test of this process ran may have stopped everything
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said, made = [], []

    def make(program: str, **more) -> tuple[Live, list[str]]:
        monkeypatch.setattr(live, "COMMAND", ["-c", program])
        made.append(Live(said.append, set(), own_session=False, **more))
        return made[-1], said

    yield make
    for one in made:
        one.close()


def test_without_an_address_nothing_is_started(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    monkeypatch.setattr(process, "Child", None)
    quiet = Live(print, {"fetch"}, own_session=False)
    quiet.began("train@s1")
    quiet.ended("train@s1", "ran")
    quiet.close()


def test_what_the_process_says_is_passed_on_and_its_death_disturbs_nothing(shown):
    one, said = shown("print('MLflow is away', flush=True)")
    while not said:
        one.began("train@s1")
    for _ in range(100):
        one.ended("train@s1", "ran")
    one.close("failed")
    one.close()
    assert said == ["MLflow is away"]


def test_a_process_that_never_reads_keeps_nobody_waiting_and_is_told_once(shown, monkeypatch):
    monkeypatch.setattr(live, "QUEUED", 100)
    monkeypatch.setattr(live, "END_SECONDS", 0.1)
    one, said = shown("import time; time.sleep(600)")
    for number in range(5000):  # a pipe holds fewer
        one.began(f"train@s{number}")
    assert len(said) == 1 and "stands still; the study goes on" in said[0]
    one.close()


def test_runs_are_begun_for_others_only_where_there_is_a_store_that_answers(tmp_path, monkeypatch):
    process.allow()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    said = []
    assert live.begin(said.append) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(live, "BEGINNING", ["-c", "print('a warning'); print('{\"\": \"id\"}')"])
    assert live.begin(said.append) == {"": "id"} and said == []
    monkeypatch.setattr(live, "BEGINNING", ["-c", "raise SystemExit('error: it is away')"])
    assert live.begin(said.append) == {} and said == [
        "MLflow: it is away; it shows nothing of this study before its end"
    ]


@pytest.mark.slow
def test_a_server_that_never_answers_keeps_nobody_waiting(tmp_path, monkeypatch):
    """With the real process: the stages' words are taken while it waits for an answer."""
    over = threading.Event()
    process.allow()  # a flow that another test of this process ran may have stopped everything
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((Path(__file__).parents[2] / "studies" / "default.yaml").read_bytes())
    with loopback.serve(lambda path, attempt: (over.wait(60), (200, {}, b"{}"))[1]) as (address, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setattr(live, "END_SECONDS", 0.1)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        one = Live(print, set(), own_session=False)
        one.began("reference@s1")
        one.ended("reference@s1", "ran")
        while not asked:
            time.sleep(0.05)
        for number in range(20_000):
            one.ended(f"calibrate@s{number}", "ran")
        assert not over.is_set()
        one.close()
        over.set()
