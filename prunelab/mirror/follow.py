"""A running study, told to MLflow as it goes: `prunelab mirror --follow`, which the runner starts (flows/live.py).

It reads from standard input, a line of JSON each, what the runner does:

    {"unchanged": [stage, …], "handed": {row: run id, …} | null, "is_owner": true | false}   first
    {"began": stage, "at": unix seconds, "measures": true | false}
    {"ended": stage, "outcome": "ran" | "restored" | "unchanged" | "failed"}
    {"end": "later" | "stopped" | "failed"}       the mirror completes the runs | nobody for now | nobody can

No stage waits for it, or knows of it. A store that is away or slow is told once, in a line, and asked again now and
then; what was missed is sent when it is back, the rest by the mirror at the end. While a stage measures time and energy
nothing is sent. Where standard input ends without a word, or SIGTERM comes, the study was stopped, and so are its runs.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from prunelab.errors import InputError
from prunelab.mirror import runs, store, tracking
from prunelab.mirror.following import Following
from prunelab.mirror.store import Unreachable
from prunelab.study import params

POLL_SECONDS = 1.0
STARTING_SECONDS = 2.0  # of a measuring stage, which imports its libraries first: so long something may be sent
LAST_SECONDS = 3.0  # for what is left at the end
AWAY_SECONDS = (5.0, 60.0)  # between two tries at a store that is away: at first, and at the most
NICENESS = 10  # a training goes first
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
STATUS = {"failed": "FAILED", "stopped": "KILLED"}


class Inbox:
    """The lines of standard input, read as they come, so that the runner never waits."""

    def __init__(self, stream):
        self._lines: list[dict] = []
        self._news = threading.Condition()
        self._over = False
        threading.Thread(target=self._read, args=[stream], daemon=True).start()

    def _read(self, stream) -> None:
        try:
            for line in stream:
                with self._news:
                    self._lines.append(json.loads(line))
                    self._news.notify()
        finally:  # also behind a line that was cut off
            with self._news:
                self._over = True
                self._news.notify()

    def take(self, seconds: float) -> list[dict]:
        """What has come; after `seconds` without anything nothing. At the end of the input its last line says so."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self._over, seconds)
            found, self._lines = self._lines, []
            return found or ([{"end": "stopped"}] if self._over else [])


class Follower:
    def __init__(self, uri: str, settings):
        self._uri, self._settings = uri, settings
        self._following: Following | None = None
        self._measuring: dict[str, float] = {}  # stage → monotonic seconds at which it began
        self._pause, self._again = AWAY_SECONDS[0], 0.0  # monotonic seconds before which the store isn't asked again
        self._told = False
        self.end: str | None = None

    def take(self, line: dict) -> None:
        match line:
            case {"unchanged": names, "handed": handed, "is_owner": is_owner}:
                self._following = Following(self._settings, handed, is_owner)
                self._following.unchanged(names)
            case {"began": stage, "at": at, "measures": measures}:
                self._following.began(stage, at)
                if measures:
                    self._measuring[stage] = time.monotonic()
            case {"ended": stage, "outcome": outcome}:
                self._measuring.pop(stage, None)
                self._following.ended(stage, outcome)
            case {"end": how}:
                self.end = how

    def may_send(self) -> bool:
        now = time.monotonic()
        quiet = any(now - began > STARTING_SECONDS for began in self._measuring.values())
        return self._following is not None and not quiet and now >= self._again

    def send(self) -> bool:
        """Send one piece of what is due; whether there was one."""
        if not self._following.is_due():
            return False
        with self._warning():
            self._reach()
            with runs.failures_told(self._uri):
                self._following.send()
            self._pause = AWAY_SECONDS[0]
        return True

    def finish(self) -> None:
        """Leave no run running, unless the mirror comes next."""
        if self.end not in STATUS or self._following is None or not self._following.has_begun_any():
            return
        with self._warning():
            self._reach()
            with runs.failures_told(self._uri):
                self._following.end(STATUS[self.end])

    def _reach(self) -> None:
        if self._following.store is not None:
            return
        if store.is_server(self._uri):
            store.require_answer(self._uri)
        with runs.failures_told(self._uri), tracking.alone():
            there = runs.Runs(self._uri, self._settings.study, PATIENCE)
            there.look(finished_too=False)
            if self._following.is_own:
                there.end_left()
        self._following.store = there

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Within, what goes wrong is told, the first time, and the store left alone for a while."""
        try:
            yield
        except InputError as error:
            if not self._told:
                told = error.why if isinstance(error, Unreachable) else f"MLflow: {error}"
                print(f"{told}; the study goes on, and its last stage mirrors what is missing", flush=True)
            self._told = True
            if isinstance(error, Unreachable):
                self._again = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, AWAY_SECONDS[1])


class _Stopped(BaseException):
    """SIGTERM came; no Exception, which a library might catch."""


def _stop(_number, _frame) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what follows is quick
    raise _Stopped


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the runner, which ends us
    os.nice(NICENESS)
    inbox = Inbox(sys.stdin)
    tracking.FOLLOWED.parent.mkdir(exist_ok=True)
    with tracking.FOLLOWED.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the mirror leaves the runs to us, until the kernel sees us gone
        try:
            follower = Follower(store.address(), params.load())
        except Unreachable as error:
            print(f"{error.why}; the study goes on, but MLflow shows nothing of it", flush=True)
            return
        signal.signal(signal.SIGTERM, _stop)
        try:
            _follow(inbox, follower)
        except _Stopped:
            follower.end = "stopped"
        follower.finish()


def _follow(inbox: Inbox, follower: Follower) -> None:
    busy = False
    while follower.end is None:
        for line in inbox.take(0.0 if busy else POLL_SECONDS):
            follower.take(line)
        busy = follower.end is None and follower.may_send() and follower.send()
    if follower.end == "stopped":
        return
    until = time.monotonic() + LAST_SECONDS
    while time.monotonic() < until and follower.may_send() and follower.send():
        pass
