"""Where commands have gone that earlier versions of the documents name: `python -m prunelab.results` and the like.

Only the standard library is imported here, and nothing of a Python newer than 3.7 is written (interpreter.py says why).
"""

import sys

# The module that was called, and what is typed now.
NOW = {
    "params": "prunelab check",
    "results": "prunelab results",
    "tracking": "prunelab mirror",
    "export": "prunelab export",
    "hub": "prunelab publish",
    "memory": "python -m prunelab.efficiency.memory",
}


def tell() -> None:
    """End the process with one line on stderr where its command was the module of an earlier version."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    room, _, name = module.rpartition(".")
    if room == "prunelab" and name in NOW:
        raise SystemExit(f"error: python -m {module} is now: {NOW[name]}")
