"""The runs in an MLflow store: found again, begun, filled with what a study's files say, ended.

A run carries two tags of ours. CONTENT is the hash of all that it holds: a finished run is known by it, and never made
twice. KEY says whose it is while its study still runs (entries.key): a study that was killed goes on in
the runs that it had begun.

Every point is logged with a time that stays the same (that of the training's file, or the run's beginning), because
MLflow keeps points that are equal in everything once: what is sent again after a broken connection adds nothing.
"""

import contextlib
import logging
import math
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from prunelab.disk.files import whole_file
from prunelab.errors import InputError
from prunelab.mirror import store
from prunelab.mirror.entries import Entry, Point

CONTENT = "prunelab.content"
KEY = "prunelab.run"
CLONE = "prunelab.clone"  # whose content is that of NAME, in the folder that the study runs in
NAME = Path(".prunelab/clone")
FINISHED, RUNNING = "FINISHED", "RUNNING"
# How a new store's tables are made is no news, nor what MLflow logs of an error before it raises it.
NOT_NEWS = ("alembic", "mlflow", "urllib3")
GIT_SECONDS = 20
UNKNOWN = "unknown"
DATABASE_TRIES = 4  # MLflow's own ten take two minutes
AT_ONCE = 100  # a request takes at most 100 parameters, 100 tags and 1,000 points
# Long patience is for training jobs that would lose what they log; this can simply be run again.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Of somebody's training run, or where else it is to go: with the first, metrics of ours would belong to its model.
NOT_OURS = ("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_REGISTRY_URI")


@contextlib.contextmanager
def failures_told(uri: str, done: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Within, whatever MLflow, its database or the system raises becomes store.Unreachable; done: runs it took."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        theirs = any(kind.__module__.partition(".")[0] in ("mlflow", "sqlalchemy") for kind in type(error).__mro__)
        # ValueError: a variable of MLflow's that cannot be read, an answer that is no JSON.
        if not theirs and not isinstance(error, ImportError | OSError | ValueError):
            raise
        raise store.unusable(uri, error, done()) from None


class Runs:
    """The runs of the study `study` in the store at `uri`, as far as `look()` has found them. Everything here raises
    what MLflow raises (`failures_told`)."""

    def __init__(self, uri: str, study: str, patience: dict[str, str] = PATIENCE):
        os.environ.update({**patience, **os.environ, **QUIET})  # before the import, which looks at them
        for name in NOT_OURS:
            os.environ.pop(name, None)
        import mlflow

        for name in NOT_NEWS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if not store.is_server(uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = DATABASE_TRIES
        mlflow.set_tracking_uri(uri)
        self._mlflow, self._client = mlflow, mlflow.MlflowClient(uri)
        self.experiment = self._experiment(f"prunelab-{study}", uri)
        self.finished: dict[str, str] = {}  # content → run id
        self.unfinished: dict[str, list] = {}  # key → MLflow's runs, the oldest first
        self._origin = revision() | {CLONE: _clone()}

    def _experiment(self, name: str, uri: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            # A server decides itself where artifacts go; a local store would take the folder that is current.
            place = Path("mlartifacts", name).resolve().as_uri() if uri.startswith("sqlite") else None
            try:
                return self._client.create_experiment(name, place)
            except self._mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # another machine's, of this moment
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def look(self, finished_too: bool = True) -> None:
        """Find what is there. What an interrupted mirror of an earlier version left half-written is removed."""
        self.finished, self.unfinished, token = {}, {}, None
        wanted = "" if finished_too else f"attributes.status != '{FINISHED}'"
        while True:
            page = self._client.search_runs([self.experiment], wanted, max_results=1000, page_token=token)
            for run in page:
                content, key = run.data.tags.get(CONTENT), run.data.tags.get(KEY)
                if content and run.info.status == FINISHED:
                    self.finished[content] = run.info.run_id
                elif key and run.info.status != FINISHED:
                    if run.data.tags.get(CLONE) == self._origin[CLONE]:  # another folder's study is another one
                        self.unfinished.setdefault(key, []).append(run)
                elif content:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                break
        for runs in self.unfinished.values():
            runs.sort(key=lambda run: run.info.start_time)

    def begin(self, entry: Entry, handed: str | None = None):
        """The run of `entry`, which goes on from now: the unfinished one of its key, or a new one; handed: the id of
        the one that somebody else began for it."""
        run = self._run(entry, handed)
        self._log(run, [], _missing(run, entry.params), {})
        return run

    def _run(self, entry: Entry, handed: str | None = None):
        there = [] if handed else self.unfinished.get(entry.key, [])
        run = self._client.get_run(handed) if handed else there[0] if there else None
        if there and any(run.data.params.get(name, str(word)) != str(word) for name, word in entry.params.items()):
            run = None  # what a run was made with can't be changed
        if run is None:
            tags = entry.tags | self._origin | {KEY: entry.key}
            run = self._client.create_run(self.experiment, entry.began_ms, tags, entry.name)
            self.unfinished[entry.key] = [run, *there]
        else:
            self._client.update_run(run.info.run_id, RUNNING)
        return run

    def add_figures(self, run, metrics: dict[str, float]) -> None:
        """Log those of `metrics` that the run doesn't hold yet."""
        self._log(run, self._figures(run, metrics), {}, {})
        run.data.metrics.update(metrics)

    def add_points(self, run, points: list[Point]) -> None:
        self._log(run, self._points(run, points), {}, {})

    def end(self, identifier: str, status: str) -> None:
        """Of a run that isn't complete: nobody works on it any more."""
        self._client.set_terminated(identifier, status)

    def complete(self, entry: Entry, content: str) -> str:
        """Make the run of `entry`, or what is missing in the one that was begun; its id.

        Only at the end it counts as finished, so an interrupted one is completed the next time.
        """
        begun = bool(self.unfinished.get(entry.key))
        run = self._run(entry)
        identifier, model = run.info.run_id, None
        if entry.model is not None:
            model = (self._model_of(run) if begun else None) or self._new_model(run, entry, content)
        figures = self._figures(run, entry.metrics, model)
        held = self._held(run, entry) if begun else set()
        points = [point for point in entry.curve if (point.step, point.metric, point.value) not in held]
        tags = (entry.tags | self._origin if begun else {}) | {CONTENT: content}
        self._log(run, [*figures, *self._points(run, points)], _missing(run, entry.params), tags)
        for path in entry.artifacts:
            self._client.log_artifact(identifier, str(path))
        for other in self.unfinished.pop(entry.key, []):
            if other.info.run_id != identifier:
                self._client.delete_run(other.info.run_id)
        took_until = run.info.start_time + entry.took_ms if entry.took_ms else None
        self._client.set_terminated(identifier, FINISHED, took_until)  # last: only now the run counts as there
        self.finished[content] = identifier
        return identifier

    def set_tag(self, name: str, value: str) -> None:
        """Of the experiment."""
        self._client.set_experiment_tag(self.experiment, name, value)

    def drop(self, key: str) -> None:
        """Remove what was begun for a run that turned out to be there already."""
        for run in self.unfinished.pop(key, []):
            self._client.delete_run(run.info.run_id)

    def end_left(self) -> None:
        """End what a killed study of this folder left running; to be asked where none runs here."""
        for run in (run for runs in self.unfinished.values() for run in runs):
            if run.info.status == RUNNING:
                self.end(run.info.run_id, "KILLED")

    def _new_model(self, run, entry: Entry, content: str) -> str:
        tags = entry.model | self._origin | {CONTENT: content}
        name, kind = entry.model.get("name", entry.name), entry.model.get("kind", "causal-lm")
        made = self._mlflow.create_external_model(
            name, run.info.run_id, tags, entry.params, model_type=kind, experiment_id=self.experiment
        )
        return made.model_id

    def _model_of(self, run) -> str | None:
        """The logged model that an interrupted mirror made for the run."""
        query = f"source_run_id = '{run.info.run_id}'"
        found = self._client.search_logged_models([self.experiment], query, max_results=1)
        return found[0].model_id if found else None

    def _held(self, run, entry: Entry) -> set[tuple]:
        names = {point.metric for point in entry.curve}
        history = [one for name in names for one in self._client.get_metric_history(run.info.run_id, name)]
        return {(one.step, one.key, one.value) for one in history}

    def _figures(self, run, metrics: dict[str, float], model: str | None = None) -> list:
        """MLflow's metrics for what the run doesn't hold; with a model all of them, which are its own too."""
        from mlflow.entities import Metric

        held, made, now = run.data.metrics, [], int(time.time() * 1000)
        for name, value in metrics.items():
            same = name in held and (held[name] == value or (math.isnan(held[name]) and math.isnan(value)))
            if not same or model:
                # Measured anew, it must be later than what it replaces.
                at = run.info.start_time if same or name not in held else now
                made.append(Metric(name, value, at, 0, model_id=model))
        return made

    def _points(self, run, points: list[Point]) -> list:
        from mlflow.entities import Metric

        start = run.info.start_time
        return [Metric(one.metric, one.value, one.at_ms or start, one.step) for one in points]

    def _log(self, run, metrics: list, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        parameters = [Param(name, word) for name, word in params.items()]
        labels = [RunTag(name, word) for name, word in tags.items()]
        for at in range(0, max(len(metrics), len(parameters), len(labels)), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            self._client.log_batch(run.info.run_id, metrics[part], parameters[part], labels[part], synchronous=True)


def _missing(run, params: dict[str, str]) -> dict[str, str]:
    return {name: word for name, word in params.items() if name not in run.data.params}


def commit_of_code() -> str:
    """The commit of this folder, with `-dirty` where files differ from it; "unknown" where it is no repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, check=False, timeout=GIT_SECONDS)
        return done.stdout.decode(errors="replace").strip() or UNKNOWN
    return UNKNOWN


def revision() -> dict[str, str]:
    """Tags that make the git revision of this folder the run's Source."""
    described = commit_of_code()
    tags = {"git.commit": described, "mlflow.source.type": "LOCAL"}
    if described == UNKNOWN:
        return tags | {"mlflow.source.name": "prunelab"}
    commit, dash, dirty = described.partition("-")
    tags["mlflow.source.name"] = f"prunelab@{commit[:12]}{dash}{dirty}"
    return tags | {"mlflow.source.git.commit": commit}


def _clone() -> str:
    """A name for this folder that stays, whatever machine or container it is seen from."""
    if not NAME.exists():
        with whole_file(NAME) as partial:
            partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    return NAME.read_text(encoding="utf-8")
