"""What `make study` runs, on the toy pipeline: what it says, what it hides, and that it leaves no process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows import local
from tests.helpers import toy as toys
from tests.helpers.toy import edit_params, environment, toy  # noqa: F401  (a fixture)


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.local", *arguments]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True)


def shown(capsys, *lines: str) -> tuple[local.Screen, list[str]]:
    screen = local.Screen()
    for line in lines:
        screen.show(line)
    return screen, capsys.readouterr().out.splitlines()


def test_stages_that_did_not_change_and_hints_of_dvc_are_hidden(capsys):
    screen, lines = shown(
        capsys, "Stage 'fetch' didn't change, skipping", "Running stage 'train':", "> python -m stages.train", "step 1",
        "Stage 'prune@a-50' is cached - skipping run, checking out outputs", "Use `dvc push` to send your updates to x",
    )  # fmt: skip
    assert lines == [
        "Running stage 'train':", "> python -m stages.train", "step 1",
        "Stage 'prune@a-50' is cached - skipping run, checking out outputs",
    ]  # fmt: skip
    assert screen.summary(90) == "3 stages: 1 ran, 1 restored from the cache, 1 unchanged; 1.5 min"


def test_the_probes_alone_are_told_in_one_line_as_nothing_to_do(capsys):
    screen, lines = shown(
        capsys, "Running stage 'device':", "> probe", "cpu", "Running stage 'inputs':", "none",
        "Stage 'fetch' didn't change, skipping", "Stage 'train' didn't change, skipping",
    )  # fmt: skip
    assert lines == [] and screen.held == [
        "Running stage 'device':",
        "> probe",
        "cpu",
        "Running stage 'inputs':",
        "none",
    ]
    assert screen.summary(1) == "nothing to do: all 2 stages are unchanged (only the probes of machine and files ran)"


def test_a_mistake_in_the_settings_is_one_line_before_anything_runs(toy):  # noqa: F811
    edit_params(toy, prune={"rates": [100]})
    done = run()
    assert done.returncode == 1 and "prune.rates" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (toy / "events.log").exists()


@pytest.mark.slow
def test_a_study_ends_with_the_table_the_report_and_the_way_to_mlflow(toy):  # noqa: F811
    done = run("--study", "small")
    assert done.returncode == 0, done.stderr
    assert "11 ran, 0 restored from the cache, 0 unchanged" in done.stdout
    assert "this is prune@random-50" in done.stdout and "this is device" not in done.stdout
    assert "magnitude-80" in done.stdout and str(toy / "report" / "index.html") in done.stdout
    assert "make ui" in done.stdout
    assert "mirror them later with: python -m prunelab.mirror.tracking" in done.stdout  # no server at that address

    again = run()
    assert again.returncode == 0 and again.stdout.startswith("nothing to do: all 11 stages are unchanged")
    assert "Running stage" not in again.stdout


@pytest.mark.slow
def test_a_failing_stage_ends_the_study_with_its_own_words_and_the_way_on(toy):  # noqa: F811
    (toy / "fail-train").touch()
    done = run()
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr and "`make study` continues" in done.stderr
    (toy / "fail-train").unlink()
    done = run()
    assert done.returncode == 0 and "10 ran, 0 restored from the cache, 1 unchanged" in done.stdout


@pytest.mark.slow
def test_a_failing_probe_shows_its_lines(toy):  # noqa: F811
    (toy / "fail-device").touch()
    done = run()
    assert done.returncode == 1 and "this is device" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_it_leaves_no_process(tmp_path, how):
    hour = f"37{os.getpid()}"  # no other process here sleeps so long
    toys.make(tmp_path, train_seconds=hour)
    started = subprocess.Popen(
        [sys.executable, "-m", "flows.local"], cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip

    def sleeping() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", hour]]

    try:
        wait_until(sleeping)
        started.send_signal(how)
        told = started.stderr.read()
        started.wait(30)
        wait_until(lambda: not sleeping())
    finally:
        for one in sleeping():
            one.kill()
    assert started.returncode != 0
    if how == signal.SIGINT:
        assert started.returncode == 130 and "`make study` continues" in told


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
