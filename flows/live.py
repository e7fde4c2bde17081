"""MLflow while the study runs: starts `prunelab mirror --follow` and tells it what begins and ends.

Only where MLFLOW_TRACKING_URI is set; without it the mirror at the end writes mlflow.db. No stage waits for any of it:
what is told goes through a queue that is bounded, to a process that reads whatever MLflow does.
"""

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Callable

from flows import process
from flows.schedule import measures
from prunelab.mirror import store

COMMAND = ["-m", "prunelab", "mirror", "--follow"]
BEGINNING = ["-m", "prunelab", "mirror", "--begin"]
QUEUED = 10_000  # lines to a process that doesn't read, at the most
END_SECONDS = 10.0  # that the process has to send the last of it
MIRROR = "mirror"  # the stage that completes the runs


def begin(on_line: Callable[[str], None]) -> dict[str, str] | None:
    """Begin the runs of this folder's study, for the machines that share it: path of a row → run of MLflow.

    None where MLflow is not used, {} where it is away, which on_line is told: then nobody begins any. Raises Stopped.
    """
    if not store.is_set():
        return None
    said: list[str] = []
    if process.run([sys.executable, *BEGINNING], said.append):
        why = said[-1].removeprefix("error: ") if said else "no word"
        on_line(f"MLflow: {why}; it shows nothing of this study before its end")
        return {}
    return json.loads(said[-1])


class Live:
    """Tell `began()` and `ended()` of every stage, from any thread, and at last `close()`. It goes with
    process.stop(), too."""

    def __init__(
        self,
        on_line: Callable[[str], None],
        unchanged: set[str],
        *,
        own_session: bool,
        handed: dict[str, str] | None = None,
        is_owner: bool = False,
    ):
        """on_line: gets what there is to say, a line when MLflow is away. unchanged: the stages that need not run.
        own_session: as in process.Child. handed: path of a row → its run of MLflow, where another machine began them
        (`begin()`). is_owner: this one did, and where the study stops it ends them all.
        """
        self.is_part = handed is not None and not is_owner  # of a study that another machine coordinates
        self._child: process.Child | None = None
        self._is_full = False
        if not store.is_set():
            return
        self._child = process.Child([sys.executable, *COMMAND], asked=True, own_session=own_session)
        self._on_line, self._closing = on_line, threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED)
        works = (self._tell, self._listen)
        self._threads = [threading.Thread(target=work, args=[self._child], daemon=True) for work in works]
        for thread in self._threads:
            thread.start()
        self._put({"unchanged": sorted(unchanged), "handed": handed, "is_owner": is_owner})

    def began(self, stage: str) -> None:
        """`stage` begins now; before the mirror does, everything is sent, or given up."""
        if stage == MIRROR:
            self.close()
        else:
            self._put({"began": stage, "at": time.time(), "measures": measures(stage)})

    def ended(self, stage: str, outcome: str) -> None:
        """outcome: as in repro.Said, or "failed"."""
        self._put({"ended": stage, "outcome": outcome})

    def close(self, how: str = "later") -> None:
        """The end, in END_SECONDS at the latest. how: "later": what was begun is completed by the mirror, here or where
        the study is coordinated; "stopped": by nobody for now; "failed": the study cannot go on."""
        if self._child is None:
            return
        with self._closing:
            child, self._child = self._child, None
        if child is None:  # another thread's call
            return
        self._queue({"end": how})
        until = time.monotonic() + END_SECONDS
        while child.runs() and time.monotonic() < until:
            time.sleep(process.POLL_SECONDS)
        child.close()
        with contextlib.suppress(queue.Full):  # then it doesn't wait for more
            self._lines.put_nowait(None)
        for thread in self._threads:
            thread.join()

    def _put(self, told: dict) -> None:
        if self._child is not None and not self._is_full:
            self._queue(told)

    def _queue(self, told: dict) -> None:
        try:
            self._lines.put_nowait(json.dumps(told))
        except queue.Full:
            self._is_full = True
            self._on_line("MLflow: what is sent to it stands still; the study goes on, its last stage mirrors the rest")

    def _tell(self, child: process.Child) -> None:
        while child.runs() and (line := self._lines.get()) is not None:
            child.ask(line)

    def _listen(self, child: process.Child) -> None:
        for line in child.lines:
            self._on_line(line)
