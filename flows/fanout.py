"""A study shared out to workers: who does what, in three waves of runs of the deployment `part`.

    1  a part a seed         trains, and what belongs to a whole seed
    2  a few variants each   prunes and judges; as many parts as keep all workers of the pool busy to the end
    3  a part a seed         measures, on the machine that `efficiency.device` names

After each wave what the parts pushed is restored here, by its run cache: nothing of theirs runs again. A part whose
worker was lost (Prefect marks it Crashed: automations.yaml) is submitted again, once; what it had pushed and shared is
not done again. The coordinator itself fetches, reports, and mirrors; it runs in the pool `cpu`, so that one that waits
never takes the place of what it waits for.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, State

from flows import artifacts, live, running, told
from flows import graph as graphs
from flows import part as parts_flow
from flows import revision as revisions
from flows.graph import Graph
from flows.lanes import Lanes
from flows.room import Room
from flows.schedule import of_the_machine
from prunelab.efficiency import device
from prunelab.errors import InputError
from prunelab.study import params

PART, COORDINATOR = "part/part", "study/coordinator"  # of prefect.yaml
COORDINATORS = "cpu"  # the work pool of those that wait
POLL_SECONDS = 2.0
LARGEST = 4  # variants a part: few, so that little is lost with a worker, and more than one, because a start takes long
ATTEMPTS = 2


class Part(NamedTuple):
    name: str
    targets: list[str]
    queue: str | None = None  # of the pool's work queues; None: its own


def hand_over(asked: dict[str, Any]) -> State | None:
    """Let the pool of coordinators do what was asked, where this run has the place of a worker; how it ends then.

    None where it may stay: it runs in that pool, or was started by hand.
    """
    if flow_run.id is None:
        return None
    with get_client(sync_client=True) as client:
        if client.read_flow_run(flow_run.id).work_pool_name in (None, COORDINATORS):
            return None
    run = run_deployment(COORDINATOR, parameters={**asked, "fan_out": True}, timeout=0, as_subflow=False)
    return Completed(name="HandedOver", message=f"the run {run.name} of {COORDINATOR} coordinates it")


class Left:
    """The stages that nobody has run yet, of all machines, and the progress artifact that tells how many they are."""

    def __init__(self, study: str, stages: set[str], left: set[str]):
        self.left, self._count = set(left), len(stages)
        self._first, self._began = len(left), time.monotonic()
        self._shown = artifacts.Progress(study, self._count)
        self.ended(set())

    def restored(self, stages: Iterable[str]) -> None:
        """These are there; those that no part was told to run say nothing of how long the others take."""
        self._first -= len(self.left & set(stages))
        self.ended(stages)

    def ended(self, stages: Iterable[str]) -> None:
        """These have run somewhere."""
        self.left = self.left - set(stages)
        done, spent = self._first - len(self.left), time.monotonic() - self._began
        self._shown.update(self._count - len(self.left), spent / done * len(self.left) if done else None)


def share_out(
    settings: params.Settings,
    lanes: Lanes,
    room: Room,
    study: str | None,
    overrides: dict[str, Any] | None,
    targets: list[str] | None,
) -> Left:
    """Have workers run what they can of the study; afterwards it is in this folder, and what is left is the
    coordinator's own. Raises StageFailed where not."""
    say = get_run_logger().info
    common = {"study": study, "overrides": overrides, "revision": revisions.committed(bool(study or overrides))}
    measured_on = settings.efficiency.device
    if not device.is_here(measured_on):
        carry_out([Part(f"{settings.study}: which machine is {measured_on}", ["device"], measured_on)], common)
    parts_flow.take_device(settings, lanes)
    graph, changed = running.look(targets)
    left = Left(settings.study, graph.needs.keys() - graph.probes, changed | graph.last)
    left.ended(fetch_first(settings, lanes, room, graph, changed))
    shared = graphs.in_order(graph, [name for name in graph.needs if "@" in name])

    def restore() -> list[str]:
        lacking = lanes.remote("remote.restore", say, names=shared)["lacking"] if shared else []
        say("%d of %d stages are there, %d are not", len(shared) - len(lacking), len(shared), len(lacking))
        left.restored(set(shared) - set(lacking))
        if device.is_here(measured_on):  # then they are ours
            lacking = [name for name in lacking if not of_the_machine(name)]
        return lacking

    for wave in (of_seeds, of_variants, of_a_machine):
        if parts := wave(settings, restore()):
            if "handed" not in common:  # the first that there is anything to show of
                # Where it is not used here, or away, {}: no part begins any either.
                common["handed"] = live.begin(get_run_logger().warning) or {}
                running.show(graph.needs.keys() - set(shared), common["handed"], is_owner=True)
            carry_out(parts, common, lambda one: left.ended(one.targets))
    if lacking := restore():
        raise running.StageFailed(f"every part has ended, and yet the DVC remote lacks {', '.join(lacking)}")
    return left


def fetch_first(settings: params.Settings, lanes: Lanes, room: Room, graph: Graph, changed: set[str]) -> list[str]:
    """Run what workers need and is no stage of a seed or variant, so that each need not fetch for itself; its names."""
    say = get_run_logger().info
    wanted = [name for name in graph.needs if "@" in name]
    needed = {other for name in wanted for other in graph.needs[name] if "@" not in other} - graph.probes
    first = graphs.towards(graph, needed)
    names = graphs.in_order(first, changed & first.needs.keys())
    if names:
        lacking = lanes.remote("remote.restore", say, names=names)["lacking"]
        running.run(settings, room, running.Work(first, set(lacking)), share="coordinator")
    parts_flow.push(lanes, needed)
    return names


def of_seeds(settings: params.Settings, lacking: list[str]) -> list[Part]:
    """A part a seed, of the stages that belong to all of its variants."""
    found: dict[str | None, list[str]] = {}
    for name in lacking:
        _, variant, seed = told.split(name)
        if not variant and not of_the_machine(name):
            found.setdefault(seed, []).append(name)
    return [Part(f"{settings.study}: {seed}", names) for seed, names in found.items()]


def of_variants(settings: params.Settings, lacking: list[str]) -> list[Part]:
    """Parts of a few variants each, whose number is a multiple of the workers that there are."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for name in lacking:
        _, variant, seed = told.split(name)
        if variant and not of_the_machine(name):
            found.setdefault((seed, variant), []).append(name)
    if not found:
        return []
    with get_client(sync_client=True) as client:
        online = _online(client)
    each, all_of_them, parts = variants_a_part(len(found), online), list(found.items()), []
    for first in range(0, len(all_of_them), each):
        batch = all_of_them[first : first + each]
        names = [" ".join(filter(None, reversed(key))) for key, _ in batch]
        parts.append(Part(f"{settings.study}: {', '.join(names)}", [name for _, stages in batch for name in stages]))
    return parts


def variants_a_part(variants: int, workers: int) -> int:
    """At most LARGEST, and so that every worker gets as many parts as the others, as far as that goes."""
    workers = max(1, workers)
    rounds = math.ceil(variants / (LARGEST * workers))
    return math.ceil(variants / (workers * rounds))


def of_a_machine(settings: params.Settings, lacking: list[str]) -> list[Part]:
    """A part a seed of what the machine `efficiency.device` measures, in the queue of that name."""
    queue, found = settings.efficiency.device, {}
    for name in lacking:
        if of_the_machine(name):
            found.setdefault(told.split(name)[2], []).append(name)
    return [Part(f"{settings.study}: {seed} on {queue}", names, queue) for seed, names in found.items()]


def carry_out(
    parts: Iterable[Part], common: dict[str, Any], completed: Callable[[Part], None] = lambda one: None
) -> None:
    """Submit the parts and wait for their end. Raises StageFailed, after all have ended, where one did not complete.

    completed(part) is told of each that has.
    """
    log, waiting, failures = get_run_logger(), {}, []

    def submit(one: Part, attempt: int) -> None:
        asked = {"parameters": {**common, "targets": one.targets}, "work_queue_name": one.queue}
        run = run_deployment(PART, **asked, flow_run_name=one.name[:200], timeout=0)
        waiting[run.id] = (one, attempt)
        log.info("submitted %s: %d stages", one.name, len(one.targets))

    with get_client(sync_client=True) as client:
        if not _online(client):
            log.warning("no worker is online that takes runs of %s: waiting for one", PART)
        try:
            for one in parts:
                submit(one, 1)
            while waiting:
                time.sleep(POLL_SECONDS)
                for identifier, (one, attempt) in list(waiting.items()):
                    state = _state(client, identifier)
                    if state is None or not state.is_final():
                        continue
                    del waiting[identifier]
                    if state.is_completed():
                        log.info("%s has completed, %d parts to go", one.name, len(waiting))
                        completed(one)
                    elif state.is_crashed() and attempt < ATTEMPTS:
                        log.warning("%s was lost (%s): it is submitted again", one.name, state.message)
                        submit(one, attempt + 1)
                    else:
                        failures.append(f"part {one.name}: {state.name}: {state.message}")
        finally:
            for identifier in waiting:  # this run was cancelled, or cannot go on
                with contextlib.suppress(httpx.HTTPError):
                    client.set_flow_run_state(identifier, Cancelling())
    if failures:
        raise running.StageFailed(" · ".join(failures))


def _online(client) -> int:
    """How many workers of the pool that parts go to are online. Raises InputError where nothing is deployed."""
    try:
        pool = client.read_deployment_by_name(PART).work_pool_name
    except ObjectNotFound:
        raise InputError(
            f"fan_out: the Prefect server has no deployment {PART}; set PREFECT_API_URL to the one of the workers, "
            "and deploy there first (prefect deploy --all, docs/workers.md)"
        ) from None
    return sum(one.status == WorkerStatus.ONLINE for one in client.read_workers_for_work_pool(pool))


def _state(client, identifier) -> State | None:
    """The state of a run; None while the server does not answer."""
    try:
        return client.read_flow_run(identifier).state
    except httpx.TransportError as error:
        get_run_logger().warning("the Prefect server does not answer: %s", error)
        return None
