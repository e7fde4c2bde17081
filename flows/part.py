"""Some stages of a study on this machine, for a coordinator elsewhere (flows/fanout.py): the flow `part`.

What the stages need is restored from the run cache of the DVC remote, what they made is pushed there; a training puts
its checkpoints there while it runs, and goes on from those of a worker that was lost.
"""

import contextlib
import threading
import time
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import graph as graphs
from flows import process, running, workspace
from flows import revision as revisions
from flows.lanes import Lanes
from flows.room import Room
from flows.schedule import leaves_checkpoints
from prunelab.efficiency import device
from prunelab.errors import InputError
from prunelab.study import params

PUSH_AFTER_SECONDS = 60.0  # what a stage took so long for is pushed at once, the rest when all have run


@flow(name="part", task_runner=ThreadPoolTaskRunner())
def part(
    targets: list[str],
    study: str | None = None,
    overrides: dict[str, Any] | None = None,
    revision: str | None = None,
    workers: Annotated[int, Field(ge=1)] | None = None,
    handed: dict[str, str] | None = None,
) -> None:
    """Run the stages `targets`, with what they need that nobody has run yet, and push what they made.

    handed: path of a row → its run of MLflow, which the coordinator began. The other parameters are those of the study
    (flows/study.py).
    """
    revisions.require(revision)
    with workspace.alone():
        try:
            settings = workspace.choose(study, overrides)
        except workspace.Skipped as reason:
            raise InputError(str(reason)) from None
        with running.lanes() as lanes:
            carry_out(settings, lanes, Room(workers), targets, handed)


def carry_out(
    settings: params.Settings, lanes: Lanes, room: Room, targets: list[str], handed: dict[str, str] | None = None
) -> None:
    say = get_run_logger().info
    take_device(settings, lanes)
    graph, changed = running.look(targets)
    if settings.efficiency.device != device.HERE and device.is_here(settings.efficiency.device):
        lanes.remote("remote.put_device", say, name=settings.efficiency.device)
    asked = graphs.in_order(graph, changed - graph.last)
    lacking = lanes.remote("remote.restore", say, names=asked)["lacking"] if asked else []
    say("%d of %d stages are there already or restored", len(asked) - len(lacking), len(asked))
    done = graph.needs.keys() - graph.probes - graph.last - set(lacking)
    training = [name for name in lacking if leaves_checkpoints(name)]

    def ran(name: str, seconds: float) -> None:
        done.add(name)
        if seconds > PUSH_AFTER_SECONDS:
            lanes.remote("remote.push", say, names=[name])

    try:
        with sharing(settings, lanes, training) as started:
            running.run(settings, room, running.Work(graph, set(lacking)), started, ran, handed, share="part")
    except running.StageFailed:
        push(lanes, done)  # what the others made is not lost
        raise
    push(lanes, done)
    if training:
        lanes.remote("checkpoints.drop", say, study=settings.study, stages=training)


def take_device(settings: params.Settings, lanes: Lanes) -> None:
    """Bring the fingerprint of the machine that the study measures on, where that is another."""
    wanted = settings.efficiency.device
    if not device.is_here(wanted):
        into = str(device.published(wanted))
        lanes.remote("remote.take_device", get_run_logger().info, name=wanted, into=into)


def push(lanes: Lanes, done: set[str]) -> None:
    if done:
        lanes.remote("remote.push", get_run_logger().info, names=sorted(done))


@contextlib.contextmanager
def sharing(settings: params.Settings, lanes: Lanes, training: list[str]):
    """Within, the checkpoints of the stages `training` go to the remote every train.share_minutes.

    Yields a function that is told of every stage that begins. First what another worker left of them is brought here.
    """
    minutes, log = settings.train.share_minutes, get_run_logger()
    if minutes is None or not training:
        yield lambda name: None
        return
    taken = lanes.remote("checkpoints.take", log.info, study=settings.study, stages=training)["taken"]
    for folder in taken:
        log.info("another worker left %s", folder)
    now: list[tuple[str, float]] = []  # the training that runs, at most one, and when it began
    over = threading.Event()

    def started(name: str) -> None:
        now[:] = [(name, time.time())] if name in training else []

    def share() -> None:
        while not over.wait(60 * minutes):
            if not now:
                continue
            stage, since = now[0]
            try:
                found = lanes.remote("checkpoints.put", log.info, study=settings.study, stage=stage, since=since)
            except InputError as error:  # the training goes on without
                log.warning("the checkpoint of %s was not shared: %s", stage, error)
            except process.Stopped:
                return
            else:
                if found["put"]:
                    log.info("shared %s", found["put"])

    thread = threading.Thread(target=share, daemon=True)
    thread.start()
    try:
        yield started
    except BaseException:
        over.set()  # an upload ends with the lanes, which a cancelled run ends at once
        raise
    over.set()
    thread.join()  # or it would share anew what is dropped next
