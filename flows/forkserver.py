"""A Python that has imported torch and transformers, and forks itself for every stage: the imports are paid once.

    python -m flows.forkserver SOCKET

They are most of the time of a stage that scores a small model. DVC starts `python -m stages.quality …` as
ever; where PRUNELAB_FORKSERVER names our socket, that process (stages/__init__.py) hands over its arguments,
environment, folder and standard streams, waits, and ends as the forked one ended. When it dies, the forked one is
killed.

Nothing of the project is imported here, so that an edit counts from the next stage on. Not on machines with a GPU,
whose driver does not survive a fork, and not for stages that measure: those start from nothing, as a served model does.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

ADDRESS = "PRUNELAB_FORKSERVER"  # the environment variable that names the socket
LIBRARIES = (
    "torch", "transformers.modeling_utils", "transformers.generation.utils", "transformers.models.auto",
    "tokenizers", "scipy.special",
)  # fmt: skip
STREAMS = (0, 1, 2)  # standard input, output, error


class Forked(NamedTuple):
    pid: int
    client: socket.socket


def possible() -> bool:
    """Whether this system can fork a Python that has torch in it: Linux with pidfd_open (5.3), and no GPU."""
    gpus = [device for name in ("nvidia[0-9]*", "kfd", "dxg") for device in Path("/dev").glob(name)]
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and not gpus


def main() -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{sys.argv[1]}-")
    listening.listen()
    os.rename(f"{sys.argv[1]}-", sys.argv[1])  # from now on stages find us, and wait
    with _silence():
        _import_libraries()
    gc.freeze()  # a collection in a forked process would copy every page that they share
    try:
        job = _serve(listening)
    except KeyboardInterrupt:  # our whole group was interrupted
        return
    _become(job)


@contextlib.contextmanager
def _silence():
    """Within, nothing that is written to standard output or error appears: libraries warn when they are imported."""
    kept = [os.dup(stream) for stream in STREAMS[1:]]
    with open(os.devnull, "wb") as nothing:
        for stream in STREAMS[1:]:
            os.dup2(nothing.fileno(), stream)
    try:
        yield
    finally:
        for stream, copy in zip(STREAMS[1:], kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)


def _import_libraries() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)


def _serve(listening: socket.socket) -> dict:
    """Fork for every client, for ever. Returns in the forked processes alone: what each is to do."""
    watched = selectors.DefaultSelector()
    watched.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.fileobj not in watched.get_map():  # its other event, of the same moment, has ended it
                continue
            if key.fileobj is listening:
                client, _ = listening.accept()
                job, streams = _receive(client)
                if job is None:
                    client.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    _take(streams)
                    for fd in [client.detach(), *streams, *(other.fd for other in watched.get_map().values())]:
                        os.close(fd)
                    return job
                for stream in streams:
                    os.close(stream)
                watched.register(client, selectors.EVENT_READ, Forked(pid, client))
                watched.register(os.pidfd_open(pid), selectors.EVENT_READ, Forked(pid, client))
            elif key.fileobj is key.data.client:  # which says nothing more: it died
                watched.unregister(key.fileobj)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(key.data.pid, signal.SIGKILL)
            else:
                watched.unregister(key.fileobj)
                os.close(key.fileobj)
                _answer(key.data)
                with contextlib.suppress(KeyError):  # it died before
                    watched.unregister(key.data.client)
                key.data.client.close()


def _receive(client: socket.socket) -> tuple[dict | None, list[int]]:
    """What a client asks for, and its streams; no job where it died before it had said so."""
    try:
        _, streams, _, _ = socket.recv_fds(client, 1, len(STREAMS))
        with client.makefile("rb") as file:
            line = file.readline()
    except ConnectionError:
        return None, []
    if line.endswith(b"\n"):
        return json.loads(line), streams
    for stream in streams:
        os.close(stream)
    return None, []


def _take(streams: list[int]) -> None:
    """Make the client's standard streams ours; our own are of another kind, such as a file where these are a pipe."""
    for place, stream in zip(STREAMS, streams, strict=True):
        os.dup2(stream, place)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _answer(one: Forked) -> None:
    """Tell the client how the forked process ended: its exit code, or -n for signal n."""
    code = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
    with contextlib.suppress(OSError):  # it died
        one.client.sendall(b"%d\n" % code)


def _become(job: dict) -> None:
    """Be `python -m MODULE ARGUMENTS`, started by the client."""
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    if threads := os.environ.get("OMP_NUM_THREADS"):  # torch reads it when it is imported, which it was
        import torch

        torch.set_num_threads(int(threads))
    sys.path[:1] = [job["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-m", *job["arguments"]]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
