"""What `make study` runs, on the toy pipeline: what it says, what it hides, and that it leaves no process."""

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest

from prunelab.efficiency.device import usable_cores
from tests.helpers import toy as toys
from tests.helpers.toy import edit_params, environment, events, toy  # noqa: F401  (a fixture)


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.local", *arguments]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True)


def log_of(folder: Path) -> str:
    """What the newest run logged."""
    return max((folder / ".prunelab" / "logs").glob("*.log")).read_text()


def test_a_mistake_in_the_settings_is_one_line_before_anything_runs(toy):  # noqa: F811
    edit_params(toy, prune={"rates": [100]})
    done = run()
    assert done.returncode == 1 and "prune.rates" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (toy / "events.log").exists()


@pytest.mark.slow
def test_a_study_tells_a_line_a_stage_and_ends_with_the_table_the_report_and_the_way_to_mlflow(toy):  # noqa: F811
    done = run("--study", "small")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    finished = [line for line in lines if line.startswith("[")]
    assert re.fullmatch(r"\[ 1/12\] fetch · this is fetch · \d+ s", finished[0])  # no text: what it said last
    assert re.fullmatch(r"\[12/12\] mirror · this is mirror · \d+ s", finished[-1])
    assert sorted(line.split(" · ")[0].partition("] ")[2] for line in finished[2:6]) == [
        "prune magnitude-50", "prune magnitude-80", "prune random-50", "prune random-80",
    ]  # fmt: skip
    assert "12 stages: 12 ran, 0 restored from the cache, 0 unchanged" in done.stdout
    assert "this is prune@random-50" not in done.stdout and "> sh stage.sh" not in done.stdout  # in the log
    assert "prune@random-50 | this is prune@random-50" in log_of(toy) and "> sh stage.sh device" in log_of(toy)
    assert "magnitude-80" in done.stdout and str(toy / "report" / "index.html") in done.stdout
    assert lines[-1] == "MLflow: make ui"

    again = run()
    assert again.returncode == 0 and again.stdout.startswith("nothing to do: all 11 stages are unchanged")
    assert "fetch" not in again.stdout and "[1/1] mirror · this is mirror" in again.stdout

    (toy / "models" / "random-80").unlink()
    told = run().stdout
    assert told.startswith("8 stages are unchanged, 4 to run\n[1/4] prune random-80 · restored from the cache")
    assert "[2/4] efficiency random-80 · unchanged" in told and "1 ran, 1 restored from the cache, 10 unchanged" in told


@pytest.mark.slow
def test_stages_side_by_side_get_a_share_of_the_cores_and_others_the_environment_as_it_is(toy):  # noqa: F811
    script = toy / "stage.sh"
    script.write_text("echo $1 threads=$OMP_NUM_THREADS\n" + script.read_text())
    assert run("--workers", "2", OMP_NUM_THREADS="7").returncode == 0
    given = dict(re.findall(r"\| (\S+) threads=(\d*)$", log_of(toy), re.MULTILINE))
    cores = max(2, int(usable_cores()))
    assert given.pop("prune@random-50") == given.pop("prune@random-80") == str(cores // 2)
    alone = {name: count for name, count in given.items() if not name.startswith("prune")}
    assert len(alone) == 8 + 1 and set(alone.values()) == {"7"}
    times = events(toy)
    assert times["prune@random-50"][0] < times["prune@random-80"][1]


@pytest.mark.slow
def test_a_stage_that_fails_does_not_stop_those_that_do_not_need_it(toy):  # noqa: F811
    (toy / "fail-prune@random-50").touch()
    done = run()
    assert done.returncode == 1
    assert "prune random-50 · FAILED" in done.stdout and "efficiency magnitude-80 ·" in done.stdout
    assert "this is mirror" not in done.stdout and "make ui" not in done.stdout
    log = max((toy / ".prunelab" / "logs").glob("*.log"))
    assert done.stderr.splitlines() == [
        "prune random-50 failed:",
        "    this is prune@random-50",
        "    about to break",
        "    broken on purpose",
        "  not run because of it: efficiency random-50, report, mirror",
        f"every line that the stages printed: {log.relative_to(toy)}",
        "error: the study is not complete, see above; what is finished is kept: `make study` continues",
    ]
    (toy / "fail-prune@random-50").unlink()
    done = run()
    assert done.returncode == 0 and "8 stages are unchanged, 4 to run" in done.stdout


@pytest.mark.slow
def test_of_a_stage_that_says_its_error_nothing_else_is_told(toy):  # noqa: F811
    script = toy / "stage.sh"
    script.write_text(script.read_text().replace("about to break", "error: no such text; name another"))
    (toy / "fail-fetch").touch()
    done = run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == ["fetch failed:", "    error: no such text; name another"]
    assert "not run because of it: train, prune" in done.stderr and " more\n" in done.stderr


@pytest.mark.slow
def test_a_failing_probe_shows_its_lines(toy):  # noqa: F811
    (toy / "fail-device").touch()
    done = run()
    assert done.returncode == 1 and "device failed:\n    this is device" in done.stderr


@pytest.mark.slow
def test_a_dvc_yaml_that_dvc_cannot_read_is_told_in_a_line(toy):  # noqa: F811
    (toy / "dvc.yaml").write_text((toy / "dvc.yaml").read_text().replace("prune.rates", "prune.ratez"))
    done = run()
    assert done.returncode == 1 and done.stderr.startswith("error: dvc: ") and "prune.ratez" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_the_stages_the_time_and_what_runs(tmp_path):
    toys.make(tmp_path, train_seconds=3)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    started = subprocess.Popen(
        [sys.executable, "-m", "flows.local"], cwd=tmp_path, env=environment(), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # at the end, when the other side has gone
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    text = shown.decode()
    assert started.wait(60) == 0
    assert re.search(r"1/12 stages · \d:\d\d elapsed, about \d:\d\d left", text)
    assert "train: this is train" in text and "[ 2/12] train" in text


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
