"""The study as a Prefect flow, in this folder or shared out to workers.

    python -m flows.study [--study NAME] [--workers N] [--fan-out]

A task does `dvc repro --single-item STAGE` (flows/running.py). Workers run the same flow from prefect.yaml
(docs/workers.md).
"""

import argparse
import os
import sys
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import artifacts, fanout, process, running, workspace
from flows import revision as revisions
from flows.room import Room
from flows.running import StageFailed
from prunelab import errors


@flow(name="study", task_runner=ThreadPoolTaskRunner())
def study(
    study: str | None = None,
    overrides: dict[str, Any] | None = None,
    revision: str | None = None,
    targets: list[str] | None = None,
    fan_out: bool = False,
    workers: Annotated[int, Field(ge=1)] | None = None,
) -> State | None:
    """Run a study. One whose data is not on this machine ends as Skipped, which is no failure.

    study: which file of studies/ becomes params.yaml; empty: the params.yaml that is there.
    overrides: sections of params.yaml with what differs in this run, such as {"train": {"epochs": 3}}.
    revision: the commit, tag or branch whose code and settings run (a worker goes there first: flows/revision.py).
    targets: stages, or kinds of them such as `quality`, that run with all that they need; empty: everything.
    fan_out: whether workers that share a DVC remote do the stages (flows/fanout.py), and this run waits and reports.
    workers: how many stages run side by side; empty: one a core, as far as memory goes, with a GPU one.
    """
    log = get_run_logger()
    asked = {"study": study, "overrides": overrides, "revision": revision, "targets": targets, "workers": workers}
    if fan_out and (handed_over := fanout.hand_over(asked)):
        return handed_over
    revisions.require(revision)
    with workspace.alone():
        try:
            settings = workspace.choose(study, overrides)
        except workspace.Skipped as reason:
            log.warning("%s", reason)
            return Completed(name="Skipped", message=str(reason))
        room = Room(workers)
        with running.lanes() as lanes:
            shared = fanout.share_out(settings, lanes, room, study, overrides, targets) if fan_out else None
            ran = running.run(settings, room, running.look(targets), share="coordinator" if shared else None)
            if shared:
                shared.ended(shared.left)
            artifacts.publish(settings.study)
    what = "complete" if targets is None else f"done as far as {', '.join(targets)}"
    log.info("study %s is %s (%s stages ran here): report/index.html", settings.study, what, ran)
    return None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.study", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", help="a file of studies/, without .yaml; default: the params.yaml that is there")
    parser.add_argument(
        "--workers", type=int, help="stages side by side (default: one a core, as far as memory goes; with a GPU one)"
    )
    parser.add_argument("--fan-out", action="store_true", help="let workers do the stages, wait, and report")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise errors.InputError(f"--workers {arguments.workers}: at least 1 is needed")
    if arguments.supervised:
        try:
            study(study=arguments.study, fan_out=arguments.fan_out, workers=arguments.workers)
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
