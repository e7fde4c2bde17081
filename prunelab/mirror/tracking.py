"""The results mirrored to MLflow: one flat run a variant, one run a study.

    python -m prunelab.mirror.tracking

DVC's cache can restore a whole study without running a stage, so stages log nothing: this rebuilds everything from
the files, at any time and as often as one likes. A run is found again by the hash of all that it holds, so a second
mirror adds nothing and a wiped store is filled anew. Weights are not copied: a logged model names the path and the
hash by which DVC keeps them. Runs that were begun while the study ran (following.py) are completed.

The store is MLFLOW_TRACKING_URI, by default mlflow.db in the current folder (see it: `make ui`).
"""

import argparse
import contextlib
import fcntl
from pathlib import Path

from prunelab.disk import files
from prunelab.errors import exit_cleanly
from prunelab.mirror import following, runs, stamp, store, views
from prunelab.mirror.entries import Entry, entries
from prunelab.mirror.store import Unreachable
from prunelab.study import params

LOCAL_UI = "http://127.0.0.1:5000"  # where `make ui` serves a local store
FOLLOWED = Path(".prunelab/follow.lock")  # held while a running study is followed, whose runs are not ours


def mirror(wanted: list[Entry], study: str, uri: str, view: str | None = None) -> tuple[str, list[str], int]:
    """Bring the runs into the store at `uri`; (experiment id, run ids in the order of `wanted`, how many are new).

    view: how MLflow's page of them is to open (views.state).

    Raises Unreachable when the store cannot be used, whatever the reason is.
    """
    identifiers, new = [], 0
    with runs.failures_told(uri, lambda: len(identifiers)), _unfollowed() as is_ours:
        there = runs.Runs(uri, study)
        there.look()
        if not is_ours:
            there.unfinished = {}
        for entry in wanted:
            content = entry.content()
            if content in there.finished:
                there.drop(entry.key)
            else:
                there.complete(entry, content)
                new += 1
            identifiers.append(there.finished[content])
        if view is not None:
            there.set_tag(views.TAG, view)
        there.end_left()  # such as of settings that were changed before their study had ended
    return there.experiment, identifiers, new


@contextlib.contextmanager
def _unfollowed():
    """Whether no study of this folder is followed, which is so until the end."""
    FOLLOWED.parent.mkdir(exist_ok=True)
    with FOLLOWED.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def compare_link(uri: str, experiment: str) -> str:
    """The address that shows the rows side by side (views.py)."""
    base = store.shown(uri).rstrip("/") if store.is_server(uri) else LOCAL_UI
    return f"{base}/#/experiments/{experiment}/runs?viewStateShareKey={views.KEY}&compareRunsMode=CHART"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m prunelab.mirror.tracking", description=__doc__.partition("\n")[0])
    parser.add_argument("--if-reachable", action="store_true", help="a store that cannot be used is told, and no error")
    arguments = parser.parse_args(argv)
    try:
        bring()
    except Unreachable as error:
        if not arguments.if_reachable:
            raise
        print(error)


def bring() -> None:
    """Mirror this folder's results into the store of this environment, unless it holds them, and say which.

    Raises InputError where the results are not complete, Unreachable where the store cannot be used.
    """
    uri, settings = store.address(), params.load()
    key = stamp.key(uri)
    with alone():
        if known := stamp.still_there(uri, key):
            print(stamp.told(known))
            return
        wanted = entries(settings)
        if store.is_server(uri):
            store.require_answer(uri)
        experiment, identifiers, new = mirror(wanted, settings.study, uri, views.state(settings))
        link = compare_link(uri, experiment)
        files.write_json(stamp.PATH, {"key": key, "experiment": experiment, "runs": identifiers, "link": link})
    print(f"MLflow: {new} new runs, {len(identifiers) - new} there already · compare: {link}")


def begin() -> dict[str, str]:
    """Begin the runs of this folder's study, or find those that were begun: path of a row → run id, "" of the study.

    One machine does it and hands the ids to the others that work on the study (follow.py: `handed`), because two would
    begin each run twice. Raises Unreachable.
    """
    uri, settings = store.address(), params.load()
    paths = [f"{tag}/{variant.id}" for tag in settings.seeds for variant in settings.variants()]
    with alone(), runs.failures_told(uri):
        if store.is_server(uri):
            store.require_answer(uri)
        return following.hand_out(settings, runs.Runs(uri, settings.study), paths)


@contextlib.contextmanager
def alone():
    """Within, nothing else of this folder mirrors: two that create a new store's tables both fail."""
    stamp.PATH.parent.mkdir(exist_ok=True)
    with stamp.PATH.with_name("mirror.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    exit_cleanly(main)
