"""Which stage may start when, and with how many threads. Pure bookkeeping, no processes.

Three kinds of stage, told by the name:

- *measuring* ones read time and energy: alone, when nothing else is left to do;
- those that *share* the machine run side by side, each with its share of the threads, because how many threads they
  get changes no digit of what they find: bringing texts, scoring a model, pruning by scores that are there already,
  other weights in the dense model, the same in fewer bits (tests/flows/test_threads.py);
- all others compute sums whose last digits hang on the number of threads (a model trained with one thread and with two
  differs), so they run alone with every thread, as they do in a plain `dvc repro`: what a study finds must not depend
  on what happened to run beside it. Those that only train share the machine too where `train.threads` is 1: each has
  one thread then, whatever runs beside it.
"""

import queue
import re
from collections.abc import Callable
from typing import NamedTuple

from prunelab.errors import InputError
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS
from prunelab.recipes.variants import Variant

MEASURING = ("efficiency", "runtimes")  # so begin the names of stages beside which nothing runs
LONG = ("train", "cells")  # kinds that start first where others could: last, they would run beside idle cores
LIGHT = ("device", "inputs", "probes", "report", "mirror")  # these import no torch
NEWS_SECONDS = 60  # between two signs of life while nothing finishes


class Start(NamedTuple):
    name: str
    threads: int | None  # None: as many as the stage takes by itself


class Schedule:
    """Stages to run, with what each needs; ask `ready()`, tell `started()` and `finished()`, until `over`."""

    def __init__(
        self, needs: dict[str, set[str]], workers: int, cores: int | None = None, trains_with_one_thread: bool = False
    ):
        """needs: stage → the stages of this very schedule that must have succeeded before. workers: at most so many
        side by side; may be changed while it goes on. cores: to be shared among them (None: one a worker).
        trains_with_one_thread: whether train.threads is 1."""
        self.needs = needs
        self.trains_with_one_thread = trains_with_one_thread
        self.workers = workers
        self.cores = cores or workers
        self.pending = dict.fromkeys(needs)  # ordered, so that a study runs in the same order every time
        self.running: dict[str, int | None] = {}  # stage → its threads
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def ready(self) -> list[Start]:
        """What to start now. Whatever wants the machine for itself waits until nothing runs, a measurement until
        nothing else can."""
        possible = [name for name in self.pending if self.needs[name] <= self.done]
        if any(threads is None for threads in self.running.values()):
            return []
        together = [name for name in possible if self.shares(name)]
        together.sort(key=lambda name: LONG.index(kind) if (kind := _kind(name)) in LONG else len(LONG))
        if together or self.running:
            return self._side_by_side(together)
        return [Start(name, None) for name in sorted(possible, key=measures)[:1]]

    def _side_by_side(self, names: list[str]) -> list[Start]:
        cores = max(self.cores, self.workers)
        free = cores - sum(self.running.values())
        names = names[: max(0, min(self.workers - len(self.running), free))]
        single = [name for name in names if not shares(name)]
        each = (free - len(single)) // max(1, len(names) - len(single))
        return [Start(name, 1 if name in single else each) for name in names]

    def shares(self, name: str) -> bool:
        """Whether it may run beside others."""
        return shares(name) or (self.trains_with_one_thread and trains(name))

    def started(self, start: Start) -> None:
        del self.pending[start.name]
        self.running[start.name] = start.threads

    def finished(self, name: str, succeeded: bool) -> None:
        del self.running[name]
        (self.done if succeeded else self.failed).add(name)

    @property
    def over(self) -> bool:
        """Nothing runs and nothing can start: what is still pending waits for a stage that failed."""
        return not self.running and not self.ready()

    def kept_back(self) -> dict[str, list[str]]:
        """Failed stage → the pending ones that need it, directly or not."""
        return {failed: self._behind(failed) for failed in sorted(self.failed)}

    def waiting(self) -> list[str]:
        """What runs or still can."""
        lost = {name for names in self.kept_back().values() for name in names}
        return [*self.running, *(name for name in self.pending if name not in lost)]

    def _behind(self, name: str) -> list[str]:
        found = {name}
        while more := {other for other in self.pending if self.needs[other] & found} - found:
            found |= more
        return [other for other in self.pending if other in found]


def follow(plan: Schedule, start: Callable, outcomes: queue.Queue, ended: Callable, *, before=None, news=None) -> None:
    """Carry `plan` out to its end.

    start(Start) begins a stage in the background, which puts (name, what came of it) into `outcomes`; ended(name, what
    came of it) tells the plan that it finished. before(): at every turn, before anything is started. news(): after
    every NEWS_SECONDS in which nothing finished.
    """
    while True:
        if before:
            before()
        if plan.over:
            return
        for one in plan.ready():
            plan.started(one)
            start(one)
        try:
            name, outcome = outcomes.get(timeout=NEWS_SECONDS)
        except queue.Empty:
            if news:
                news()
        else:
            ended(name, outcome)


def measures(name: str) -> bool:
    """Whether it reads time and energy; what does the work of dense is noted only (`efficiency --only-other-work`)."""
    kind, recipe = _split(name)
    if kind == "efficiency-further" and recipe is not None:
        return not recipe.does_the_work_of_dense
    return kind.startswith(MEASURING)


def leaves_checkpoints(name: str) -> bool:
    """Whether it trains so long that it leaves checkpoints to go on from."""
    kind, recipe = _split(name)
    if recipe is not None and recipe.prunes == "mask":
        return kind in ("prune", "further") and METHODS[recipe.method].trains
    return kind == "train" or (recipe is not None and kind == "further" and recipe.id == "dense-small")


def of_the_machine(name: str) -> bool:
    """Whether its figures are those of a machine, read there or noted beside what was read there."""
    return _kind(name).startswith(MEASURING)


def shares(name: str) -> bool:
    """Whether it may run beside others with a share of the threads."""
    kind, recipe = _split(name)
    if kind.startswith(MEASURING):
        return not measures(name)
    if kind == "prune" and recipe is not None and recipe.prunes == "mask":
        method = METHODS[recipe.method]
        return not method.trains and not method.runs_model
    if kind == "further" and recipe is not None:
        return recipe.prunes is None and recipe.id != "dense-small" and not recipe.rounds_by_text
    return kind in ("probes", "reference") or kind.startswith("quality")


def trains(name: str) -> bool:
    """Whether what it computes with the threads of `train.threads` is all that hangs on their number: a training, and
    the making of a mask that is trained afterwards. (Removing structure looks at calibration, with all threads.)"""
    kind, recipe = _split(name)
    if kind in ("prune", "further") and recipe is not None:
        masks = recipe.prunes == "mask" and not METHODS[recipe.method].runs_model
        trained = recipe.is_trained or (masks and METHODS[recipe.method].trains)
        return trained and (masks or recipe.prunes is None) and not recipe.rounds_by_text
    return kind in LONG


def forks(name: str) -> bool:
    """Whether it may begin in a process that has imported torch already: not what measures, whose figures are those of
    a process of its own."""
    return not measures(name) and _kind(name) not in LIGHT


def _split(name: str) -> tuple[str, Variant | None]:
    """The kind of stage and the recipe of a matrix's stage, None where it has none, or one that is wrong."""
    kind, _, recipe = name.partition("@")
    try:
        return kind, variants.parse(without_seed(recipe))
    except InputError:  # the stage itself says so
        return kind, None


def without_seed(recipe: str) -> str:
    """`wanda-50-s2` → `wanda-50`; of a stage of a whole seed (`s2`) nothing is left."""
    return re.sub(r"(^|-)s[0-9]+$", "", recipe)


def remaining_seconds(
    waiting: list[str], seconds: dict[str, float], workers: int, beside: Callable[[str], bool] = shares
) -> float | None:
    """An estimate for the stages `waiting` from the `seconds` that finished ones took; None before any finished.

    A stage counts as the mean of its kind (`prune@…`), a kind not seen yet as the mean of all; those that
    run side by side, of which `beside` is true, are shared between the workers.
    """
    if not seconds:
        return None
    kinds: dict[str, list[float]] = {}
    for name, taken in seconds.items():
        kinds.setdefault(_kind(name), []).append(taken)
    overall = sum(seconds.values()) / len(seconds)
    total = 0.0
    for name in waiting:
        own = kinds.get(_kind(name))
        expected = sum(own) / len(own) if own else overall
        total += expected / workers if beside(name) else expected
    return total


def clock(seconds: float) -> str:
    """`75` → `1:15`; from an hour on `1:01:15`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _kind(name: str) -> str:
    return name.partition("@")[0]
