"""The only file that starts processes, and the place where none is left behind.

    us ──── pipe (lifeline) ────► supervisor ──► dvc ──► sh ──► python -m stages.train ──► its workers
      ◄──── the command's output ──────────────────┘

We hold the only write end of the lifeline. However we end, also by `kill -9`, the kernel closes it; the supervisor
reads end-of-file and ends everything below it. A dvc that dies hands its children to the supervisor, not to init
(Linux: child subreaper), so the tree stays whole. The supervisor leaves our process group, so that a group kill, which
is how a Prefect worker cancels a run, does not take it before it has swept up; the command stays in the group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ASK_SECONDS = 20.0  # for a short command such as git, on a slow disk too
COMMAND_GRACE_SECONDS = 5.0  # for the command after it was asked to end: a flow reports its state to the server
REST_GRACE_SECONDS = 2.0  # for what the command leaves
REDRAW_SECONDS = 10.0  # of a progress bar that redraws itself, one state in so many seconds is passed on
POLL_SECONDS = 0.05
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>

_lifelines: set[int] = set()  # write ends, one a running command
_stopped = threading.Event()
_starting = threading.Lock()


class Stopped(Exception):
    """`stop()` was called: a running command was ended, or none is started any more."""


def environment(**more: str) -> dict[str, str]:
    """Our environment for a child: `python` is this Python, output unbuffered, no telemetry, and what `more` says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **quiet, "PATH": path, "PYTHONUNBUFFERED": "1", **more}


class Child:
    """A command that runs under a supervisor, so that its whole tree ends with it, with `close()` or with us."""

    def __init__(
        self,
        command: list[str],
        *,
        output: bool = True,
        merge_stderr: bool = True,
        own_session: bool = False,
        asked: bool = False,
    ):
        """output: `lines` yields what it prints, as it appears; else standard output is left to it.
        merge_stderr: standard error too, else it is inherited (a progress bar needs the terminal).
        own_session: it is out of the terminal's reach, so that Ctrl-C reaches us alone and we end it in order.
        asked: its standard input is what `ask()` writes, else empty. Raises Stopped after `stop()`.
        """
        with _starting:
            if _stopped.is_set():
                raise Stopped
            watched, self._lifeline = os.pipe()  # not inheritable: no other child holds the write end
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(watched), str(int(own_session)), *command],
                stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
                stdout=subprocess.PIPE if output else None,
                stderr=subprocess.STDOUT if output and merge_stderr else None,
                env=environment(),
                pass_fds=[watched],
                start_new_session=own_session,
            )
            os.close(watched)
            _lifelines.add(self._lifeline)
        self.lines = _lines(self._process.stdout) if output else iter(())

    def ask(self, line: str) -> None:
        """Write a line to its standard input; nothing happens where it has ended, which its `lines` then show."""
        with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: another thread has closed it
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def runs(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code once it has ended (128 + n: by signal n). Raises Stopped after `stop()`."""
        try:
            code = self._process.wait()
        finally:
            self.close()
        if _stopped.is_set():
            raise Stopped
        return code

    def close(self) -> None:
        """End it, if it still runs, and wait until the supervisor has swept up."""
        lifeline, self._lifeline = self._lifeline, None  # once: the number may be another child's by now
        if lifeline is not None:
            _close(lifeline)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what was asked last was never read
                    stream.close()


def run(
    command: list[str], on_line: Callable[[str], None] | None, *, merge_stderr: bool = True, own_session: bool = False
) -> int:
    """Run `command` and return its exit code (128 + n: ended by signal n). Raises Stopped after `stop()`.

    on_line: gets every line of output as it appears; None leaves standard output to the command. The rest: see Child.
    """
    child = Child(command, output=on_line is not None, merge_stderr=merge_stderr, own_session=own_session)
    try:
        for line in child.lines:
            on_line(line)
        return child.wait()
    finally:
        child.close()


def allow() -> None:
    """Let `run()` start commands again after a `stop()`: the beginning of a flow in a process that had one before."""
    _stopped.clear()


def stop() -> None:
    """End every running command with all its children, and start none any more; `run()` raises Stopped."""
    _stopped.set()
    with _starting:
        for lifeline in list(_lifelines):
            _close(lifeline)


def leave_in_order() -> None:
    """From now on SIGTERM ends this process like `sys.exit()`: `run()` waits until nothing of its command is left."""
    signal.signal(signal.SIGTERM, _leave)


class Answer(NamedTuple):
    """What a short command said."""

    code: int | None  # its exit code; None when there is none: it is not installed, or was too slow
    output: str
    reason: str  # why it failed, in one line: the first of its standard error, or ours; empty when it did not


def ask(command: list[str]) -> Answer:
    """Run a short command that must not keep anybody waiting: after ASK_SECONDS it is ended."""
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment(LC_ALL="C"), stdin=subprocess.DEVNULL, timeout=ASK_SECONDS
        )
    except FileNotFoundError:
        return Answer(None, "", f"{command[0]} is not installed")
    except OSError as error:
        return Answer(None, "", f"{command[0]} does not start: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"{command[0]} did not answer within {ASK_SECONDS:g} s")
    said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
    reason = "" if done.returncode == 0 else said or f"{command[0]} failed with exit code {done.returncode}"
    return Answer(done.returncode, done.stdout.decode(errors="replace"), reason)


def _close(lifeline: int) -> None:
    if lifeline in _lifelines:
        _lifelines.discard(lifeline)
        os.close(lifeline)


def _lines(stream) -> Iterator[str]:
    """Lines of a byte stream. What ends in a carriage return is a redrawn progress bar: see REDRAW_SECONDS."""
    pending, redrawn_at = b"", float("-inf")
    while chunk := stream.read1(65536):
        *whole, pending = (pending + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\r\n").split(b"\n")
        for line in whole:
            if line.endswith(b"\r"):
                if time.monotonic() - redrawn_at < REDRAW_SECONDS:
                    continue
                redrawn_at = time.monotonic()
            if text := line.decode(errors="replace").rstrip():
                yield text
    if text := pending.decode(errors="replace").rstrip():
        yield text


# ---- below: the supervisor, a process of its own ----


def supervise(watched: int, own_session: bool, command: list[str]) -> int:
    """Run `command`; end it and all its descendants when `watched` reads end-of-file. Its exit code as in `run()`."""
    _adopt_orphans()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _leave)
    child = None
    try:
        child = subprocess.Popen(command)
        if not own_session:
            os.setsid()  # out of the group only now: the child stays in it
        threading.Thread(target=_watch, args=[watched], daemon=True).start()
        code = child.wait()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        _end_tree(child)  # after an ordinary end too: a stage may have left something running
    return 128 - code if code < 0 else code


def _watch(watched: int) -> None:
    os.read(watched, 1)  # nothing is ever written: it returns when the write end is closed
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, _frame) -> None:
    sys.exit(128 + number)


def _end_tree(child: subprocess.Popen | None) -> None:
    """End the command first, so that a flow can report its end, then what it leaves; after a grace by SIGKILL."""
    if not _has_children():
        return
    import psutil  # 50 ms that a command which ends in good order does not pay

    us = psutil.Process()
    if child is not None:
        child.terminate()
        _wait(lambda: child.poll() is None, COMMAND_GRACE_SECONDS)
    for process in us.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _wait(_has_children, REST_GRACE_SECONDS)
    while _has_children():  # repeated, because a process may start another one meanwhile
        for process in us.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(POLL_SECONDS)


def _has_children() -> bool:
    """Whether something below us still runs; what has ended is reaped, because a zombie keeps its pid."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]))
