"""The commands that DVC runs, as `python -m stages.NAME`, with whatever `python` comes first on PATH."""

import os
import sys

if sys.hexversion < 0x03060000:  # Python 2, whose readers stop at the next import, at an accent
    sys.exit("error: this is Python " + sys.version.split()[0] + " (" + sys.executable + "); the project's is "
             ".venv/bin/python: put it first on PATH (. .venv/bin/activate), then start again")  # fmt: skip


def _hand_over(address):
    """Let the server at `address` (flows/forkserver.py) do what this process was started for, and end as it ended.

    Returns where no server answers: then this process does it.
    """
    import json
    import signal
    import socket

    command, environment = sys.orig_argv[2:], dict(os.environ)
    del environment["PRUNELAB_FORKSERVER"]
    job = {"module": command[0], "arguments": command[1:], "folder": os.getcwd(), "environment": environment}
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [b"s"], [0, 1, 2])
            server.sendall(json.dumps(job).encode() + b"\n")
        except OSError:
            return
        answer = server.makefile("rb").readline()
    if not answer:
        sys.exit("error: the process that was to run " + command[0] + " has gone; start again")
    code = int(answer)
    if code < 0:  # a signal ended it
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if os.environ.get("PRUNELAB_FORKSERVER") and sys.argv[0] == "-m" and sys.orig_argv[1] == "-m":
    _hand_over(os.environ["PRUNELAB_FORKSERVER"])

import prunelab  # noqa: E402, F401  (it tells a Python that lacks what the stages need)
