"""The cells of the verdict as numbers: what every variant of each regime lost on every window, and contrasts of them.

A contrast is a weighted sum of cells, such as +1 · systematic-50 − 1 · magnitude-50. Its value of one seed is the sum
over that seed's cells, each the mean over its windows of text; what is estimated is the mean over seeds. So everything
is paired over seeds, and the interval tells of other trainings and not of these models alone: Student's t over seeds
(scipy.stats.ttest_1samp of the differences, which is ttest_rel where there are two cells).
"""

import math
from typing import NamedTuple

import numpy as np

from prunelab import stats
from prunelab.errors import InputError
from prunelab.mirror import kept
from prunelab.recipes import variants

IN_TIME, PAST_BEST = "stopped in time", "past its best"
LEVEL = 0.95
ROUNDING = 1e-12  # nats: what sums of equal losses differ by, which is no difference however often it repeats


class Regime(NamedTuple):
    """One finished study as cells."""

    name: str  # IN_TIME or PAST_BEST
    study: kept.Kept
    losses: dict[str, dict[str, np.ndarray]]  # variant → seed → (windows,), nats a token

    def rates(self, template: str) -> list[int]:
        """The percentages at which there is a variant like `systematic-{r}-retrained`, ascending."""
        head, tail = template.split("{r}")
        found = (name[len(head) : len(name) - len(tail)] for name in self.losses if name.startswith(head))
        return sorted({int(rate) for rate in found if rate.isdigit() and template.format(r=rate) in self.losses})


class Term(NamedTuple):
    regime: str
    variant: str
    weight: float


class Effect(NamedTuple):
    """A contrast, nats a token: below zero is a lower loss."""

    mean: float
    lo: float  # of the 95 % interval over seeds; nan of one seed
    hi: float
    sd: float  # of the seeds' values; nan of one seed
    p: float  # of no difference, two-sided
    seeds: int
    inner_lo: float  # of the 95 % interval over windows, these trained models given; nan where windows differ
    inner_hi: float
    by_seed: tuple[float, ...]

    @property
    def sign(self) -> int:
        """-1: lower with its whole interval, 1: higher, 0: no difference (or one seed, which has no interval)."""
        return -1 if self.hi < 0 else 1 if self.lo > 0 else 0

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.hi - self.lo) / 2

    @property
    def interval(self) -> stats.Interval:
        return self.mean, self.lo, self.hi


def regime(name: str, study: kept.Kept) -> Regime:
    """The cells of a finished study. Raises InputError where it is not judged by the loss on a text."""
    if study.about["headline"] != "loss":
        raise InputError(
            f"{study.folder}: is judged by {study.about['headline']}; the verdict reads studies of task language, "
            "which are judged by their loss"
        )
    losses: dict[str, dict[str, np.ndarray]] = {}
    for path, values in study.losses.items():
        tag, _, identifier = path.partition("/")
        losses.setdefault(identifier, {})[tag] = values
    if variants.DENSE not in losses:
        raise InputError(f"{study.folder}: holds no dense model to compare with; run the study again")
    return Regime(name, study, losses)


def effect(regimes: dict[str, Regime], terms: tuple[Term, ...]) -> Effect | None:
    """The contrast over the seeds that all its cells have; None where a cell is missing or no seed is common."""
    return effects(regimes, [terms])[0]


def effects(regimes: dict[str, Regime], contrasts: list[tuple[Term, ...]]) -> list[Effect | None]:
    """`effect` of every contrast; those of equally many seeds are tested in one call, which costs as much as one."""
    found = [_values(regimes, terms) for terms in contrasts]
    tested: dict[int, list[int]] = {}
    for number, values in enumerate(found):
        if values is not None:
            tested.setdefault(len(values[0]), []).append(number)
    told: list[Effect | None] = [None] * len(found)
    for seeds, numbers in tested.items():
        table = np.stack([found[number][0] for number in numbers], axis=1)  # (seeds, contrasts)
        table[np.abs(table) < ROUNDING] = 0.0
        los, his, ps = _t_tests(table)
        for at, number in enumerate(numbers):
            values = table[:, at]
            sd = float(values.std(ddof=1)) if seeds > 1 else math.nan
            ends = float(los[at]), float(his[at])
            told[number] = Effect(
                float(values.mean()), *ends, sd, float(ps[at]), seeds, *found[number][1], tuple(values.tolist())
            )
    return told


def _values(regimes: dict[str, Regime], terms: tuple[Term, ...]) -> tuple[np.ndarray, tuple[float, float]] | None:
    """A contrast's value of every seed, (seeds,), and its interval over windows."""
    cells = []
    for term in terms:
        here = regimes.get(term.regime)
        if here is None or term.variant not in here.losses:
            return None
        cells.append((term.weight, here.losses[term.variant]))
    seeds = [tag for tag in cells[0][1] if all(tag in by_seed for _, by_seed in cells)]
    if not seeds:
        return None
    values = np.array([sum(weight * by_seed[tag].mean() for weight, by_seed in cells) for tag in seeds])
    inner = math.nan, math.nan
    if _one_text(regimes, terms) and len({by_seed[tag].shape for _, by_seed in cells for tag in seeds}) == 1:
        over_windows = sum(weight * np.mean([by_seed[tag] for tag in seeds], axis=0) for weight, by_seed in cells)
        inner = stats.seed_interval(over_windows, LEVEL)[1:]  # of hundreds of windows it is the bootstrap's
    return values, inner


def _one_text(regimes: dict[str, Regime], terms: tuple[Term, ...]) -> bool:
    return len({text_of(regimes[term.regime]) for term in terms}) == 1


def text_of(regime: Regime) -> str | None:
    """The hash of the text that a regime's losses are of; None where its rows don't say."""
    return next((row["text_sha256"] for row in regime.study.rows if row.get("text_sha256")), None)


def _t_tests(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lo, hi, p) of the mean of each column of (seeds, contrasts), against zero; nan of one seed."""
    from scipy.stats import ttest_1samp

    seeds, count = table.shape
    lo, hi, p = np.full((3, count), math.nan)
    if seeds < 2:
        return lo, hi, p
    # The test divides by the spread: where seeds are equal but for rounding, such as a cell minus itself, it has none.
    same = np.ptp(table, axis=0) < ROUNDING
    lo[same] = hi[same] = table[0, same]
    p[same] = table[0, same] == 0
    if not same.all():
        found = ttest_1samp(table[:, ~same], 0.0)
        interval = found.confidence_interval(LEVEL)
        lo[~same], hi[~same], p[~same] = interval.low, interval.high, found.pvalue
    return lo, hi, p
