"""Lanes: processes of dvc that stay, as many as stages run side by side. Each does one stage after the other."""

import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flows import forkserver, process
from flows.dvc_lane import MARK
from flows.graph import Graph
from prunelab.errors import InputError

LOCK_FILE = Path("dvc.lock")
THREADS = "OMP_NUM_THREADS"  # read by torch when it is imported


class Lanes:
    """Starts a lane whenever none is free; call from as many threads as you like. `close()` ends them in order."""

    def __init__(self, own_session: bool):
        """own_session: as in process.Child."""
        self._own_session = own_session
        self._free: queue.LifoQueue[process.Child] = queue.LifoQueue()
        self._forks: Forks | None = None
        self._starting = threading.Lock()

    def repro(
        self, stages: list[str], on_line: Callable[[str], None], threads: int | None = None, fork: bool = False
    ) -> int:
        """`dvc repro` of these stages alone, in this order; its exit code. Every line of output goes to `on_line`.

        threads: how many the stages compute with; None: as many as they take. fork: they need not start from nothing
        (flows/forkserver.py). Raises process.Stopped after `process.stop()`.
        """
        environment = {} if threads is None else {THREADS: str(threads)}
        if fork and forkserver.possible():
            environment[forkserver.ADDRESS] = self._forkserver()
        return self._ask({"repro": stages, "environment": environment}, on_line)["code"]

    def look(self, run_probes: Callable[[list[str]], None], on_line: Callable[[str], None]) -> tuple[Graph, set[str]]:
        """The stages, and those that are to run once `run_probes` has run the probes, which are not among them.

        Raises InputError where dvc cannot tell.
        """
        graph, changed = self._look(on_line)
        before = _locked()
        run_probes(sorted(graph.probes))
        if _locked() != before:  # they found another machine, other files
            graph, changed = self._look(on_line)
        return graph, changed - graph.probes

    def _look(self, on_line: Callable[[str], None]) -> tuple[Graph, set[str]]:
        found = self._ask({"look": True}, on_line)
        if "error" in found:
            raise InputError(f"dvc: {found['error']}")
        if "code" in found:
            raise InputError(f"dvc ended with exit code {found['code']} when it was asked what there is to do")
        needs = {name: set(others) for name, others in found["needs"].items()}
        return Graph(needs, set(found["probes"]), set(found["last"])), set(found["changed"])

    def remote(self, function: str, on_line: Callable[[str], None], **arguments) -> dict:
        """What a function of flows/remote.py or flows/checkpoints.py, such as `remote.push`, finds.

        Raises InputError where the DVC remote refuses, or does not answer for long.
        """
        found = self._ask({"remote": function, "arguments": arguments}, on_line)
        if "error" in found:
            raise InputError(found["error"])
        if "code" in found:
            raise InputError(f"{function} of the DVC remote ended with exit code {found['code']}")
        return found

    def close(self) -> None:
        """End the lanes, all of which must be free, and the server that their stages were forked from."""
        while True:
            try:
                self._free.get_nowait().close()
            except queue.Empty:
                break
        if self._forks:
            self._forks.close()
            self._forks = None

    def _ask(self, request: dict, on_line: Callable[[str], None]) -> dict:
        lane = self._take()
        lane.ask(json.dumps(request))
        for line in lane.lines:
            if line.startswith(MARK):
                self._free.put(lane)
                return json.loads(line.removeprefix(MARK))
            on_line(line)
        return {"code": lane.wait() or 1}  # it ended before it had answered, such as killed for want of memory

    def _forkserver(self) -> str:
        """The address of the server, which is started when it is first asked for."""
        with self._starting:
            if self._forks is None:
                self._forks = Forks(self._own_session)
            return self._forks.address

    def _take(self) -> process.Child:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            command = [sys.executable, "-m", "flows.dvc_lane"]
            return process.Child(command, asked=True, own_session=self._own_session)


class Forks:
    """The running server."""

    def __init__(self, own_session: bool):
        self._folder = tempfile.TemporaryDirectory(prefix="prunelab-")
        self.address = f"{self._folder.name}/forks"  # short: a socket's path has at most 107 bytes
        command = [sys.executable, "-m", "flows.forkserver", self.address]
        self._child = process.Child(command, output=False, own_session=own_session)
        while not Path(self.address).exists() and self._child.runs():  # a tenth of a second
            time.sleep(process.POLL_SECONDS)

    def close(self) -> None:
        self._child.close()
        self._folder.cleanup()


def _locked() -> bytes:
    """What DVC knows of every stage's inputs and outputs."""
    return LOCK_FILE.read_bytes() if LOCK_FILE.exists() else b""
