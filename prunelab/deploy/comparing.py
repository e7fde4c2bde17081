"""Two candidates in one figure: how far apart, and whether that is more than noise.

Like is compared with like as far as it was paired: the headline (a loss) over the same items (windows of text), times
as ratios to the dense model beside which each was measured. Ratios are compared as logarithms. Over several seeds the
unit is the seed.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

from prunelab import stats
from prunelab.deploy.figures import NOISY, Candidate, Rule, ends_of, timed_at, value_of

Values = Callable[[dict], object]  # the headline of every item of a row, (items,): the loss of every window of text


class Difference(NamedTuple):
    """One candidate less another, 95 % interval: logarithms of a ratio, or points. `noise`: what is called nothing."""

    mid: float
    lo: float
    hi: float
    noise: float = 0.0

    @property
    def sign(self) -> int:
        """-1: less, with the whole interval and by more than noise; +1: more; 0: not told apart."""
        return -1 if self.hi < 0 and self.mid < -self.noise else 1 if self.lo > 0 and self.mid > self.noise else 0


NOTHING = Difference(0.0, 0.0, 0.0)


class Comparison:
    """Compares candidates in the figures `asked`, of which all that are noisy share the 5 % of error (Bonferroni).

    So who asks for three noisy figures doesn't find three times as often a winner where there is none. `values`: of a
    row's items; None: from the rows' own intervals, which are wider.
    """

    def __init__(self, asked, values: Values | None = None):
        self.asked = list(dict.fromkeys(asked))
        self.level = 1 - 0.05 / max(1, sum(name in NOISY for name in self.asked))
        self._values, self._kept = values, {}

    def difference(self, one: Candidate, other: Candidate, name: str) -> Difference | None:
        """`one` less `other` in the figure `name`; None where one of them has none."""
        if one.id == other.id:
            return NOTHING
        found = self._difference(one, other, name)
        return None if found is None or math.isnan(found.mid) else found

    def _difference(self, one: Candidate, other: Candidate, name: str) -> Difference | None:
        if one.figures[name].value is None or other.figures[name].value is None:
            return None
        rule = one.figures[name].rule
        if name == "stored_mb":
            mid = math.log(one.figures[name].value / other.figures[name].value)
            return Difference(mid, mid, mid, math.log1p(rule.tolerance))
        if rule.timed and timed_at(one.first) == timed_at(other.first):
            return NOTHING  # the same work, measured once
        theirs = {row["seed"]: row for row in other.rows}
        pairs = [(row, theirs[row["seed"]]) for row in one.rows if row["seed"] in theirs]
        if not pairs:
            return None
        noise = math.log1p(max(row.get(rule.effect) or 0.0 for pair in pairs for row in pair)) if rule.effect else 0.0
        if len(pairs) > 1:
            apart = [_position(a, rule)[0] - _position(b, rule)[0] for a, b in pairs]
            return Difference(*stats.seed_interval(apart, self.level), noise)
        return Difference(*self._of_one_seed(*pairs[0], rule), noise)

    def _of_one_seed(self, a: dict, b: dict, rule: Rule) -> stats.Interval:
        if rule.headline and self._values and a["dense"] not in (a["path"], b["path"]):
            apart = rule.sign * (self._of_items(a) - self._of_items(b))
            base = a[rule.headline.column] / (1 + a[rule.column] / 100)  # of the dense model
            return tuple(100 / base * end for end in stats.seed_interval(apart, self.level))
        (mine, lo, hi), (its, low, high) = (_position(row, rule) for row in (a, b))
        wider = NormalDist().inv_cdf(0.5 + self.level / 2) / NormalDist().inv_cdf(0.975)
        mid = mine - its
        return mid, mid - wider * math.hypot(mine - lo, high - its), mid + wider * math.hypot(hi - mine, its - low)

    def _of_items(self, row: dict):
        if row["path"] not in self._kept:
            self._kept[row["path"]] = self._values(row)
        return self._kept[row["path"]]

    def point(self, candidate: Candidate, name: str) -> float:
        """Where a candidate stands on the scale of `difference`; infinite where it has no such figure."""
        if candidate.figures[name].value is None:
            return math.inf
        mid = sum(_position(row, candidate.figures[name].rule)[0] for row in candidate.rows) / len(candidate.rows)
        return math.inf if math.isnan(mid) else mid

    def dominates(self, one: Candidate, other: Candidate, strictly: bool = False) -> bool:
        """Whether `one` is significantly better in one of the figures asked and in none worse beyond its tolerance.

        No worse is said of the middle of the difference: with its whole interval hardly anything would be. `strictly`:
        nor is it significantly worse by less than that, in a figure of which the user asked for the least.
        """
        better = False
        for name in self.asked:
            apart = self.difference(one, other, name)
            no_worse = apart is not None and apart.mid <= max(apart.noise, tolerance(one.figures[name].rule))
            if not no_worse or (strictly and apart.sign > 0):
                return False
            better |= apart.sign < 0
        return better


def tolerance(rule: Rule) -> float:
    """What is no worse, on the scale of a Difference."""
    return math.log1p(rule.tolerance) if rule.relative else rule.tolerance


def _position(row: dict, rule: Rule) -> stats.Interval:
    """(mid, lo, hi) of a row on the scale of a Difference; unknown ends are not numbers."""
    if rule.ratio:
        if timed_at(row) == "dense":  # what dense takes beside a second copy of itself is the noise, not its time
            return NOTHING[:3]
        triple = tuple(row.get(f"{rule.ratio}{end}") for end in ("", "_lo", "_hi"))
    else:
        triple = value_of(row, rule), *ends_of(row, rule)
    triple = tuple(math.nan if end is None else end for end in triple)
    return tuple(math.log(end) if end > 0 else math.nan for end in triple) if rule.relative else triple
