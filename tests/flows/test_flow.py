"""The study as a Prefect flow, on a toy pipeline and with a real Prefect server in the background."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows import running
from flows import study as flow_module
from tests.helpers import toy as toys
from tests.helpers.toy import edit_params, environment, events, toy  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

VARIANTS = ["random-50", "random-80", "magnitude-50", "magnitude-80"]


@pytest.fixture(scope="module")
def server():
    """A Prefect server of its own for this file, with a temporary database."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


def run(**parameters):
    """Run the flow here; its final state."""
    return flow_module.study(**parameters, return_state=True)


def newest():
    """The newest flow run that the server knows."""
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def last_run() -> dict:
    """Of the newest flow run, which must have ended in good order: log lines, tasks, artifacts by key."""
    from prefect.client.schemas import filters

    flow_run = newest()
    with get_client(sync_client=True) as client:
        which = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run.id]))
        tasks = client.read_task_runs(flow_run_filter=which)
        artifacts = client.read_artifacts(flow_run_filter=which)
        logs, wanted = [], filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[flow_run.id]))
        deadline = time.monotonic() + 20
        # The log is sent in the background; the flow's own last line comes last.
        while not any(one.task_run_id is None and "Finished in state" in one.message for one in logs):
            assert time.monotonic() < deadline, "the flow's last line never reached the server"
            time.sleep(0.5)
            logs = []
            while page := client.read_logs(wanted, limit=200, offset=len(logs)):
                logs += page
    return {
        "lines": [one.message for one in logs],
        "tasks": sorted(task.name for task in tasks),
        "runs": {task.name: task.run_count for task in tasks},
        "artifacts": {artifact.key: artifact.data for artifact in artifacts},
    }


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_a_study_runs_one_task_a_stage_and_tells_its_progress_log_and_results(toy, server):  # noqa: F811
    for one, other in itertools.permutations(("prune@random-50", "prune@random-80")):
        (toy / f"meet-{one}").write_text(other)
    assert run().is_completed()
    told = last_run()
    stages = [f"{kind}@{variant}" for kind in ("prune", "efficiency") for variant in VARIANTS]
    assert told["tasks"] == sorted(["device", "fetch", "train", *stages, "report", "mirror"])
    for stage in ("train", *stages):
        assert f"this is {stage}" in told["lines"]  # the stage's own line, as a line of Prefect's log
    progress = [
        line for line in told["lines"] if re.match(r"\d+ of 12 stages done, [\d:]+ elapsed, about [\d:]+ left", line)
    ]
    assert progress[-1].startswith("12 of 12")
    assert told["artifacts"]["progress-default"] == 100
    assert '"variant": "magnitude-80"' in told["artifacts"]["results-default"]
    assert any(re.fullmatch(r"\[3/12\] prune (random|magnitude)-\d0 · \d+ s", line) for line in told["lines"])

    times = events(toy)
    assert overlap(times["prune@random-50"], times["prune@random-80"])
    measuring = [f"efficiency@{variant}" for variant in VARIANTS]
    for stage in measuring:
        assert not any(overlap(times[stage], times[other]) for other in times if other != stage)
    assert min(times[stage][0] for stage in measuring) > max(times[f"prune@{variant}"][1] for variant in VARIANTS)

    assert run().is_completed()  # again: nothing but the probe
    told = last_run()
    assert told["tasks"] == ["device", "mirror"]
    assert any(line.startswith("nothing to do") for line in told["lines"])

    (toy / "models" / "random-80").unlink()
    assert run(workers=1).is_completed()  # only what is missing, and what reads it
    assert last_run()["tasks"] == ["device", "efficiency@random-80", "mirror", "prune@random-80", "report"]


def test_a_failing_stage_is_named_with_its_last_lines_and_others_go_on(toy, server):  # noqa: F811
    (toy / "fail-prune@random-50").touch()
    state = run()
    assert state.is_failed()
    for words in ("stage prune@random-50 failed", "about to break", "broken on purpose", "not run because of it"):
        assert words in state.message
    told = last_run()
    assert told["runs"]["prune@random-50"] == 1
    assert "efficiency@random-80" in told["tasks"] and "efficiency@random-50" not in told["tasks"]
    assert (toy / "results" / "magnitude-80").exists() and not (toy / "report").exists()

    (toy / "fail-prune@random-50").unlink()
    assert run().is_completed()
    assert "prune@magnitude-80" not in last_run()["tasks"]


@pytest.mark.parametrize(("stage", "attempts"), [("fetch", 3), ("train", 2), ("efficiency@random-50", 1)])
def test_only_fetching_and_training_are_tried_again(toy, server, monkeypatch, stage, attempts):  # noqa: F811
    monkeypatch.setitem(running.RETRIES["fetch"], "retry_delay_seconds", 0)
    (toy / f"fail-{stage}").touch()
    assert run().is_failed()
    assert last_run()["runs"][stage] == attempts


def test_a_users_mistake_is_not_tried_again(toy, server):  # noqa: F811
    script = toy / "stage.sh"
    script.write_text(script.read_text().replace("about to break", "error: no such text"))
    (toy / "fail-fetch").touch()
    assert run().is_failed()
    assert last_run()["runs"]["fetch"] == 1


def test_bad_settings_and_edits_that_would_be_lost_fail_before_any_stage(toy, server):  # noqa: F811
    edit_params(toy, prune={"rates": [0]})
    state = run()
    assert state.is_failed() and "prune.rates" in state.message
    edit_params(toy, prune={"rates": [50]})
    state = run(study="small")
    assert state.is_failed() and "kept nowhere else" in state.message
    assert last_run()["tasks"] == []


def processes_of(folder) -> list[psutil.Process]:
    """Every process that runs in the folder, whoever started it."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.cwd() == str(folder) and one.pid != os.getpid():
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def long_training(tmp_path):
    """The toy with a training of an hour; whatever a failing test leaves is ended."""
    yield toys.make(tmp_path, train_seconds=3600)
    for one in processes_of(tmp_path):
        one.kill()


def start(folder, *arguments: str, **more: str) -> subprocess.Popen:
    """`python -m flows.study` there, once its training runs."""
    from prefect.settings import get_current_settings

    address = {"PREFECT_API_URL": get_current_settings().api.url, **more}
    command = [sys.executable, "-m", "flows.study", *arguments]
    log = open(folder / "flow.log", "wb")  # noqa: SIM115  (the child's)
    started = subprocess.Popen(command, cwd=folder, env=environment(**address), stdout=log, stderr=log)
    wait_until(
        lambda: (folder / "events.log").exists() and "start train" in (folder / "events.log").read_text(), folder
    )
    return started


def wait_until(condition, folder, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (folder / "flow.log").read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_flow_that_is_cancelled_or_killed_leaves_no_process(long_training, server, how):
    started = start(long_training)
    assert any(one.name() == "sleep" for one in processes_of(long_training))
    began = time.monotonic()
    started.send_signal(how)
    started.wait(60)
    wait_until(lambda: not processes_of(long_training), long_training, 30)
    assert time.monotonic() - began < 30  # Prefect alone waits for the stage's thread, here an hour
    if how != signal.SIGKILL:
        assert started.returncode != 0
        assert newest().state_type.value in ("CRASHED", "CANCELLED")


def test_a_kill_of_the_flows_inner_process_ends_its_stages_and_the_server_it_had_started(
    long_training, server, tmp_path
):
    started = start(long_training, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path / "prefect-home"))
    inner = next(
        one
        for one in processes_of(long_training)
        if one.cmdline()[-1:] == ["--supervised"] and "-m" in one.cmdline()[1]
    )
    assert any("uvicorn" in " ".join(one.cmdline()) or "prefect" in " ".join(one.cmdline()) for one in inner.children())
    inner.kill()
    started.wait(60)
    wait_until(lambda: not processes_of(long_training), long_training, 30)


def test_what_a_cancelled_flow_left_undone_is_done_by_the_next_one(long_training, server, monkeypatch):
    started = start(long_training)
    started.kill()
    started.wait(60)
    wait_until(lambda: not processes_of(long_training), long_training, 30)
    (long_training / "dvc.yaml").write_text(toys.PIPELINE.format(train_seconds=0, prune_seconds=0))
    monkeypatch.chdir(long_training)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    assert run().is_completed()


def test_a_mistake_on_the_command_line_is_one_line(toy):  # noqa: F811
    for arguments, words in ((["--study", "smal"], "did you mean 'small'"), (["--workers", "0"], "at least 1")):
        done = subprocess.run(
            [sys.executable, "-m", "flows.study", *arguments], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_flows_import_neither_torch_nor_what_stages_need():
    heavy = ("torch", "transformers", "mlflow", "pandas", "stages")
    script = f"import sys, flows.study, flows.local; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
