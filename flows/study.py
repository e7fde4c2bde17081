"""The study as a Prefect flow: one task a DVC stage, progress, logs and results in Prefect's interface.

    python -m flows.study [--study NAME] [--workers N]

DVC is the only cache and knows the order; Prefect starts stages, shows them and keeps their logs. A task does
`dvc repro --single-item STAGE`. What runs side by side, and with how many threads, is the same as in `make study`
(flows/schedule.py). Workers run the same flow from prefect.yaml (docs/workers.md).
"""

import argparse
import csv
import os
import queue
import sys
import time
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import process, told, workspace
from flows.lanes import Lanes
from flows.repro import Said, is_noise
from flows.room import Room
from flows.schedule import Schedule, clock, follow, forks, remaining_seconds
from prunelab import errors, tasks
from prunelab.study import params

RESULTS = Path("report/results.csv")

# A download may work the second time and training continues where it stopped. A measurement is never repeated
# until it succeeds, because that would select among results; the others fail again in the same way.
BRINGING = {"retries": 2, "retry_delay_seconds": [5, 20]}  # over a network
RETRIES = {"fetch": BRINGING, "probes": BRINGING, "train": {"retries": 1, "retry_delay_seconds": 1}}


class StageFailed(Exception):
    """A stage's command failed; the text names the stage and ends with the last lines it printed."""

    def __init__(self, text: str, users_mistake: bool = False):
        super().__init__(text)
        self.users_mistake = users_mistake  # it said `error: …` (prunelab.errors): trying again changes nothing


_lanes: list[Lanes] = []  # of the flow that runs here: a task's parameters go to the server, and a process cannot


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_stage(name: str, threads: int | None = None) -> float:
    """Run one DVC stage; its output goes to the log line by line. Seconds it took. Raises StageFailed."""
    log, said, began = get_run_logger(), Said(name), time.monotonic()

    def on_line(line: str) -> None:
        said.take(line)
        if not is_noise(line):
            log.info("%s", line)

    if code := _lanes[-1].repro([name], on_line, threads, forks(name)):
        words = "\n".join(said.words())
        raise StageFailed(f"stage {name} failed with exit code {code}; it said:\n{words}", said.is_users_mistake)
    return time.monotonic() - began


@flow(name="study", task_runner=ThreadPoolTaskRunner())
def study(study: str | None = None, workers: int | None = None) -> State | None:
    """Run a study. One whose data is not on this machine ends as Skipped, which is no failure.

    study: which file of studies/ becomes params.yaml; empty: the params.yaml that is there.
    workers: how many stages run side by side; empty: one a core, as far as memory goes, with a GPU one.
    """
    with workspace.alone():
        try:
            settings = workspace.choose(study)
        except workspace.Skipped as reason:
            get_run_logger().warning("%s", reason)
            return Completed(name="Skipped", message=str(reason))
        process.allow()
        _lanes.append(Lanes(own_session=False))
        try:
            ran = _run_stages(settings, Room(workers))
            _publish(settings.study)
            _lanes[-1].close()
        finally:
            _lanes.pop()
            # Before the task runner waits for its threads: a cancelled flow ends its stages now, in half a minute
            # they would be orphans. After an ordinary end nothing runs any more.
            process.stop()
    get_run_logger().info("study %s is complete (%s stages ran): report/index.html", settings.study, ran)
    return None


def _run_stages(settings: params.Settings, room: Room) -> int:
    """Run what changed, and what always runs; how many had changed. Raises StageFailed after all that could run has."""
    title, show_seeds, headline = settings.study, len(settings.seeds) > 1, tasks.headline(settings)
    log, lanes = get_run_logger(), _lanes[-1]
    graph, changed = lanes.look(lambda names: [run_stage.submit(name).result() for name in names], log.info)
    todo = changed | graph.last
    log.info("%d stages: %d to run, %d unchanged", len(graph.needs), len(todo), len(graph.needs) - len(todo))
    if not changed - graph.last:
        log.info("nothing to do: every stage but the probes of machine and files is unchanged")
    needs = {name: graph.needs[name] & todo for name in graph.needs if name in todo}
    plan = Schedule(needs, room.workers, room.cores, trains_with_one_thread=settings.train.threads == 1)
    began, seconds, failures = time.monotonic(), {}, {}
    progress = create_progress_artifact(0.0, key=f"progress-{title}", description=f"study {title}")
    outcomes: queue.Queue = queue.Queue()

    def before() -> None:
        plan.workers = room.workers

    def start(one) -> None:
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
        else:
            failures[name] = str(outcome)
        update_progress_artifact(progress, 100 * len(plan.done) / len(todo))
        news()

    def news() -> None:
        left = remaining_seconds(plan.waiting(), seconds, plan.workers, plan.shares)
        log.info(
            "%d of %d stages done, %s elapsed, %s", len(plan.done), len(todo), clock(time.monotonic() - began),
            "no estimate yet" if left is None else f"about {clock(left)} left",
        )  # fmt: skip

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


def _publish(title: str) -> None:
    """The result table as an artifact, so that Prefect's interface shows it."""
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        create_table_artifact(rows, key=f"results-{title}", description=f"{RESULTS} of the study `{title}`")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.study", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", help="a file of studies/, without .yaml; default: the params.yaml that is there")
    parser.add_argument(
        "--workers", type=int, help="stages side by side (default: one a core, as far as memory goes; with a GPU one)"
    )
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise errors.InputError(f"--workers {arguments.workers}: at least 1 is needed")
    if arguments.supervised:
        try:
            study(study=arguments.study, workers=arguments.workers)
        except StageFailed as failure:
            raise SystemExit(f"error: {failure}") from None
        return
    try:
        with workspace.alone():
            workspace.choose(arguments.study)  # a mistake is told at once, not after Prefect has started
    except workspace.Skipped as reason:
        print(reason)
        return
    # Where no server's address is set, Prefect starts one for us; the supervisor ends that too, whatever happens.
    # Its 20 s of patience with it are not enough beside a busy neighbour.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    again = [sys.executable, "-m", "flows.study", "--supervised", *(argv if argv is not None else sys.argv[1:])]
    process.leave_in_order()
    try:
        sys.exit(process.run(again, None, own_session=True))
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, and the next run continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    errors.exit_cleanly(main)
