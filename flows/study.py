"""The study as a Prefect flow: one task a DVC stage, progress, logs and results in Prefect's interface.

    python -m flows.study [--study NAME] [--workers N]

DVC is the only cache and knows the order; Prefect starts stages, shows them and keeps their logs. A task calls
`dvc repro --single-item STAGE`. Independent stages run side by side, measuring stages alone. Workers run the same
flow from prefect.yaml (docs/workers.md).
"""

import argparse
import collections
import csv
import os
import queue
import sys
import time
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import graph, process, repro, workspace
from flows.schedule import Schedule, remaining_seconds
from prunelab import errors

RESULTS = Path("report/results.csv")
TOLD_LINES = 8  # of a failed stage's output, in the error
NEWS_SECONDS = 60  # between two lines of progress while nothing finishes

# A download may work the second time and training continues where it stopped. A measurement is never repeated
# until it succeeds, because that would select among results; the others fail again in the same way.
RETRIES = {"fetch": {"retries": 2, "retry_delay_seconds": [5, 20]}, "train": {"retries": 1, "retry_delay_seconds": 1}}


class StageFailed(Exception):
    """A stage's command failed; the text names the stage and ends with the last lines it printed."""

    def __init__(self, text: str, users_mistake: bool = False):
        super().__init__(text)
        self.users_mistake = users_mistake  # it said `error: …` (prunelab.errors): trying again changes nothing


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_stage(name: str) -> float:
    """Run one DVC stage; its output goes to the log line by line. Seconds it took. Raises StageFailed."""
    began = time.monotonic()
    _run(name, repro.command("--single-item", name))
    return time.monotonic() - began


@task(task_run_name="mirror", cache_policy=NO_CACHE)
def mirror() -> None:
    """Copy the results to MLflow; a server that is down does not fail the study."""
    _run("mirror", [sys.executable, "-m", "prunelab.mirror.tracking", "--if-reachable"])


@flow(name="study", task_runner=ThreadPoolTaskRunner())
def study(study: str | None = None, workers: int = 2) -> None:
    """Run a study.

    study: which file of studies/ becomes params.yaml; empty: the params.yaml that is there.
    workers: how many independent stages run side by side; measuring stages always run alone.
    """
    with workspace.alone():
        settings = workspace.choose(study)
        process.allow()
        try:
            ran = _run_stages(settings.study, workers)
            _publish(settings.study)
            mirror.submit().result()
        finally:
            # Before the task runner waits for its threads: a cancelled flow ends its stages now, in half a minute
            # they would be orphans. After an ordinary end nothing runs any more.
            process.stop()
    get_run_logger().info("study %s is complete (%s stages ran): report/index.html", settings.study, ran)


def _run_stages(title: str, workers: int) -> int:
    """Run what changed; how many stages that were. Raises StageFailed after all that could run has run."""
    log = get_run_logger()
    stages = graph.read()
    for name in sorted(stages.probes):
        run_stage.submit(name).result()
    todo = graph.changed(stages.needs) - stages.probes
    log.info("%d stages: %d to run, %d unchanged", len(stages.needs), len(todo), len(stages.needs) - len(todo))
    if not todo:
        log.info("nothing to do: every stage but the probes of machine and files is unchanged")
        return 0
    plan = Schedule({name: stages.needs[name] & todo for name in stages.needs if name in todo}, workers)
    began, seconds, failures = time.monotonic(), {}, []
    progress = create_progress_artifact(0.0, key=f"progress-{title}", description=f"study {title}")
    finished: queue.Queue = queue.Queue()
    running = {}
    while not plan.over:
        for name in plan.ready():
            plan.started(name)
            options = RETRIES.get(name.partition("@")[0].removesuffix("-replica"), {})
            future = run_stage.with_options(retry_condition_fn=_worth_a_retry, **options).submit(name)
            running[future.task_run_id] = name
            future.add_done_callback(finished.put)
        try:
            future = finished.get(timeout=NEWS_SECONDS)
        except queue.Empty:
            future = None
        if future is not None:
            name, outcome = running.pop(future.task_run_id), future.result(raise_on_failure=False)
            succeeded = not isinstance(outcome, BaseException)
            plan.finished(name, succeeded)
            if succeeded:
                seconds[name] = outcome
            else:
                failures.append(str(outcome))
            update_progress_artifact(progress, 100 * len(plan.done) / len(todo))
        left = remaining_seconds([*plan.pending, *plan.running], seconds, workers)
        log.info(
            "%d of %d stages done, %s elapsed, %s", len(plan.done), len(todo), _clock(time.monotonic() - began),
            "no estimate yet" if left is None else f"about {_clock(left)} left",
        )  # fmt: skip
    if failures:
        waiting = f" · not run because of it: {', '.join(plan.pending)}" if plan.pending else ""
        raise StageFailed(" · ".join(failures) + waiting)
    return len(plan.done)


def _run(name: str, command: list[str]) -> None:
    log = get_run_logger()
    last: collections.deque[str] = collections.deque(maxlen=TOLD_LINES)

    def on_line(line: str) -> None:
        if not repro.is_noise(line):
            last.append(line)
            log.info("%s", line)

    code = process.run(command, on_line)
    if code:
        said = "\n".join(last) or "(it printed nothing)"
        raise StageFailed(
            f"stage {name} failed with exit code {code}; its last lines:\n{said}",
            users_mistake=any(line.startswith("error: ") for line in last),
        )


def _worth_a_retry(_task, _run, state) -> bool:
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StageFailed) and not failure.users_mistake


def _publish(title: str) -> None:
    """The result table as an artifact, so that Prefect's interface shows it."""
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        create_table_artifact(rows, key=f"results-{title}", description=f"{RESULTS} of the study `{title}`")


def _clock(seconds: float) -> str:
    """`75` → `1:15`; from an hour on `1:01:15`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.study", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", help="a file of studies/, without .yaml; default: the params.yaml that is there")
    parser.add_argument("--workers", type=int, default=2, help="independent stages side by side (default: 2)")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        raise errors.InputError(f"--workers {arguments.workers}: at least 1 is needed")
    if arguments.supervised:
        try:
            study(study=arguments.study, workers=arguments.workers)
        except StageFailed as failure:
            raise SystemExit(f"error: {failure}") from None
        return
    with workspace.alone():
        workspace.choose(arguments.study)  # a mistake is told at once, not after Prefect has started
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
