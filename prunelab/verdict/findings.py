"""Everything that the finished studies say together, as numbers: what the page, verdict.json and the terminal tell.

Studies come in pairs: `verdict`, stopped in time, and `verdict-past-best`, the same with a few lines changed. One that
is missing is told, and the other one speaks for itself.
"""

from pathlib import Path
from typing import NamedTuple

from prunelab.errors import InputError
from prunelab.mirror import kept
from prunelab.verdict import breaking, factors, precision, primary
from prunelab.verdict.breaking import Break, Safe
from prunelab.verdict.cells import IN_TIME, PAST_BEST, Effect, Regime, effects, regime, text_of
from prunelab.verdict.factors import Contrast, Pair, terms
from prunelab.verdict.precision import Precision
from prunelab.verdict.primary import Answer

BEHIND = {IN_TIME: "", PAST_BEST: "-past-best"}  # the study's name of each regime, behind that of the first


class Findings(NamedTuple):
    regimes: dict[str, Regime]
    missing: dict[str, str]  # regime → why it is not there, a sentence
    primary: list[Answer]
    contrasts: list[Contrast]
    safe: dict[tuple[str, str], Safe]  # by (regime, level of factors.AGAINST_DENSE)
    breaks: dict[tuple[str, str], Break]  # the same; without those of too few rates
    precisions: list[Precision]

    def by_rate(self, factor: str, level: str, regime: str) -> dict[str, Effect]:
        """The effects of a factor at a level, by rate."""
        asked = factor, level, regime
        return {one.rate: one.effect for one in self.contrasts if (one.factor, one.level, one.regime) == asked}

    def against_dense(self, regime: str, level: str) -> dict[int, Effect]:
        """The differences to dense by rate, ascending."""
        found = self.by_rate(factors.AGAINST_DENSE.name, level, regime)
        return {int(rate): effect for rate, effect in found.items() if rate.isdigit()}

    def answer(self, identifier: str) -> Answer:
        return next(one for one in self.primary if one.primary.id == identifier)


def find(name: str, folder: Path = kept.FOLDER) -> Findings:
    """What the study `name` and its twin past its best say. Raises InputError where neither is kept in `folder`, or
    where they cannot be compared."""
    regimes, missing = {}, {}
    for which, behind in BEHIND.items():
        study = f"{name}{behind}"
        if (Path(folder) / study / kept.ABOUT).exists():
            regimes[which] = regime(which, kept.read(study, folder))
        else:
            missing[which] = f"`{study}` is not finished (make study STUDY={study})."
    if not regimes:
        first, second = (f"{name}{behind}" for behind in BEHIND.values())
        raise InputError(f"{folder}: neither {first} nor {second} is kept there; run them: make verdict")
    _require_one_text(regimes)
    found = Findings(
        regimes, missing, primary.answers(regimes), factors.contrasts(regimes), {}, {}, precision.precisions(regimes)
    )
    for which in regimes:
        for pair in factors.AGAINST_DENSE.pairs:
            if against := found.against_dense(which, pair.level):
                found.safe[which, pair.level] = breaking.safe_up_to(against)
            if (broken := breaking.change_point(_curve(regimes, which, pair))) is not None:
                found.breaks[which, pair.level] = broken
    return found


def _curve(regimes: dict[str, Regime], which: str, pair: Pair) -> dict[int, Effect]:
    """The differences to the unpruned model that a way of pruning begins at, by rate."""
    by_rate = terms(regimes[which], pair._replace(other=factors.beginning(pair)))
    found = zip(by_rate, effects(regimes, list(by_rate.values())), strict=True)
    return {int(rate): one for rate, one in found if one is not None}


def _require_one_text(regimes: dict[str, Regime]) -> None:
    texts = {here.study.name: text_of(here) for here in regimes.values()}
    if len(set(texts.values())) > 1:
        (one, its), (other, others) = texts.items()
        raise InputError(
            f"{one} was judged on the text {str(its)[:12]}…, {other} on {str(others)[:12]}…, so their losses do not "
            "compare; give both studies the same held-out text"
        )
