"""Processes: their output, and that none is left behind however we end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows import process

ROOT = Path(__file__).parents[2]

# A stage that resists: it ignores SIGTERM and has a child in a session of its own.
STUBBORN = "trap '' TERM; echo ready; setsid sh -c 'trap \"\" TERM; sleep {mark}; true' & sleep {mark}; true"


@pytest.fixture(autouse=True)
def allowed():
    process.allow()
    yield
    process.stop()
    process.allow()


@pytest.fixture
def mark():
    """A number of seconds to sleep that no other process on this machine has in its command line."""
    unique = f"{os.getpid()}{time.time_ns() % 10**9:09}"
    yield unique
    for pid in with_mark(unique):
        os.kill(pid, signal.SIGKILL)


def with_mark(mark: str) -> list[int]:
    """Process ids whose command line holds `mark`."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if one.pid != os.getpid() and mark in " ".join(one.info["cmdline"] or ()):
            found.append(one.pid)
    return found


def sleeping(mark: str) -> bool:
    """Whether both sleeps of STUBBORN run."""
    return sum(one.info["cmdline"] == ["sleep", mark] for one in psutil.process_iter(["cmdline"])) == 2


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_output_comes_line_by_line_with_standard_error_and_the_exit_code():
    lines = []
    assert process.run(["sh", "-c", "echo one; echo two >&2; printf three; exit 7"], lines.append) == 7
    assert lines == ["one", "two", "three"]


def test_a_line_arrives_when_it_is_printed_and_not_at_the_end():
    arrived = []
    script = "import time; print('early'); time.sleep(1.5); print('late')"
    process.run([sys.executable, "-c", script], lambda line: arrived.append(time.monotonic()))
    assert arrived[1] - arrived[0] > 1


def test_of_a_redrawn_progress_bar_one_state_is_shown_and_the_lines_after_it_all():
    lines = []
    process.run(["printf", "0%%\\r50%%\\r100%%\\ndone\\n"], lines.append)
    assert lines == ["0%", "100%", "done"]


def test_bytes_that_are_no_text_do_not_break_the_log():
    lines = []
    process.run(["printf", "a\\377b\\n"], lines.append)
    assert lines == ["a\ufffdb"]


def test_the_exit_code_of_a_killed_command_is_128_plus_the_signal():
    assert process.run(["sh", "-c", "kill -9 $$"], lambda line: None) == 128 + 9


def test_python_in_a_command_is_this_python():
    lines = []
    process.run(["sh", "-c", "command -v python"], lines.append)
    assert Path(lines[0]).parent == Path(sys.executable).parent


def test_what_a_command_leaves_running_ends_with_it(mark):
    assert process.run(["sh", "-c", f"sleep {mark} & exit 0"], lambda line: None) == 0
    assert with_mark(mark) == []


@pytest.mark.slow
def test_stopping_ends_the_whole_tree_even_what_ignores_it_or_left_the_session(mark):
    raised = []

    def work():
        try:
            process.run(["sh", "-c", STUBBORN.format(mark=mark)], lambda line: None)
        except process.Stopped:
            raised.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: sleeping(mark))
    process.stop()
    thread.join(30)
    assert raised == [True] and with_mark(mark) == []


def test_after_stop_nothing_starts_until_it_is_allowed_again():
    process.stop()
    with pytest.raises(process.Stopped):
        process.run(["true"], None)
    process.allow()
    assert process.run(["true"], None) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("own_session", [True, False])
def test_however_the_one_who_started_it_dies_nothing_is_left(how, own_session, mark):
    script = (
        "from flows import process; process.leave_in_order(); "
        f"process.run(['sh', '-c', {STUBBORN.format(mark=mark)!r}], print, own_session={own_session})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    starter = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: sleeping(mark))
    starter.send_signal(how)
    starter.wait(30)
    wait_until(lambda: with_mark(mark) == [])


@pytest.mark.slow
def test_a_group_kill_takes_the_command_and_spares_who_sweeps_up(mark):
    script = f"from flows import process; process.run(['sh', '-c', {STUBBORN.format(mark=mark)!r}], print)"
    starter = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: sleeping(mark))
    direct = [pid for pid in with_mark(mark) if os.getpgid(pid) == starter.pid]
    assert len(direct) >= 3  # the starter, sh and its sleep: what a Prefect worker reaches
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait(30)
    wait_until(lambda: with_mark(mark) == [])  # also the sleep that had left the group


def test_a_short_command_is_asked_and_its_reason_for_failing_is_one_line():
    assert process.ask(["sh", "-c", "echo yes"]) == process.Answer(0, "yes\n", "")
    assert process.ask(["sh", "-c", "echo no >&2; echo more >&2; exit 7"]) == process.Answer(7, "", "no")
    assert process.ask(["sh", "-c", "exit 7"]).reason == "sh failed with exit code 7"
    assert process.ask(["no-such-tool"]) == process.Answer(None, "", "no-such-tool is not installed")


def test_a_short_command_that_takes_long_is_ended(monkeypatch, mark):
    monkeypatch.setattr(process, "ASK_SECONDS", 0.3)
    assert process.ask(["sleep", mark]).reason == "sleep did not answer within 0.3 s"
    assert with_mark(mark) == []
