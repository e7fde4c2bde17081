"""prefect.yaml and automations.yaml with a real Prefect server and a real process worker, both on loopback."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from tests.helpers import loopback, toy
from tests.helpers.workshop import Workshop, git

pytestmark = pytest.mark.slow

HOUR = f"36{os.getpid()}"  # seconds of a training; no other process here sleeps so long
FEW = {"methods": ["random", "magnitude"], "rates": [50, 80], "further": []}  # variants, as many as the toy knows


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    place = Workshop(tmp_path_factory.mktemp("workshop"))
    try:
        place.start_server()
        place.start_worker("gpu")
        yield place
    finally:
        place.close()


def deployment(place: Workshop, name: str):
    with place.client() as client:
        return client.read_deployment_by_name(name)


def publish_toy(place: Workshop, train_seconds) -> str:
    (place.source / "stage.sh").write_text(toy.STAGE)
    (place.source / "table.csv").write_text(toy.TABLE)
    (place.source / "dvc.yaml").write_text(toy.PIPELINE.format(train_seconds=train_seconds, prune_seconds=0))
    (place.source / "when.txt").write_text(str(time.time()))
    return place.publish(f"a training of {train_seconds} s")


def sleeping() -> list[int]:
    return [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", HOUR]]


def schedule(place: Workshop, name: str, rule, **parameters) -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    with place.client() as client:
        once = DeploymentScheduleCreate(schedule=rule, active=True, parameters=parameters)
        client.create_deployment_schedules(deployment(place, name).id, [once])


def test_what_is_deployed_is_what_the_file_says(workshop):
    found = {name: deployment(workshop, f"study/{name}") for name in ("study", "nightly", "smoke")}
    assert {name: one.work_pool_name for name, one in found.items()} == {
        "study": "gpu", "nightly": "gpu", "smoke": "cpu",
    }  # fmt: skip
    assert found["smoke"].parameters["study"] == "smoke" and found["study"].parameters["study"] is None
    assert [str(one.schedule.cron) for one in found["nightly"].schedules] == ["0 2 * * *"]
    assert found["nightly"].concurrency_options.collision_strategy.value == "CANCEL_NEW"
    assert not found["study"].schedules and found["study"].enforce_parameter_schema
    with workshop.client() as client:
        assert len(client.read_automations()) == 2


def test_parameters_of_the_wrong_kind_are_refused_when_the_run_is_asked_for(workshop):
    from prefect.exceptions import PrefectHTTPStatusError

    for wrong in ({"workers": 0}, {"targets": "quality"}, {"overrides": "train.epochs=3"}):
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            workshop.run("study/study", **wrong)


def test_a_scheduled_run_of_the_smoke_study_completes_on_the_worker(workshop):
    """The schedule itself must fire: two versions of libraries (see pyproject.toml) break exactly that, silently."""
    from prefect.client.schemas.schedules import IntervalSchedule

    soon = datetime.now(UTC) + timedelta(seconds=10)
    schedule(workshop, "study/nightly", IntervalSchedule(interval=timedelta(days=1), anchor_date=soon), study="smoke")

    def first():
        return next((run for run in workshop.runs("nightly") if run.state.is_final()), None)

    run = workshop.wait(first, 900, "no run of nightly ended")
    assert run.auto_scheduled and run.state_name == "Completed", "\n".join(workshop.lines(run)[-40:])
    assert run.work_pool_name == "gpu"
    assert (workshop.clone / "report" / "results.csv").exists()
    assert (workshop.clone / "mlflow.db").exists()


def test_a_run_takes_the_newest_commit_keeps_results_and_cancelling_it_leaves_no_process(workshop):
    kept = workshop.clone / "results" / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    newest = publish_toy(workshop, HOUR)
    run = workshop.run("study/study")
    workshop.wait(sleeping, 180, "the training did not start")
    assert git(workshop.clone, "rev-parse", "HEAD").strip() == newest
    assert kept.exists()
    began = time.monotonic()
    workshop.prefect("flow-run", "cancel", str(run.id))
    workshop.wait(lambda: not sleeping(), 60, "the stage still runs")
    assert workshop.ended(run, 60).state_name == "Cancelled"
    assert time.monotonic() - began < 60
    ours = (str(workshop.clone), "flows/process.py")
    left = [
        one.info
        for one in psutil.process_iter(["pid", "cmdline"])
        if all(word in " ".join(one.info["cmdline"] or ()) for word in ours)
    ]
    assert left == []


def as_if_scheduled_days_ago(place: Workshop, first: datetime) -> None:
    """Make the three nights from `first` on look like nights, which the server schedules days before. Of a run that was
    scheduled within five minutes it holds the event Late back until it has seen that of its scheduling, which it never
    sends."""
    base = place.folder / "prefect" / "prefect.db"
    nights = "SELECT id FROM flow_run WHERE auto_scheduled AND expected_start_time BETWEEN ? AND ?"
    between = [f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in (first, first + timedelta(seconds=15))]
    earlier = "UPDATE flow_run_state SET timestamp = strftime('%Y-%m-%d %H:%M:%f000', timestamp, '-1 day')"

    def there() -> bool:
        with contextlib.closing(sqlite3.connect(base, timeout=30)) as connection:
            return len(connection.execute(nights, between).fetchall()) == 3

    place.wait(there, 30, "the three nights were not scheduled")
    with contextlib.closing(sqlite3.connect(base, timeout=30)) as connection, connection:
        connection.execute(f"{earlier} WHERE flow_run_id IN ({nights})", between)


def test_nights_that_find_the_worker_taken_are_left_out_and_no_other_run_is_touched(workshop):
    from prefect.client.schemas.schedules import RRuleSchedule

    before = len([run for run in workshop.runs("nightly") if run.state.is_final()])
    publish_toy(workshop, HOUR)
    holding, other = workshop.run("study/study"), workshop.run("study/smoke")  # no worker asks for `other`
    workshop.wait(sleeping, 180, "the training did not start")
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=12)
    last = first + timedelta(seconds=10)
    ticks = f"DTSTART:{first:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=SECONDLY;INTERVAL=5;UNTIL={last:%Y%m%dT%H%M%SZ}"
    schedule(workshop, "study/nightly", RRuleSchedule(rrule=ticks, timezone="UTC"))
    as_if_scheduled_days_ago(workshop, first)

    def nights() -> list[str]:
        due = [run for run in workshop.runs("nightly") if run.expected_start_time <= datetime.now(UTC)]
        return [run.state_name for run in due][: len(due) - before]

    workshop.wait(lambda: nights() == ["Cancelled"] * 3, 90, "three nights were not left out")
    with workshop.client() as client:
        assert client.read_flow_run(holding.id).state_name == "Running"
        assert client.read_flow_run(other.id).state_name == "Late"
        client.delete_flow_run(other.id)
    workshop.prefect("flow-run", "cancel", str(holding.id))
    workshop.ended(holding, 60)


def test_another_revision_runs_in_a_folder_of_its_own_with_overrides_and_only_as_far_as_its_targets(workshop):
    earlier = publish_toy(workshop, 0)
    (workshop.source / "dvc.yaml").write_text("stages: {}\n")
    workshop.publish("no study any more")
    run = workshop.run("study/study", revision=earlier, overrides={"prune": FEW}, targets=["prune@random-50"])
    ended = workshop.ended(run, 180)
    assert ended.state_name == "Completed", "\n".join(workshop.lines(run)[-40:])
    folder = workshop.clone / ".prunelab" / "revisions" / earlier[:12]
    # What was fetched comes out of the clone's cache, where an earlier test fetched it.
    assert [name for name in toy.started(folder) if name != "fetch"] == ["device", "train", "prune@random-50"]
    assert "# With what this run overrides: " in (folder / "params.yaml").read_text()
    assert (workshop.clone / "dvc.yaml").read_text() == "stages: {}\n"


def test_overrides_that_are_no_settings_end_a_run_before_anything_starts_and_a_webhook_is_told(workshop):
    publish_toy(workshop, 0)
    before, sent = toy.started(workshop.clone), []
    with loopback.serve(lambda path, attempt: (200, {}, b"ok"), sent) as (address, asked):
        tell = {**workshop.environment, "PRUNELAB_WEBHOOK": f"{address}/room/secret-of-the-room"}
        for _ in range(2):  # the second time takes the place of the first
            subprocess.run([sys.executable, "-m", "flows.notify"], cwd=workshop.clone, env=tell, check=True)
        ended = workshop.ended(workshop.run("study/study", overrides={"train": {"epoch": 3}}), 120)

        def texts() -> list[str]:
            return [text for text in (json.loads(body)["text"] for body in sent) if str(ended.id) in text]

        workshop.wait(texts, 60, "the webhook was not told of this run")
        time.sleep(1)
    assert ended.state_name == "Failed" and "did you mean 'epochs'" in ended.state.message
    assert toy.started(workshop.clone) == before
    (told,) = texts()
    assert told.startswith(f"study of params.yaml ({ended.name}): Failed\n") and "did you mean 'epochs'" in told
    assert {*asked} == {"/room/secret-of-the-room"}
    assert "secret-of-the-room" not in workshop.log.read_text()


def test_a_run_whose_worker_has_gone_without_a_word_is_marked_crashed(workshop):
    publish_toy(workshop, HOUR)
    run = workshop.run("study/study")
    workshop.wait(sleeping, 180, "the training did not start")
    worker = workshop.started.pop()
    for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
        process.kill()
    worker.wait()
    ended = workshop.ended(run, 240)
    assert ended.state_name == "Crashed" and "no sign of life" in ended.state.message
    workshop.wait(lambda: not sleeping(), 30, "the stage outlived its run")
    workshop.start_worker("gpu")


def test_a_folder_that_is_not_declared_a_workers_own_is_not_reset(workshop):
    (workshop.clone / ".prunelab" / "worker").unlink()
    (workshop.clone / "params.yaml").write_text("precious\n")
    ended = workshop.ended(workshop.run("study/study"), 90)
    assert ended.state_name in ("Failed", "Crashed")
    assert (workshop.clone / "params.yaml").read_text() == "precious\n"
