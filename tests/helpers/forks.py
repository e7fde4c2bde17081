"""One Python with torch in it for a whole run of tests, from which the stages that they start by DVC are forked.

That is how `make study` runs stages (flows/forkserver.py); it is started when the first test asks for it.
"""

import atexit
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows import forkserver

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """What makes stages fork; nothing where this system can't."""
    return {forkserver.ADDRESS: _address()} if forkserver.possible() else {}


@functools.cache
def _address() -> str:
    folder = tempfile.TemporaryDirectory(prefix="prunelab-tests-")
    address = f"{folder.name}/forks"
    server = subprocess.Popen([sys.executable, "-m", "flows.forkserver", address], cwd=ROOT, start_new_session=True)
    atexit.register(_end, server, folder)
    while not Path(address).exists():
        assert server.poll() is None, "the server that stages are forked from did not start"
        time.sleep(0.02)
    return address


def _end(server: subprocess.Popen, folder: tempfile.TemporaryDirectory) -> None:
    server.kill()
    server.wait()
    folder.cleanup()
