"""Lanes: processes of dvc that stay, as many as stages run side by side. Each does one stage after the other."""

import json
import queue
import sys
from collections.abc import Callable

from flows import process
from flows.dvc_lane import MARK
from flows.graph import Graph
from prunelab.errors import InputError


class Lanes:
    """Starts a lane whenever none is free; call from as many threads as you like. `close()` ends them in order."""

    def __init__(self, own_session: bool):
        """own_session: as in process.Child."""
        self._own_session = own_session
        self._free: queue.LifoQueue[process.Child] = queue.LifoQueue()

    def repro(self, stages: list[str], on_line: Callable[[str], None], threads: int | None = None) -> int:
        """`dvc repro` of these stages alone, in this order; its exit code. Every line of output goes to `on_line`.

        threads: how many the stages compute with; None: as many as they take. Raises process.Stopped after
        `process.stop()`.
        """
        return self._ask({"repro": stages, "threads": threads}, on_line)["code"]

    def graph(self, on_line: Callable[[str], None]) -> Graph:
        """The stages. Raises InputError where dvc cannot read them."""
        found = _checked(self._ask({"graph": True}, on_line))
        needs = {name: set(others) for name, others in found["needs"].items()}
        return Graph(needs, set(found["probes"]), set(found["last"]))

    def changed(self, needs: dict[str, set[str]], on_line: Callable[[str], None]) -> set[str]:
        """flows.graph.changed(). Raises InputError where dvc cannot tell."""
        request = {"changed": {name: sorted(others) for name, others in needs.items()}}
        return set(_checked(self._ask(request, on_line))["changed"])

    def close(self) -> None:
        """End the lanes, all of which must be free."""
        while True:
            try:
                self._free.get_nowait().close()
            except queue.Empty:
                return

    def _ask(self, request: dict, on_line: Callable[[str], None]) -> dict:
        lane = self._take()
        lane.ask(json.dumps(request))
        for line in lane.lines:
            if line.startswith(MARK):
                self._free.put(lane)
                return json.loads(line.removeprefix(MARK))
            on_line(line)
        return {"code": lane.wait() or 1}  # it ended before it had answered, such as killed for want of memory

    def _take(self) -> process.Child:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            command = [sys.executable, "-m", "flows.dvc_lane"]
            return process.Child(command, asked=True, own_session=self._own_session)


def _checked(answer: dict) -> dict:
    if "error" in answer:
        raise InputError(f"dvc: {answer['error']}")
    if "code" in answer:
        raise InputError(
            f"dvc ended with exit code {answer['code']} when it was asked what there is to do; see its log"
        )
    return answer
