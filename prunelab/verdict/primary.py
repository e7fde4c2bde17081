"""The six comparisons that were named before any result was there (docs/verdict.md), and Holm's adjustment over them.

Everything else that the report shows is exploration: of twenty comparisons of equals, one is expected to stand out.
"""

import math
from typing import NamedTuple

from prunelab.verdict.cells import IN_TIME, PAST_BEST, Effect, Regime, Term, effect

ALPHA = 0.05


class Primary(NamedTuple):
    id: str
    words: str  # what is compared, as in docs/verdict.md
    one: tuple[str, str]  # (regime, variant)
    other: tuple[str, str]

    @property
    def terms(self) -> tuple[Term, ...]:
        return Term(*self.one, 1.0), Term(*self.other, -1.0)


PRIMARY = (
    Primary(
        "P1",
        "Stopped in time, 50 %, one-shot, final weights kept: ranked by history instead of final magnitude",
        (IN_TIME, "systematic-50"),
        (IN_TIME, "magnitude-50"),
    ),
    Primary(
        "P2",
        "Past its best, 50 %, one-shot, final weights kept: ranked by history instead of final magnitude",
        (PAST_BEST, "systematic-50"),
        (PAST_BEST, "magnitude-50"),
    ),
    Primary(
        "P3",
        "Stopped in time, 60 %, ranked by history: the averaged instead of the final weights kept",
        (IN_TIME, "systematic-average-60"),
        (IN_TIME, "systematic-60"),
    ),
    Primary(
        "P4",
        "Stopped in time, 60 %, retrained under the mask: ranked by history instead of final magnitude",
        (IN_TIME, "systematic-60-retrained"),
        (IN_TIME, "magnitude-60-retrained"),
    ),
    Primary(
        "P5",
        "Past its best, 60 %, one-shot, ranked by history: pruned instead of its own dense model",
        (PAST_BEST, "systematic-60"),
        (PAST_BEST, "dense"),
    ),
    Primary(
        "P6",
        "Past its best, 60 %, one-shot, ranked by history: pruned instead of the checkpoint of the same training that "
        "simply stopped in time",
        (PAST_BEST, "systematic-60"),
        (PAST_BEST, "dense-best"),
    ),
)


class Answer(NamedTuple):
    primary: Primary
    effect: Effect | None  # None: a cell of it is missing
    p: float  # Holm-adjusted; nan where it is unknown

    @property
    def sign(self) -> int:
        """-1: a lower loss by the adjusted test, 1: a higher one, 0: no difference."""
        if self.effect is None or not self.p < ALPHA:
            return 0
        return -1 if self.effect.mean < 0 else 1

    @property
    def words(self) -> str:
        if self.effect is None:
            return "not in these studies"
        if math.isnan(self.p):
            return "open: one seed has no interval"
        return {-1: "lower loss", 0: "no difference", 1: "higher loss"}[self.sign]


def answers(regimes: dict[str, Regime]) -> list[Answer]:
    """All six, in their order."""
    found = [effect(regimes, primary.terms) for primary in PRIMARY]
    adjusted = holm([math.nan if one is None else one.p for one in found])
    return [Answer(*one) for one in zip(PRIMARY, found, adjusted, strict=True)]


def holm(values: list[float]) -> list[float]:
    """Holm's step-down adjustment. What is unknown (nan) stays so and counts as one of the family nevertheless, so that
    a study that is not there yet makes no other comparison look surer."""
    from statsmodels.stats.multitest import multipletests

    known = [1.0 if math.isnan(value) else value for value in values]
    adjusted = multipletests(known, ALPHA, method="holm")[1].tolist()
    return [math.nan if math.isnan(value) else one for value, one in zip(values, adjusted, strict=True)]
