"""Which tasks there are: the folders of prunelab/tasks, looked at and not imported, because they stand above."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tasks"
NAMES = tuple(sorted(path.parent.name for path in FOLDER.glob("*/__init__.py")))
