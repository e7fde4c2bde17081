"""Turns on one machine: who measures has it alone, all others that compute share it, whichever clone they belong to.

Two locks of the kernel, which end with their process, however that ends. `machine` is held by everybody, shared or
alone; `door` by who waits for it, so that one who wants to measure is not passed by all that come after him.
Stages that compute for moments only, such as the probes and the report, take no turn.
"""

import contextlib
import fcntl
import os
import sys
import tempfile
from pathlib import Path

MACHINE, DOOR = "prunelab-measuring.lock", "prunelab-waiting.lock"


@contextlib.contextmanager
def measuring(folder=None):
    """Have the machine alone; waits for all that compute here. folder: of the locks, else that of temporary files."""
    with _turn(fcntl.LOCK_EX, "other stages compute on this machine: waiting for their end to measure", folder):
        yield


@contextlib.contextmanager
def computing(folder=None):
    """Share the machine with others that compute; waits for one that measures, or waits to."""
    with _turn(fcntl.LOCK_SH, "another process is measuring on this machine: waiting for it", folder):
        yield


@contextlib.contextmanager
def _turn(kind: int, told: str, folder):
    with _opened(MACHINE, folder) as machine:
        with _opened(DOOR, folder) as door:
            if not (_locks(door, fcntl.LOCK_EX) and _locks(machine, kind)):
                print(told, file=sys.stderr, flush=True)
                fcntl.flock(door, fcntl.LOCK_EX)
                fcntl.flock(machine, kind)
        yield


def _locks(descriptor: int, kind: int) -> bool:
    """Take the lock if nobody has it; whether it was taken."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _opened(name: str, folder):
    path = Path(folder or tempfile.gettempdir()) / name
    try:
        descriptor = os.open(path, os.O_RDONLY)  # may be another user's file, which the kernel lets us read, not create
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
