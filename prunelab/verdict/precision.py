"""How precise the main effects are, and how many seeds it would take for what was wanted.

Two answers, both from the spread over the seeds that there are: seeds for an interval of ± WANTED, and seeds that would
find a true difference of WANTED with a chance of four in five (the power of the paired t test).
"""

import bisect
import math
from typing import NamedTuple

from prunelab.stats import t_quantile
from prunelab.verdict.cells import LEVEL, Effect, Regime, effect
from prunelab.verdict.factors import FACTORS, Pair, terms

WANTED = 0.01  # nats a token
RATE = "50"
POWER = 0.8
MOST = 10_000  # seeds: more are told as so many


class Precision(NamedTuple):
    factor: str
    level: str
    regime: str
    rate: str  # "50", or the rates whose mean stands for it: "40, 60"
    effect: Effect
    seeds_for_interval: int | None  # None: narrow enough, or unknown
    seeds_for_power: int | None

    @property
    def narrow(self) -> bool:
        return self.effect.half <= WANTED


def precisions(regimes: dict[str, Regime]) -> list[Precision]:
    """The main effects at 50 %; of those that have cells on both sides of it only, the mean of the nearest two."""
    found = []
    for here in regimes.values():
        for factor in FACTORS:
            for pair in factor.pairs:
                rate, wanted = _at(here, pair)
                one = effect(regimes, wanted) if wanted else None
                if one is not None:
                    found.append(Precision(factor.name, pair.level, here.name, rate, one, *needed(one)))
    return found


def _at(regime: Regime, pair: Pair) -> tuple[str, tuple]:
    by_rate = terms(regime, pair)
    if RATE in by_rate or "" in by_rate:
        return (RATE, by_rate[RATE]) if RATE in by_rate else ("", by_rate[""])
    below, above = (
        max((r for r in by_rate if int(r) < int(RATE)), key=int, default=None),
        min((r for r in by_rate if int(r) > int(RATE)), key=int, default=None),
    )
    if below is None or above is None:
        return "", ()
    halves = [term._replace(weight=term.weight / 2) for rate in (below, above) for term in by_rate[rate]]
    return f"{below}, {above}", tuple(halves)


def needed(effect: Effect, wanted: float = WANTED) -> tuple[int | None, int | None]:
    """(seeds for an interval of ± wanted, seeds to find a difference of it); None where the interval is narrow enough,
    or unknown."""
    if not effect.half > wanted:
        return None, None
    return seeds_for_interval(effect.sd, wanted), seeds_for_power(effect.sd, wanted)


def seeds_for_interval(sd: float, wanted: float = WANTED) -> int:
    """The fewest seeds whose 95 % t interval is no wider than ± wanted, at this spread."""
    return _fewest(lambda seeds: t_quantile(0.5 + LEVEL / 2, seeds - 1) * sd <= wanted * math.sqrt(seeds))


def seeds_for_power(sd: float, wanted: float = WANTED) -> int:
    """The fewest seeds at which a paired t test finds a true difference of `wanted` four times out of five."""
    from statsmodels.stats.power import TTestPower

    # Of far more seeds than enough the power is not a number: not below what is asked for.
    return _fewest(lambda seeds: not TTestPower().power(wanted / sd, seeds, 1 - LEVEL) < POWER)


def _fewest(enough) -> int:
    """The smallest number of seeds from which on there are enough; MOST where that is not even so many."""
    return 2 + bisect.bisect_left(range(2, MOST), True, key=enough)
