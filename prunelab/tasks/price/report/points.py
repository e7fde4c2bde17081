"""Errors of pruned models by method and rate, with what may be said of each: better, worse, or no difference."""

import math
from typing import NamedTuple

from prunelab import stats
from prunelab.fragments import ends

MODERATE = 0.305  # what the paper calls moderate: 30 % of the weights, with what rounding to whole ones adds


class Point(NamedTuple):
    """A method at one rate, over its seeds. Triples are (mean, lo, hi); unknown ends are nan."""

    method: str
    rate: str
    sparsity: float  # share of the prunable weights
    mae: stats.Interval  # currency; the interval is the difference's to dense, put around the mean
    increase: stats.Interval  # percent of dense
    row: dict  # of the first seed
    seeds: int

    @property
    def sign(self) -> int:
        """1: significantly worse than dense, -1: better, 0: no difference, or no interval."""
        _, lo, hi = self.increase
        return 1 if lo > 0 else -1 if hi < 0 else 0


def by_method(rows: list[dict]) -> dict[str, list[Point]]:
    """The points of every method whose error is known, ordered by sparsity; n:m patterns and such are among them."""
    dense = {row["path"]: row for row in rows if row["path"] == row["dense"]}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["rate"] is not None and row.get("mae") is not None:
            groups.setdefault((row["method"], row["rate"]), []).append(row)
    found: dict[str, list[Point]] = {}
    for (method, rate), mine in groups.items():
        found.setdefault(method, []).append(_point(method, rate, mine, dense))
    return {method: sorted(points, key=lambda point: point.sparsity) for method, points in found.items()}


def _point(method: str, rate: str, rows: list[dict], dense: dict[str, dict]) -> Point:
    base = sum(dense[row["dense"]]["mae"] for row in rows) / len(rows)
    if len(rows) > 1:
        diff = stats.seed_interval([row["mae_diff"] for row in rows])
    else:
        diff = tuple(math.nan if end is None else end for end in ends(rows[0], "mae_diff"))
    scale = 100 / base if base else math.nan
    return Point(
        method,
        rate,
        sum(row["sparsity_pruned"] or 0.0 for row in rows) / len(rows),
        tuple(base + end for end in diff),
        tuple(scale * end for end in diff),
        rows[0],
        len(rows),
    )


def worse_from(points: list[Point]) -> Point | None:
    """Where the error begins to be significantly worse than dense's, at this sparsity and at every higher one."""
    first = None
    for point in reversed(points):
        if point.sign <= 0:
            break
        first = point
    return first
