"""A dvc that stays: it does one request after the other, because a start of dvc costs a second of a core.

A request is a line of JSON on standard input: {"repro": [stage, …], "environment": {name: value}}, {"look": true}, or
of the DVC remote {"remote": name of a function, "arguments": {…}}.
What dvc and the stages print goes to standard output as it comes; then a line that begins with MARK holds the answer
as JSON. `flows/lanes.py` asks. The module's name says dvc, by which `flows/workspace.py` knows whose locks are alive.
"""

import contextlib
import json
import os
import sys

MARK = "\x1e"  # ASCII's record separator, which no stage prints at the beginning of a line


def main() -> None:
    # The stages inherit standard input and must not read our requests.
    requests, nothing = os.fdopen(os.dup(0)), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for line in requests:
        answer = do(json.loads(line))
        print(f"\n{MARK}{json.dumps(answer)}", flush=True)


def do(request: dict) -> dict:
    if "repro" in request:
        return repro(request["repro"], request["environment"])
    if "remote" in request:
        return ask_remote(request["remote"], request["arguments"])
    from dvc.exceptions import DvcException

    try:
        return look()
    except DvcException as error:  # dvc.yaml, dvc.lock or the folder is not as dvc wants it
        return {"error": " ".join(str(error).split())}


def repro(stages: list[str], more: dict[str, str]) -> dict:
    from dvc.cli import main as dvc

    hurry()
    with environment(more):
        # Its default patience for dvc's lock is 3 s; several run side by side here.
        return {"code": dvc(["--wait-for-lock", "repro", "--single-item", *stages])}


def ask_remote(name: str, arguments: dict) -> dict:
    from flows import checkpoints, remote

    known = [remote.restore, remote.push, remote.put_device, remote.take_device]
    known += [checkpoints.put, checkpoints.take, checkpoints.drop]
    functions = {f"{one.__module__.rpartition('.')[2]}.{one.__name__}": one for one in known}
    return remote.patiently(lambda: functions[name](**arguments))


def hurry() -> None:
    """Two places where dvc waits longer than it need, which counts when hundreds of short stages run side by side."""
    from dvc import lock

    from flows import lockfile

    # The six tries at a held lock are this time / 6 apart; half a second between them leaves a lane idle, for long
    # where another takes the lock again and again.
    lock.DEFAULT_TIMEOUT = 0.3
    # For every stage dvc.lock is read whole, at its end once more and written whole.
    lockfile.install()


def look() -> dict:
    from flows import graph

    found, changed = graph.look()
    needs = {name: sorted(others) for name, others in found.needs.items()}
    return {"needs": needs, "probes": sorted(found.probes), "last": sorted(found.last), "changed": sorted(changed)}


@contextlib.contextmanager
def environment(more: dict[str, str]):
    """Within, stages find these variables as well."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main())
