"""What was mirrored last, and where: with nothing new, neither mlflow (2 s) nor the results' code is imported.

Only the standard library is imported here.
"""

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

from prunelab.mirror import store

PATH = Path(".prunelab/mirrored.json")
# Where everything that a run holds can be seen to have changed: figures, the page, the settings, the delivered model.
WATCHED = (
    "report/results.csv",
    "report/metrics.json",
    "report/index.html",
    "params.yaml",
    "models/best/delivery.json",
    "models/best/README.md",
)


def key(uri: str) -> str:
    """Hex sha256 of the store's address and of the results in the current folder."""
    whole = hashlib.sha256(uri.encode())
    for name in WATCHED:
        path = Path(name)
        whole.update(name.encode() + (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none"))
    return whole.hexdigest()


def still_there(uri: str, wanted: str) -> dict | None:
    """The stamp, if it names these very results and this very local store, and the store still holds its runs."""
    path = store.file_of(uri)
    if path is None or not path.exists() or not PATH.exists():
        return None
    try:
        stamp = json.loads(PATH.read_text(encoding="utf-8"))
    except ValueError:  # cut short: the stamp only saves time
        return None
    if stamp.get("key") != wanted:
        return None
    marks = ", ".join("?" * len(stamp["runs"]))
    query = f"SELECT COUNT(*) FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN ({marks})"
    try:
        with contextlib.closing(store.open_read_only(path)) as connection:
            (count,) = connection.execute(query, stamp["runs"]).fetchone()
    except sqlite3.Error:  # not a store of this MLflow: the long way finds out what it is
        return None
    return stamp if count == len(stamp["runs"]) else None


def told(stamp: dict) -> str:
    """The line for results that the store holds already."""
    return f"MLflow holds these results already · compare: {stamp['link']}"
