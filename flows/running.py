"""The stages of a study as Prefect's tasks: one task a DVC stage, progress, logs and results in Prefect's interface.

DVC is the only cache and knows the order; Prefect starts stages, shows them and keeps their logs. What runs side by
side, and with how many threads, is the same as in `make study` (flows/schedule.py).
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts, process, told
from flows import graph as graphs
from flows.graph import Graph
from flows.lanes import Lanes
from flows.live import Live
from flows.repro import Said, is_noise
from flows.room import Room
from flows.schedule import Schedule, follow, forks, remaining_seconds
from prunelab import tasks
from prunelab.study import params

# A download may work the second time and training continues where it stopped. A measurement is never repeated
# until it succeeds, because that would select among results; the others fail again in the same way.
BRINGING = {"retries": 2, "retry_delay_seconds": [5, 20]}  # over a network
RETRIES = {"fetch": BRINGING, "probes": BRINGING, "train": {"retries": 1, "retry_delay_seconds": 1}}


class StageFailed(Exception):
    """A stage's command failed; the text names the stage and ends with the last lines it printed."""

    def __init__(self, text: str, users_mistake: bool = False):
        super().__init__(text)
        self.users_mistake = users_mistake  # it said `error: …` (prunelab.errors): trying again changes nothing


class Work(NamedTuple):
    """What there is to do in this folder."""

    graph: Graph  # of the study, as far as the run's targets go
    changed: set[str]  # stages to run, the probes, which have run, left out


# Of the flow that runs here: a task's parameters go to the server, and a process cannot.
_lanes: list[Lanes] = []
_live: list[Live] = []  # none before it is known what there is to do


@contextlib.contextmanager
def lanes() -> Iterator[Lanes]:
    """Processes of dvc for the stages of the enclosed flow, which are ended with it, however it ends."""
    process.allow()
    _lanes.append(Lanes(own_session=False))
    try:
        yield _lanes[-1]
        for live in _live:
            live.close("later" if live.is_part else "stopped")  # unless the mirror has completed what was begun
        _lanes[-1].close()
    except StageFailed:
        for live in _live:
            live.close("failed")
        raise
    finally:
        _lanes.pop()
        _live.clear()
        # Before the task runner waits for its threads: a cancelled flow ends its stages now, in half a minute they
        # would be orphans. After an ordinary end nothing runs any more.
        process.stop()


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_stage(name: str, threads: int | None = None) -> float:
    """Run one DVC stage; its output goes to the log line by line. Seconds it took. Raises StageFailed."""
    log, said, began = get_run_logger(), Said(name), time.monotonic()

    def on_line(line: str) -> None:
        said.take(line)
        if not is_noise(line):
            log.info("%s", line)

    for live in _live:
        live.began(name)
    code = _lanes[-1].repro([name], on_line, threads, forks(name))
    for live in _live:
        live.ended(name, "failed" if code else said.outcome)
    if code:
        words = "\n".join(said.words())
        raise StageFailed(f"stage {name} failed with exit code {code}; it said:\n{words}", said.is_users_mistake)
    return time.monotonic() - began


def show(unchanged: set[str], handed: dict[str, str] | None = None, is_owner: bool = False) -> None:
    """From now on MLflow is told how the study goes on, where it is used (flows/live.py)."""
    _live.append(Live(get_run_logger().warning, unchanged, own_session=False, handed=handed, is_owner=is_owner))


def look(targets: Iterable[str] | None) -> Work:
    """Run the probes, and find what there is to do. Raises InputError for a target that is no stage."""
    graph, changed = _lanes[-1].look(
        lambda names: [run_stage.submit(name).result() for name in names], get_run_logger().info
    )
    if targets is not None:
        graph = graphs.towards(graph, targets)
    return Work(graph, changed & graph.needs.keys())


def run(
    settings: params.Settings,
    room: Room,
    work: Work,
    started: Callable[[str], None] = lambda name: None,
    ran: Callable[[str, float], None] = lambda name, seconds: None,
    handed: dict[str, str] | None = None,
    share: str | None = None,
) -> int:
    """Run what changed, and what always runs; how many had changed. Raises StageFailed after all that could run has.

    started(stage) is told of each that begins, ran(stage, seconds) of each that has succeeded. handed: path of a row →
    its run of MLflow, where a coordinator began them. share: as in artifacts.Progress.
    """
    show_seeds, headline = len(settings.seeds) > 1, tasks.headline(settings)
    log, (graph, changed) = get_run_logger(), work
    todo = changed | graph.last
    log.info("%d stages: %d to run, %d unchanged", len(graph.needs), len(todo), len(graph.needs) - len(todo))
    if not changed - graph.last:
        log.info("nothing to do: every stage but the probes of machine and files is unchanged")
    needs = {name: graph.needs[name] & todo for name in graph.needs if name in todo}
    plan = Schedule(needs, room.workers, room.cores, trains_with_one_thread=settings.train.threads == 1)
    if changed - graph.last and not _live:
        show(graph.needs.keys() - todo, handed)
    seconds, failures, progress = {}, {}, artifacts.Progress(settings.study, len(todo), share)
    outcomes: queue.Queue = queue.Queue()

    def before() -> None:
        plan.workers = room.workers

    def start(one) -> None:
        started(one.name)
        options = RETRIES.get(one.name.partition("@")[0], {})
        task = run_stage.with_options(retry_condition_fn=_worth_a_retry, **options)
        task.submit(*one).add_done_callback(lambda future: outcomes.put((one.name, future)))

    def ended(name: str, future) -> None:
        outcome = future.result(raise_on_failure=False)
        succeeded = not isinstance(outcome, BaseException)
        plan.finished(name, succeeded)
        if succeeded:
            seconds[name] = outcome
            words = " · ".join([told.name(name, show_seeds), *told.facts(name, headline)])
            log.info("[%d/%d] %s · %.0f s", len(plan.done), len(todo), words, outcome)
            ran(name, outcome)
        else:
            failures[name] = str(outcome)
        news()

    def news() -> None:
        left = remaining_seconds(plan.waiting(), seconds, plan.workers, plan.shares)
        log.info("%s", progress.update(len(plan.done), left))

    follow(plan, start, outcomes, ended, before=before, news=news)
    if failures:
        kept_back = plan.kept_back()
        told_each = [
            failure + (f" · not run because of it: {', '.join(kept_back[name])}" if kept_back[name] else "")
            for name, failure in failures.items()
        ]
        raise StageFailed(" · ".join(told_each))
    return len(changed - graph.last)


def _worth_a_retry(_task, _run, state) -> bool:
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StageFailed) and not failure.users_mistake
