"""A real MLflow server on loopback, with SQLite behind it."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import loopback

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextlib.contextmanager
def serve(folder: Path, port: int | None = None) -> Iterator[str]:
    """Serve the store in `folder`, made where it isn't there; yields its address."""
    port = port or loopback.closed_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "far")]
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(f"{address}/health")
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def _wait_for(address: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError, OSError):
            urllib.request.urlopen(address, timeout=2).close()
            return
        time.sleep(0.5)
    raise AssertionError(f"{address} did not come up in {seconds} s")
