"""Whether this Python is the one that the project was installed for; another one comes first on PATH easily.

DVC runs `python` from PATH, `python -m` takes whichever the shell finds. Only the standard library is imported here,
and nothing of a Python newer than 3.7 is written, because the wrong Python has to read this file too.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NAMED = 3  # missing packages that the line names; of the wrong Python it is nearly all of them


def require() -> None:
    """End the process with one line on stderr where this Python lacks what pyproject.toml asks for.

    An installed package without the project around it (no pyproject.toml) was installed with what it needs.
    """
    if not (ROOT / "pyproject.toml").exists():
        return
    if sys.version_info < OLDEST:
        told = "is older than {}.{}".format(*OLDEST)
    else:
        missing = lacking()
        if not missing:
            return
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        told = "has no " + ", ".join(missing[:NAMED]) + more
    raise SystemExit(f"error: {this()} {told}; {what_to_do()}")


def lacking() -> list:
    """The distributions that pyproject.toml asks for and this Python does not have, in the order they stand there."""
    import re
    import tomllib
    from importlib import metadata

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    missing = []
    for name in (re.match(r"[\w.-]+", one)[0] for one in asked):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def this() -> str:
    """This Python for a message: where it is, and its version."""
    return "the Python that runs here ({}, {}.{}.{})".format(sys.executable or "unknown", *sys.version_info[:3])


def what_to_do() -> str:
    """How to come to the Python of the project."""
    if not has_project():
        return "install what it needs with `make .venv/installed`, then `. .venv/bin/activate`"
    if is_the_projects():
        return "the project's environment is incomplete: make .venv/installed"
    return "the project's is .venv/bin/python: put it first on PATH (. .venv/bin/activate), then start again"


def has_project() -> bool:
    """Whether the project has an environment of its own, `.venv`, which the Makefile makes."""
    return (ROOT / ".venv" / "bin" / "python").exists()


def is_the_projects() -> bool:
    """Whether this Python is the one of `.venv`."""
    return Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
