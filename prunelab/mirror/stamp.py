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
SERVER_SECONDS = 5
# Where everything that a run holds can be seen to have changed: figures, the page, the settings, the delivered model.
WATCHED = (
    "report/results.csv",
    "report/recommendation.json",
    "report/metrics.json",
    "report/index.html",
    "params.yaml",
    "models/best/delivery.json",
    "models/best/README.md",
)


def key(uri: str) -> str:
    """Hex sha256 of the store's address and of the results in the current folder."""
    whole = hashlib.sha256(store.shown(uri).encode())  # a file with a log-in's hash could be used to guess it
    for name in WATCHED:
        path = Path(name)
        whole.update(name.encode() + (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none"))
    return whole.hexdigest()


def still_there(uri: str, wanted: str) -> dict | None:
    """The stamp, if it names these very results and this very store, and the store still holds its runs."""
    if not PATH.exists():
        return None
    try:
        stamp = json.loads(PATH.read_text(encoding="utf-8"))
    except ValueError:  # cut short: the stamp only saves time
        return None
    if stamp.get("key") != wanted:
        return None
    held = _on_server(uri, stamp) if store.is_server(uri) else _in_file(store.file_of(uri), stamp["runs"])
    return stamp if held == len(stamp["runs"]) else None


def _in_file(path: Path | None, runs: list[str]) -> int:
    """How many of the runs a local store holds; 0 also for what is no such store, which the long way tells."""
    if path is None or not path.exists():
        return 0
    query = f"SELECT COUNT(*) FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN ({', '.join('?' * len(runs))})"
    try:
        with contextlib.closing(store.open_read_only(path)) as connection:
            return connection.execute(query, runs).fetchone()[0]
    except sqlite3.Error:  # not a store of this MLflow
        return 0


def _on_server(uri: str, stamp: dict) -> int:
    """How many of the stamp's runs a server holds; 0 also where it doesn't say, such as to somebody not logged in."""
    import urllib.request  # here: a local store has no use for it

    runs = ", ".join(f"'{run}'" for run in stamp["runs"])
    asked = {"experiment_ids": [stamp.get("experiment")], "filter": f"attributes.run_id IN ({runs})"}
    asked["max_results"] = len(stamp["runs"])
    request = urllib.request.Request(
        f"{store.shown(uri).rstrip('/')}/api/2.0/mlflow/runs/search",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SERVER_SECONDS) as answer:
            return len(json.load(answer).get("runs", []))
    except (OSError, ValueError, AttributeError):  # down, unwilling, no MLflow: the long way finds out and tells
        return 0


def told(stamp: dict) -> str:
    """The line for results that the store holds already."""
    return f"MLflow holds these results already · compare: {stamp['link']}"
