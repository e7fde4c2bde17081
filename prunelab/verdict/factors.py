"""The factors of the verdict, which cells tell of each, and the contrasts that follow: main effects and interactions.

A pair is two templates of variants that differ in the factor alone, and what is held at that (its level): the effect is
`with` minus `without`. `{r}` is the rate. An interaction is the effect at one level minus the effect at another.
"""

from collections.abc import Iterator
from typing import NamedTuple

from prunelab.verdict.cells import IN_TIME, PAST_BEST, Effect, Regime, Term, effects

MAIN, INTERACTION, REGIME, PRUNING = "main effect", "interaction", "regime", "against dense"
BOTH = f"{PAST_BEST} − {IN_TIME}"
ALL = "all"  # the mean over the rates that there are


class Pair(NamedTuple):
    level: str  # what is held at what
    one: str
    other: str


class Factor(NamedTuple):
    name: str
    change: str  # what `one` has instead of `other`
    pairs: tuple[Pair, ...]


FINAL, AVERAGED, RETRAINED = "final weights kept", "averaged weights kept", "retrained"
BY_HISTORY, BY_MAGNITUDE, AT_RANDOM = "ranked by history", "ranked by magnitude", "at random"
UNPRUNED = "nothing pruned"
FACTORS = (
    Factor(
        "ranking",
        "history instead of final magnitude",
        (
            Pair(FINAL, "systematic-{r}", "magnitude-{r}"),
            Pair(AVERAGED, "systematic-average-{r}", "average-magnitude-{r}"),
            Pair(RETRAINED, "systematic-{r}-retrained", "magnitude-{r}-retrained"),
        ),
    ),
    Factor(
        "threshold",
        "σ of the history instead of σ of the final weights",
        (Pair("final magnitude decides", "history-threshold-{r}", "magnitude-sigma-{r}"),),
    ),
    Factor(
        "keeping",
        "the averaged instead of the final weights",
        (
            Pair(BY_HISTORY, "systematic-average-{r}", "systematic-{r}"),
            Pair(BY_MAGNITUDE, "average-magnitude-{r}", "magnitude-{r}"),
            Pair(UNPRUNED, "dense-average", "dense"),
        ),
    ),
    Factor(
        "window",
        "the end of training instead of the whole",
        (
            Pair("last half", "systematic-half-{r}", "systematic-average-{r}"),
            Pair("last quarter", "systematic-quarter-{r}", "systematic-average-{r}"),
        ),
    ),
    Factor(
        "checkpoint",
        "the best by validation loss instead of the last",
        (Pair(BY_MAGNITUDE, "best-magnitude-{r}", "magnitude-{r}"), Pair(UNPRUNED, "dense-best", "dense")),
    ),
    Factor(
        "retraining",
        "retrained under the mask instead of one-shot",
        (
            Pair(BY_HISTORY, "systematic-{r}-retrained", "systematic-{r}"),
            Pair(BY_MAGNITUDE, "magnitude-{r}-retrained", "magnitude-{r}"),
            Pair(AT_RANDOM, "random-{r}-retrained", "random-{r}"),
            Pair(UNPRUNED, "dense-retrained", "dense"),
        ),
    ),
    Factor(
        "shares",
        "each tensor's own threshold instead of equal shares",
        (Pair("final magnitude decides", "magnitude-sigma-{r}", "magnitude-{r}"),),
    ),
)
# What pruning does against the unpruned model of the same kind.
AGAINST_DENSE = Factor(
    "pruning",
    "pruned instead of dense",
    (
        Pair("history", "systematic-{r}", "dense"),
        Pair("history's threshold", "history-threshold-{r}", "dense"),
        Pair("magnitude", "magnitude-{r}", "dense"),
        Pair("magnitude, σ", "magnitude-sigma-{r}", "dense"),
        Pair("random", "random-{r}", "dense"),
        Pair("history, averaged", "systematic-average-{r}", "dense"),
        Pair("history's half, averaged", "systematic-half-{r}", "dense"),
        Pair("history's quarter, averaged", "systematic-quarter-{r}", "dense"),
        Pair("magnitude, averaged", "average-magnitude-{r}", "dense"),
        Pair("magnitude, best checkpoint", "best-magnitude-{r}", "dense"),
        Pair("history, retrained", "systematic-{r}-retrained", "dense"),
        Pair("magnitude, retrained", "magnitude-{r}-retrained", "dense"),
        Pair("random, retrained", "random-{r}-retrained", "dense"),
    ),
)
# What a pruned model gains beyond what the unpruned one gains by the same: pruning itself.
CONTROLLED = Factor(
    "pruning beside its control",
    "pruned instead of the unpruned model of the same treatment",
    (
        Pair("history, averaged", "systematic-average-{r}", "dense-average"),
        Pair("magnitude, best checkpoint", "best-magnitude-{r}", "dense-best"),
        Pair("history, retrained", "systematic-{r}-retrained", "dense-retrained"),
        Pair("magnitude, retrained", "magnitude-{r}-retrained", "dense-retrained"),
        Pair("history, one-shot, beside the best checkpoint", "systematic-{r}", "dense-best"),
    ),
)
# The unpruned model that a way of pruning begins at, where it is not the dense model as it is.
BEGINS = {
    "dense-average": ("history, averaged", "history's half, averaged", "history's quarter, averaged",
                      "magnitude, averaged"),
    "dense-best": ("magnitude, best checkpoint",),
    "dense-retrained": ("history, retrained", "magnitude, retrained", "random, retrained"),
}  # fmt: skip
INTERACTIONS = (  # factor, its level, minus its other level
    ("ranking × keeping", "ranking", AVERAGED, FINAL),
    ("ranking × retraining", "ranking", RETRAINED, FINAL),
    ("keeping × pruning", "keeping", BY_HISTORY, UNPRUNED),
    ("keeping × pruning", "keeping", BY_MAGNITUDE, UNPRUNED),
    ("checkpoint × pruning", "checkpoint", BY_MAGNITUDE, UNPRUNED),
    ("retraining × pruning", "retraining", BY_HISTORY, UNPRUNED),
    ("retraining × pruning", "retraining", BY_MAGNITUDE, UNPRUNED),
)


class Contrast(NamedTuple):
    kind: str  # MAIN, INTERACTION, REGIME or PRUNING
    factor: str
    level: str
    regime: str  # a regime's name, or BOTH
    rate: str  # percent, ALL, or empty where nothing is pruned
    effect: Effect


Terms = dict[str, tuple[Term, ...]]  # by rate


def contrasts(regimes: dict[str, Regime]) -> list[Contrast]:
    """Every contrast that the cells of the regimes allow, in the order of the factors."""
    asked = list(_asked(regimes))
    found = effects(regimes, [wanted for _, wanted in asked])
    return [Contrast(*names, one) for (names, _), one in zip(asked, found, strict=True) if one is not None]


def _asked(regimes: dict[str, Regime]) -> Iterator[tuple[tuple, tuple[Term, ...]]]:
    """(kind, factor, level, regime, rate) of every contrast, and its terms."""
    for here in regimes.values():
        for factor in (*FACTORS, AGAINST_DENSE, CONTROLLED):
            kind = MAIN if factor in FACTORS else PRUNING
            for pair in factor.pairs:
                yield from _by_rate((kind, factor.name, pair.level, here.name), terms(here, pair))
        for name, factor, level, other in INTERACTIONS:
            apart = _minus(*(terms(here, pair_of(factor, wanted)) for wanted in (level, other)))
            yield from _by_rate((INTERACTION, name, f"{level} − {other}", here.name), apart)
    if len(regimes) < 2:
        return
    early, late = regimes[IN_TIME], regimes[PAST_BEST]
    without = {"": (Term(PAST_BEST, "dense", 1.0), Term(IN_TIME, "dense", -1.0))}
    yield from _by_rate((REGIME, "regime", UNPRUNED, BOTH), without)
    for factor in (*FACTORS, AGAINST_DENSE):
        for pair in factor.pairs:
            both = _minus(terms(late, pair), terms(early, pair))
            yield from _by_rate((INTERACTION, f"{factor.name} × regime", pair.level, BOTH), both)


def _by_rate(names: tuple, by_rate: Terms) -> Iterator[tuple[tuple, tuple[Term, ...]]]:
    for rate, wanted in with_mean(by_rate).items():
        yield (*names, rate), wanted


def pair_of(factor: str, level: str) -> Pair:
    """The pair of a factor at a level."""
    return next(pair for one in FACTORS if one.name == factor for pair in one.pairs if pair.level == level)


def terms(regime: Regime, pair: Pair) -> Terms:
    """The contrast of a pair at every rate that both of its cells have; under "" where it has none."""
    if "{r}" not in pair.one:
        known = {pair.one, pair.other} <= regime.losses.keys()
        return {"": _difference(regime.name, pair.one, pair.other)} if known else {}
    rates = set(regime.rates(pair.one))
    if "{r}" in pair.other:
        rates &= set(regime.rates(pair.other))
    elif pair.other not in regime.losses:
        return {}
    return {str(r): _difference(regime.name, pair.one.format(r=r), pair.other.format(r=r)) for r in sorted(rates)}


def _difference(regime: str, one: str, other: str) -> tuple[Term, ...]:
    return Term(regime, one, 1.0), Term(regime, other, -1.0)


def _minus(one: Terms, other: Terms) -> Terms:
    """One contrast minus another, by rate; what has no rate stands for every one."""
    return {
        rate: (*mine, *(term._replace(weight=-term.weight) for term in other.get(rate, other.get(""))))
        for rate, mine in one.items()
        if rate in other or "" in other
    }


def beginning(pair: Pair) -> str:
    """The unpruned model that a pair of AGAINST_DENSE begins at: what its curve has at 0 %."""
    return next((control for control, levels in BEGINS.items() if pair.level in levels), pair.other)


def with_mean(by_rate: Terms) -> Terms:
    """The contrasts and, where there are several rates, their mean."""
    if len(by_rate) < 2:
        return by_rate
    share = 1 / len(by_rate)
    mean = [term._replace(weight=term.weight * share) for wanted in by_rate.values() for term in wanted]
    return by_rate | {ALL: tuple(mean)}
