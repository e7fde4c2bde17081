"""Commands that a benchmark runs and servers that it asks: how long they took, and that they end with it."""

import contextlib
import resource
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.helpers import workspace

SERVER_SECONDS = 180  # until a server on loopback answers
END_SECONDS = 20  # until it has ended after it was asked to
OWN = ("PREFECT_", "MLFLOW_")  # variables that would lead to servers of the user's


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float  # of the command and of all below it that has ended
    said: str  # both streams


def environment(more: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in workspace.environment().items() if not name.startswith(OWN)}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    return {**kept, **quiet, **more}


def run(folder: Path, *command: str, **more: str) -> Cost:
    """Run a command in `folder` to its end, with this repository's modules behind the folder's own; more: variables."""
    before, began = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment({"PYTHONPATH": str(workspace.ROOT), **more}), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    cost = Cost(time.perf_counter() - began, _cpu_seconds() - before, done.stdout)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return cost


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def served(command: list[str], folder: Path, address: str, more: dict[str, str]) -> Iterator[bool]:
    """Within, a server runs; yields whether it answers at `address` within SERVER_SECONDS."""
    with (folder / "server.log").open("ab") as log:
        server = psutil.Popen(command, cwd=folder, env=environment(more), stdout=log, stderr=log)
    try:
        yield _answers(address, server)
    finally:
        tree = [server, *server.children(recursive=True)] if server.is_running() else []
        for end in ("terminate", "kill"):
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    getattr(process, end)()
            tree = psutil.wait_procs(tree, END_SECONDS)[1]
        server.wait()


def _answers(address: str, server: subprocess.Popen) -> bool:
    deadline = time.monotonic() + SERVER_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False
