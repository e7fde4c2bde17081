"""The results mirrored to MLflow: one flat run a variant, one run a study.

    python -m prunelab.mirror.tracking

DVC's cache can restore a whole study without running a stage, so stages log nothing: this rebuilds everything from
the files, at any time and as often as one likes. A run is found again by the hash of all that it holds, so a second
mirror adds nothing and a wiped store is filled anew. Weights are not copied: a logged model names the path and the
hash by which DVC keeps them.

The store is MLFLOW_TRACKING_URI, by default mlflow.db in the current folder (see it: `make ui`).
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import subprocess
import time
import urllib.parse
from pathlib import Path

from prunelab.disk import files
from prunelab.errors import exit_cleanly
from prunelab.mirror import stamp, store
from prunelab.mirror.entries import Entry, entries
from prunelab.mirror.store import Unreachable
from prunelab.study import params

LOCAL_UI = "http://127.0.0.1:5000"  # where `make ui` serves a local store
COMPARABLE = 50  # runs in one comparison link; more make it longer than terminals and browsers like
CONTENT = "prunelab.content"  # the tag that holds a run's hash
# How a new store's tables are made is no news, nor what MLflow logs of an error before it raises it.
NOT_NEWS = ("alembic", "mlflow", "urllib3")
GIT_SECONDS = 20
DATABASE_TRIES = 4  # MLflow's own ten take two minutes
# Long patience is for training jobs that would lose what they log; this can simply be run again.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Of somebody's training run, or where else it is to go: with the first, metrics of ours would belong to its model.
NOT_OURS = ("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_REGISTRY_URI")


def mirror(wanted: list[Entry], study: str, uri: str) -> tuple[str, list[str], int]:
    """Bring the runs into the store at `uri`; (experiment id, run ids in the order of `wanted`, how many are new).

    Raises Unreachable when the store cannot be used, whatever the reason is.
    """
    os.environ.update({**PATIENCE, **os.environ, **QUIET})  # before the import, which looks at them
    for name in NOT_OURS:
        os.environ.pop(name, None)
    import mlflow
    from mlflow.store.db import utils
    from sqlalchemy.exc import SQLAlchemyError

    for name in NOT_NEWS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    utils.MAX_RETRY_COUNT = DATABASE_TRIES
    identifiers, new = [], 0
    try:
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
        commit = commit_of_code()
        experiment = _experiment(client, f"prunelab-{study}", uri)
        present = _present(client, experiment)
        for entry in wanted:
            content = entry.content()
            if content not in present:
                present[content] = _create(mlflow, client, experiment, entry, {CONTENT: content, "git.commit": commit})
                new += 1
            identifiers.append(present[content])
    # ValueError: a variable of MLflow's that cannot be read, an answer that is no JSON.
    except (mlflow.MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise store.unusable(uri, error, len(identifiers)) from None
    return experiment, identifiers, new


def _experiment(client, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server decides itself where artifacts go; a local store would take the folder that happens to be current.
        place = Path("mlartifacts", name).resolve().as_uri() if uri.startswith("sqlite") else None
        return client.create_experiment(name, place)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _present(client, experiment: str) -> dict[str, str]:
    """Content hash → id of the runs that are there. What an interrupted mirror left half-written is removed."""
    present, token = {}, None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            content = run.data.tags.get(CONTENT)
            if content and run.info.status == "FINISHED":
                present[content] = run.info.run_id
            elif content:
                client.delete_run(run.info.run_id)
        token = page.token
        if not token:
            return present


def _create(mlflow, client, experiment: str, entry: Entry, tags: dict[str, str]) -> str:
    from mlflow.entities import Metric, Param

    run = client.create_run(experiment, run_name=entry.name, tags=entry.tags | tags).info.run_id
    model = None
    if entry.model is not None:
        model = mlflow.create_external_model(
            entry.model.get("name", entry.name),
            run,
            entry.model | tags,
            entry.params,
            model_type=entry.model.get("kind", "causal-lm"),
            experiment_id=experiment,
        ).model_id
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0, model_id=model) for key, value in entry.metrics.items()]
    metrics += [Metric(key, value, now, step) for step, key, value in entry.curve]
    parameters = [Param(key, value) for key, value in entry.params.items()]
    for at in range(0, max(len(metrics), len(parameters)), 100):  # a request takes at most 100 parameters
        client.log_batch(run, metrics[at : at + 100], parameters[at : at + 100], synchronous=True)
    for path in entry.artifacts:
        client.log_artifact(run, str(path))
    client.set_terminated(run)  # last: only now the run counts as there
    return run


def commit_of_code() -> str:
    """The commit of this folder, with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, check=False, timeout=GIT_SECONDS)
        return done.stdout.decode(errors="replace").strip() or "unknown"
    return "unknown"


def compare_link(uri: str, experiment: str, runs: list[str]) -> str:
    """The address that shows the runs side by side (parallel coordinates); of many runs, the experiment's own."""
    base = store.shown(uri).rstrip("/") if store.is_server(uri) else LOCAL_UI
    if len(runs) > COMPARABLE:
        return f"{base}/#/experiments/{experiment}/runs"
    lists = {"runs": json.dumps(runs, separators=(",", ":")), "experiments": json.dumps([experiment])}
    return f"{base}/#/compare-runs?{urllib.parse.urlencode(lists)}"


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
    stamp.PATH.parent.mkdir(exist_ok=True)
    with stamp.PATH.with_name("mirror.lock").open("w") as lock:
        # One mirror at a time: two that create a new store's tables both fail.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if known := stamp.still_there(uri, key):
            print(stamp.told(known))
            return
        wanted = entries(settings)
        if store.is_server(uri):
            store.require_answer(uri)
        experiment, runs, new = mirror(wanted, settings.study, uri)
        link = compare_link(uri, experiment, runs[:-1])
        files.write_json(stamp.PATH, {"key": key, "experiment": experiment, "runs": runs, "link": link})
    print(f"MLflow: {new} new runs, {len(runs) - new} there already · compare: {link}")


if __name__ == "__main__":
    exit_cleanly(main)
