"""How far a method may prune, and where its loss breaks away.

**Safe up to**: the largest rate up to which, at every rate that was tested, the whole interval of the difference to
dense stays below a margin.

**Change point**: of every seed a broken line, `y = b·x + c·max(0, x − τ)`, is fitted to the loss increase `y` over the
rate `x` by least squares, τ over a grid of tenths of a percent; the interval of τ is Student's t over seeds. `y` counts
from the unpruned model of the same treatment (averaged, retrained, of the best checkpoint), where the line begins. τ
lies between the lowest and the second highest rate, because a break beyond would rest on one point. Where the interval
of the slope's change `c` holds zero, or c is below it, there is no break.
"""

import math
from typing import NamedTuple

import numpy as np

from prunelab import stats
from prunelab.verdict.cells import Effect

MARGIN = 0.01  # nats a token
GRID = 0.1  # percent
FEWEST = 4  # rates: three points lie on many a broken line


class Safe(NamedTuple):
    up_to: int | None  # percent; None: not even at the lowest rate
    breached: int | None  # the rate at which the interval first reaches the margin; None: at none
    tested: tuple[int, ...]


class Break(NamedTuple):
    at: stats.Interval  # percent of the weights
    before: stats.Interval  # slope, nats for each percent
    change: stats.Interval  # of the slope, the same
    bounds: tuple[float, float]  # between which τ was looked for

    @property
    def found(self) -> bool:
        return self.change[1] > 0

    @property
    def at_edge(self) -> bool:
        """Whether it may lie beyond what was looked at."""
        return self.at[0] >= self.bounds[1] - GRID


def safe_up_to(effects: dict[int, Effect], margin: float = MARGIN) -> Safe:
    """`effects`: the differences to dense by rate. One seed, which has no interval, is safe nowhere."""
    rates = tuple(sorted(effects))
    breached = next((rate for rate in rates if not effects[rate].hi < margin), None)
    below = [rate for rate in rates if breached is None or rate < breached]
    return Safe(below[-1] if below else None, breached, rates)


def change_point(effects: dict[int, Effect]) -> Break | None:
    """The break of the increases by rate; None of too few rates, or of one seed."""
    rates = sorted(effects)
    seeds = {len(effects[rate].by_seed) for rate in rates}
    if len(rates) < FEWEST or len(seeds) != 1 or seeds == {1}:
        return None
    x = np.array(rates, dtype=float)
    y = np.array([effects[rate].by_seed for rate in rates])  # (rates, seeds)
    taus, before, change = fit(x, y)
    if not np.isfinite(taus).all():
        return None
    at, lo, hi = stats.seed_interval(taus)
    near = at, lo - GRID / 2, hi + GRID / 2  # no seed's τ is known better than the grid
    return Break(near, stats.seed_interval(before), stats.seed_interval(change), (float(rates[0]), float(rates[-2])))


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """τ, b and c, (seeds,) each, of the broken lines nearest to y (rates, seeds) over x (rates,), percent."""
    grid = np.arange(x[0], x[-2] + GRID / 2, GRID)
    seeds = np.arange(y.shape[1])
    errors, slopes = np.full((len(grid), len(seeds)), math.inf), np.zeros((len(grid), 2, len(seeds)))
    for number, tau in enumerate(grid):
        design = np.stack([x, np.maximum(0, x - tau)], axis=1)
        slopes[number] = np.linalg.lstsq(design, y, rcond=None)[0]
        errors[number] = ((y - design @ slopes[number]) ** 2).sum(axis=0)
    best = errors.argmin(axis=0)
    return grid[best], slopes[best, 0, seeds], slopes[best, 1, seeds]
