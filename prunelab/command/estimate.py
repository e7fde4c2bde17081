"""How much of a study fits into some minutes on this machine: `prunelab try` asks it, from a few timed passes.

Everything that can be chosen grows with one number, the effort, so the time is a straight line in it:

    seconds(effort) = fixed + effort · slope

    windows that are scored     8 · effort        crops of calibration    4 · effort
    seconds of timing a model   1 · effort        of energy windows       ¼ · effort

`fixed` is what starting the stages costs, the least of passes that are timed, the samples that each model writes, what
SparseGPT solves. Stages that do not measure run side by side, so what one takes on a core is divided by how much more
all cores do: timed, not counted, because a neighbour may have one of them.
"""

import math
from typing import NamedTuple

from prunelab.errors import InputError

LEAST, MOST = 2, 32  # effort: 16 to 256 windows, 8 to 128 crops, 2 to 32 seconds of timing a model
WINDOWS, CROPS, TIMING, ENERGY = 8, 4, 1.0, 0.25  # an effort of 1 is so much of each
CORRUPTED = 3 / WINDOWS / 8  # share of the windows that robustness adds: three kinds of an eighth of their number
PASSES = 60  # of a measured pair at least: ten parts of four, the warm-up of both, what memory and energy need
WRITTEN = 80  # tokens that each model writes as samples: 40 greedily, 40 drawn
ALONE = (
    7  # stages that wait for each other: device, inputs, fetch, train, export, report, mirror; recommend takes no time
)
RESERVE = 0.85  # of the minutes that are planned with: a neighbour may come, and pages be read from disk
# What is left out first where time is short: the slowest method, then the one that needs calibration, then depth; the
# rivals, without which a pruned model is held against nothing that anybody would deploy, come last.
METHODS = ("magnitude", "wanda", "sparsegpt")
RIVALS = ("dense-int8", "dense-int4")


class Timed(NamedTuple):
    """What was timed of this model on one core of this machine (or its GPU); all in seconds."""

    start_s: float  # from the start of a stage to its model in memory, imports included
    token_s: float  # to score a token of a window
    step_s: float  # to make one more token of a text
    pass_s: float  # to serve once what the efficiency is measured on
    hessian_s: float  # to add a token of a crop to SparseGPT's sums
    solve_s: float  # to solve all of SparseGPT's layers
    prune_s: float  # to rank all weights and write the variant
    side_by_side: float  # so many times as much is done by all cores as by one: 1.9 of two that are quiet; 1 of a GPU


class Choice(NamedTuple):
    methods: tuple[str, ...]
    depth: bool  # a variant with blocks removed besides
    context: int  # tokens of a window and of a crop
    rivals: tuple[str, ...] = ()  # the dense model in fewer bits


class Cost(NamedTuple):
    """Seconds of a study, by what they go to."""

    starting_s: float
    computing_s: float
    measuring_s: float

    @property
    def total_s(self) -> float:
        return sum(self)


class Plan(NamedTuple):
    choice: Choice
    effort: float
    cost: Cost
    left_out: list[str]  # why, a phrase each

    @property
    def windows(self) -> int:
        return int(WINDOWS * self.effort)

    @property
    def crops(self) -> int:
        return int(CROPS * self.effort)

    @property
    def timing_s(self) -> float:
        return round(TIMING * self.effort, 1)

    @property
    def energy_s(self) -> float:
        return round(ENERGY * self.effort, 1)


def cost(timed: Timed, choice: Choice, effort: float) -> Cost:
    """What the study of `choice` takes with this effort."""
    smaller = choice.depth + len(choice.rivals)
    variants = len(choice.methods) + smaller
    needing = [method for method in choice.methods if method != "magnitude"]
    # Reference, calibration, and for each variant a stage that makes it and one that scores it. Timed are dense, one
    # mask, depth and the rivals: other masks take over the times of magnitude's.
    beside, measuring = 2 + 2 * variants, 2 + smaller
    starting = timed.start_s * (ALONE + beside / timed.side_by_side + measuring)
    windows, crops = WINDOWS * effort * (1 + CORRUPTED) * choice.context, CROPS * effort * choice.context
    passes = bool(needing) + choice.depth  # the calibration, and what depth sees of it
    computing = (1 + variants) * (windows * timed.token_s + WRITTEN * timed.step_s)
    computing += crops * (passes * timed.token_s + timed.hessian_s * ("sparsegpt" in choice.methods))
    computing += variants * timed.prune_s + timed.solve_s * ("sparsegpt" in choice.methods)
    return Cost(
        starting, computing / timed.side_by_side, measuring * (PASSES * timed.pass_s + effort * (TIMING + ENERGY))
    )


def plan(timed: Timed, minutes: float, context: int, blocks_go: bool, rate: int, rivals: tuple[str, ...] = ()) -> Plan:
    """The most that fits into `minutes`. Raises InputError where not even the least does, with what that would take.

    blocks_go: whether `rate` percent of the model's blocks are a number of blocks. rivals: those that it can be made.
    """
    many = [(METHODS, True), (METHODS[:2], True), (METHODS[:1], True), (METHODS[:1], False)]
    choices = [Choice(methods, depth, context, rivals) for methods, depth in many]
    choices.append(Choice(METHODS[:1], False, context))
    if not blocks_go:
        choices = [choice._replace(depth=False) for choice in choices]
    choices = list(dict.fromkeys(choices))
    seconds = 60 * minutes * RESERVE
    for choice in choices:
        least, most = cost(timed, choice, LEAST), cost(timed, choice, MOST)
        if least.total_s <= seconds:
            slope = (most.total_s - least.total_s) / (MOST - LEAST)
            effort = min(float(MOST), LEAST + (seconds - least.total_s) / slope)
            left_out = _left_out(choice, blocks_go, rate, minutes, rivals)
            return Plan(choice, effort, cost(timed, choice, effort), left_out)
    needed = math.ceil(least.total_s / RESERVE / 6) / 10
    raise InputError(
        f"--minutes {minutes:g}: with this model on this machine, {choice.methods[0]} alone and the least of all else "
        f"take about {needed:g} minutes ({least.starting_s / 60:.1f} of them to start stages); give it that"
    )


def _left_out(choice: Choice, blocks_go: bool, rate: int, minutes: float, rivals: tuple[str, ...]) -> list[str]:
    gone = [name for name in (*METHODS, *rivals) if name not in (*choice.methods, *choice.rivals)]
    found = [f"{name} (does not fit into {minutes:g} minutes)" for name in gone]
    if not blocks_go:
        found.append(f"depth-{rate} ({rate} % of the blocks are no whole block, or all of them)")
    elif not choice.depth:
        found.append(f"depth-{rate} (does not fit into {minutes:g} minutes)")
    return found
