"""The study through plain DVC, without Prefect: what `make study` runs.

    python -m flows.local [--study NAME] [--workers N] [--no-table]

Of every stage that changed one line when it has finished; at the end the table. What dvc and the stages print stands in
a log of .prunelab/logs.
"""

import argparse
import queue
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from flows import process, workspace
from flows.lanes import Lanes
from flows.live import Live
from flows.repro import Said, is_noise
from flows.room import Room
from flows.schedule import Schedule, follow, forks, remaining_seconds
from flows.screen import Log, Screen, failures
from prunelab import errors, tasks
from prunelab.study import params

CONTINUES = "what is finished is kept: `make study` continues"


class Failed(Exception):
    """Stages failed; the text says which, and why."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.local", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", help="a file of studies/, without .yaml; default: the params.yaml that is there")
    parser.add_argument(
        "--workers", type=int, help="stages side by side (default: one a core, as far as memory goes; with a GPU one)"
    )
    parser.add_argument("--no-table", action="store_true", help="print no table of the results at the end")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise errors.InputError(f"--workers {arguments.workers}: at least 1 is needed")
    process.leave_in_order()
    try:
        with workspace.alone():
            settings = workspace.choose(arguments.study)
            _run_study(settings, arguments.workers, not arguments.no_table)
    except workspace.Skipped as reason:
        print(reason)
    except KeyboardInterrupt:
        print(f"\nstopped; {CONTINUES}", file=sys.stderr)
        sys.exit(130)


def _run_study(settings: params.Settings, workers: int | None, table: bool) -> None:
    log, lanes = Log(), Lanes(own_session=True)
    try:
        _run_stages(lanes, log, settings, Room(workers))
        lanes.close()
    except Failed as failure:
        print(failure, file=sys.stderr)
        sys.exit(f"error: the study is not complete, see above; {CONTINUES}")
    except BaseException:
        process.stop()
        raise
    finally:
        log.close()
    if table and process.run([sys.executable, "-m", "prunelab.report.results"], None, own_session=True):
        sys.exit("error: the study is complete, but `python -m prunelab.report.results` failed, see above")
    print("MLflow: make ui")


def _run_stages(lanes: Lanes, log: Log, settings: params.Settings, room: Room) -> None:
    """Run what changed, and what always runs. Raises Failed after all that could run has run."""
    show_seeds = len(settings.seeds) > 1
    began = time.monotonic()
    graph, changed = lanes.look(lambda names: _run_probes(lanes, log, names), lambda line: log.write("dvc", line))
    todo = changed | graph.last
    counts = Counter(unchanged=len(graph.needs) - len(graph.probes) - len(todo))
    if not changed - graph.last:
        print(
            f"nothing to do: all {counts['unchanged']} stages are unchanged (only the probes of machine and files ran)",
            flush=True,
        )
    elif counts["unchanged"]:
        print(f"{counts['unchanged']} stages are unchanged, {len(todo)} to run", flush=True)
    needs = {name: graph.needs[name] & todo for name in graph.needs if name in todo}
    plan = Schedule(needs, room.workers, room.cores, trains_with_one_thread=settings.train.threads == 1)
    screen = Screen(len(todo), show_seeds, tasks.headline(settings))

    def told(line: str) -> None:
        log.write("mlflow", line)
        screen.print(line)

    live = Live(told, graph.needs.keys() - todo, own_session=True) if changed - graph.last else None
    try:
        reasons = _carry_out(plan, lanes, log, screen, room, counts, live)
    finally:
        screen.close()
    if plan.failed:
        if live:
            live.close("failed")
        raise Failed(failures(reasons, plan.kept_back(), log.path, show_seeds))
    if changed - graph.last:
        print(
            f"{counts.total()} stages: {counts['ran']} ran, {counts['restored']} restored from the cache, "
            f"{counts['unchanged']} unchanged; {(time.monotonic() - began) / 60:.1f} min",
            flush=True,
        )


def _run_probes(lanes: Lanes, log: Log, names: list[str]) -> None:
    """The stages that look at the machine and at files; alone they are no news. Raises Failed."""
    if not names:
        return
    said = Said(names[0])
    if lanes.repro(names, lambda line: (said.take(line), log.write(said.stage, line))):
        raise Failed(failures({said.stage: said}, {}, log.path))


def _carry_out(
    plan: Schedule, lanes: Lanes, log: Log, screen: Screen, room: Room, counts: Counter, live: Live | None
) -> dict[str, Said]:
    """Run the stages of `plan` and count what became of them; what those that failed said."""
    outcomes: queue.Queue = queue.Queue()
    seconds: dict[str, float] = {}
    reasons: dict[str, Said] = {}

    def run(name: str, threads: int | None) -> None:
        said, began = Said(name), time.monotonic()

        def on_line(line: str) -> None:
            if not is_noise(line):
                log.write(name, line)
            if said.take(line):
                screen.said(name, line)

        try:
            if live:
                live.began(name)
            code = lanes.repro([name], on_line, threads, forks(name))
            if live:
                live.ended(name, said.outcome if code == 0 else "failed")
        except process.Stopped:
            code = None
        except BaseException as error:
            code = error  # a bug of ours, which must not be lost in this thread
        outcomes.put((name, (code, said, time.monotonic() - began)))

    def ended(name: str, outcome: tuple) -> None:
        code, said, taken = outcome
        if isinstance(code, BaseException):
            raise code
        plan.finished(name, code == 0)
        if code == 0:
            counts[said.outcome] += 1
            seconds[name] = taken
        else:
            reasons[name] = said
        left = remaining_seconds(plan.waiting(), seconds, plan.workers, plan.shares)
        screen.ended(name, said, taken, code == 0, left)

    def before() -> None:
        plan.workers = room.workers

    with ThreadPoolExecutor(max(room.cores, room.workers)) as pool:

        def start(one) -> None:
            screen.started(one.name)
            pool.submit(run, *one)

        try:
            follow(plan, start, outcomes, ended, before=before, news=screen.news)
        except BaseException:
            process.stop()  # before the pool waits for its threads
            raise
    return reasons


if __name__ == "__main__":
    errors.exit_cleanly(main)
