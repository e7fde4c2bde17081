"""The commands that DVC runs, as `python -m stages.NAME`, with whatever `python` comes first on PATH."""

import sys

if sys.hexversion < 0x03060000:  # Python 2, whose readers stop at the next import, at an accent
    sys.exit("error: this is Python " + sys.version.split()[0] + " (" + sys.executable + "); the project's is "
             ".venv/bin/python: put it first on PATH (. .venv/bin/activate), then start again")  # fmt: skip

import prunelab  # noqa: F401  (it tells a Python that lacks what the stages need)
