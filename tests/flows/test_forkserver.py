"""Stages that are forked from a Python with torch in it behave like those that DVC starts from nothing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import forkserver, process
from flows.lanes import Forks
from tests.helpers.workspace import ROOT

pytestmark = [
    pytest.mark.slow,  # the server imports torch and transformers
    pytest.mark.skipif(not forkserver.possible(), reason="no fork of a Python with torch: not Linux, or a GPU is here"),
]

STAGE = """
import os, sys, time
from pathlib import Path
loaded = "torch" in sys.modules
import torch
what = sys.argv[1]
if what == "tell":
    print(sys.argv[1:], os.environ["OF_THE_CLIENT"], os.getcwd(), loaded, torch.get_num_threads(), sys.stdin.read())
    print("forks" if "PRUNELAB_FORKSERVER" in os.environ else "no forks", Path(__file__).name, __name__)
    print("to the other stream", file=sys.stderr)
    sys.exit(3)
if what == "raise":
    raise ValueError("broken on purpose")
if what == "wait":
    Path(f"pid-{sys.argv[2]}").write_text(str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a package `stages` whose only stage is STAGE."""
    folder = tmp_path_factory.mktemp("forks")
    (folder / "stages").mkdir()
    shutil.copyfile(ROOT / "stages" / "__init__.py", folder / "stages" / "__init__.py")
    (folder / "stages" / "toy.py").write_text(STAGE)
    return folder


@pytest.fixture(scope="module")
def address():
    process.allow()  # an earlier test may have stopped all that this process starts
    server = Forks(own_session=True)
    yield server.address
    server.close()
    assert not Path(server.address).parent.exists()


def start(folder, address, *arguments: str, **more: str) -> subprocess.Popen:
    for name in ("go", "pid-1", "pid-2"):
        (folder / name).unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PRUNELAB_FORKSERVER": str(address), **more}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.toy", *arguments], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def pid_of(folder, name: str) -> int:
    deadline = time.monotonic() + 60
    while not (path := folder / f"pid-{name}").exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.02)
    return int(path.read_text())


def test_a_forked_stage_has_the_clients_arguments_environment_folder_and_streams(folder, address):
    done = start(folder, address, "tell", "--x", "a b", OF_THE_CLIENT="yes", OMP_NUM_THREADS="1")
    out, errors = done.communicate("what was typed")
    told = f"['tell', '--x', 'a b'] yes {folder} True 1 what was typed\nno forks toy.py __main__\n"
    assert (out, errors, done.returncode) == (told, "to the other stream\n", 3)


def test_without_a_server_the_process_does_the_work_itself(folder, tmp_path):
    done = start(folder, tmp_path / "nobody", "tell", OF_THE_CLIENT="yes", OMP_NUM_THREADS="1")
    out, errors = done.communicate("x")
    assert out.splitlines()[0] == f"['tell'] yes {folder} False 1 x"
    assert (errors, done.returncode) == ("to the other stream\n", 3)


def test_what_a_stage_raises_is_shown_and_the_next_one_runs(folder, address):
    for _ in range(2):
        done = start(folder, address, "raise")
        assert "ValueError: broken on purpose" in done.communicate()[1] and done.returncode == 1


def test_two_run_side_by_side_and_a_signal_to_one_ends_its_client_with_it(folder, address):
    both = [start(folder, address, "wait", "1"), start(folder, address, "wait", "2")]
    first, second = pid_of(folder, "1"), pid_of(folder, "2")
    assert len({first, second, *(one.pid for one in both)}) == 4
    os.kill(first, signal.SIGTERM)
    assert both[0].wait(30) == -signal.SIGTERM and both[1].poll() is None
    (folder / "go").touch()
    assert both[1].wait(30) == 0


def test_a_client_that_is_killed_takes_its_stage_with_it(folder, address):
    client = start(folder, address, "wait", "1")
    forked = pid_of(folder, "1")
    client.kill()
    client.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{forked}").exists():
        assert time.monotonic() < deadline, "the forked stage goes on"
        time.sleep(0.02)
    done = start(folder, address, "raise")
    assert "broken on purpose" in done.communicate()[1]


@pytest.mark.parametrize("said", ["nothing", "half"])
def test_a_client_that_dies_before_it_has_said_what_it_wants_ends_nobody_else_s_work(folder, address, said):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        if said == "half":
            socket.send_fds(client, [b"s"], [0, 1, 2])
            client.sendall(b'{"module": ')
    done = start(folder, address, "raise")
    assert "broken on purpose" in done.communicate()[1] and done.returncode == 1


def test_a_stage_and_its_client_that_die_in_one_moment_leave_the_server_alive(folder, address):
    client = start(folder, address, "wait", "1")
    forked = pid_of(folder, "1")
    os.kill(forked, signal.SIGKILL)
    client.kill()
    client.wait()
    done = start(folder, address, "tell", OF_THE_CLIENT="yes", OMP_NUM_THREADS="1")
    assert "True 1 x" in done.communicate("x")[0]  # forked, so the server answered
