"""Which candidate to deploy, under budgets and an order of what is to be small.

    every candidate
      → those whose whole interval keeps to every budget (an unreliable figure leaves it undecided)
      → less those that another of these significantly dominates in what was asked
      → those tied for the least of the first figure to minimise, of these the least of the second, …
      → what is left is named, all of it; the first of them is delivered

Ties are those that no interval tells apart. An unreliable time that is merely minimised counts with its interval: a
wide one ties with much, and the next figure decides.
"""

import math
from typing import NamedTuple

from prunelab.deploy.comparing import Comparison, Values
from prunelab.deploy.figures import WORSE, Candidate, Figure, known


class Asked(NamedTuple):
    """What the settings ask for; `variant` overrules the rest."""

    budgets: dict[str, float]
    minimise: list[str]
    variant: str | None = None

    @property
    def figures(self) -> list[str]:
        return list(dict.fromkeys([*self.minimise, *self.budgets]))


class Kept(NamedTuple):
    """One budget and what a candidate has of it; `holds` is None where that is undecided, and `why` says so."""

    name: str
    limit: float
    figure: Figure
    holds: bool | None
    why: str = ""

    @property
    def excess(self) -> float:
        """How far the interval's upper end lies above the budget, as a share of it (negative: below)."""
        end = self.figure.hi if known(self.figure.hi) else self.figure.value
        return math.inf if end is None else (end - self.limit) / (self.limit or 1.0)


class Judged(NamedTuple):
    """A candidate and what came of it: recommended | tied | behind | dominated | undecided | fails."""

    candidate: Candidate
    budgets: list[Kept]
    state: str
    why: str = ""  # of an undecided one
    by: Candidate | None = None  # who dominates it, or keeps it behind
    figure: str | None = None  # the figure in which it is behind


class Choice(NamedTuple):
    asked: Asked
    comparison: Comparison
    judged: list[Judged]  # every candidate, in the order of the study
    chosen: list[Candidate]  # the one to deliver and those tied with it; empty: nothing qualifies
    frontier: list[Candidate]  # those that no other significantly dominates in what was asked
    steps: list[tuple[str, int]]  # (figure, how many were left by it)

    @property
    def head(self) -> Candidate | None:
        return self.chosen[0] if self.chosen else None

    def of(self, state: str) -> list[Judged]:
        return [one for one in self.judged if one.state == state]


def choose(found: list[Candidate], asked: Asked, values: Values | None = None) -> Choice:
    """The choice among the candidates of a study (figures.candidates). Raises ValueError for an unknown variant."""
    comparison = Comparison(asked.figures, values)
    kept = {one.id: budgets_of(one, asked.budgets) for one in found}
    doubts = {one.id: _undecided(one, kept[one.id], asked.minimise) for one in found}
    failing = [one for one in found if any(budget.holds is False for budget in kept[one.id])]
    undecided = [one for one in found if one not in failing and doubts[one.id]]
    qualified = [one for one in found if one not in failing and one not in undecided]
    beaten = {
        one.id: _first(qualified, lambda other, one=one: comparison.dominates(other, one, True)) for one in qualified
    }
    left = [one for one in qualified if beaten[one.id] is None] or qualified
    chosen, steps = _least(left, qualified, asked.minimise, comparison)
    if asked.variant is not None:
        chosen = [next(one for one in found if one.id == asked.variant)]
    judged = []
    for one in found:
        if one in chosen:
            state = {"state": "recommended" if one is chosen[0] else "tied"}
        elif one in failing:
            state = {"state": "fails"}
        elif one in undecided:
            state = {"state": "undecided", "why": doubts[one.id]}
        elif one not in left:
            state = {"state": "dominated", "by": beaten[one.id]}
        else:
            state = {"state": "behind", **_behind(one, chosen[0], asked.minimise, comparison)}
        judged.append(Judged(one, kept[one.id], **state))
    measured = [one for one in found if all(known(comparison.point(one, name)) for name in asked.figures)]
    frontier = [one for one in measured if not any(comparison.dominates(other, one, True) for other in measured)]
    return Choice(asked, comparison, judged, chosen, frontier, steps)


def budgets_of(one: Candidate, budgets: dict[str, float]) -> list[Kept]:
    """Every budget held against a candidate's figure: it holds with the whole interval, or not."""
    kept = []
    for name, limit in budgets.items():
        figure = one.figures[name]
        if figure.doubt:
            kept.append(Kept(name, limit, figure, None, figure.doubt))
        else:
            kept.append(Kept(name, limit, figure, figure.hi <= limit))
    return kept


def nearest(choice: Choice) -> Judged | None:
    """Of those that fail a budget and are undecided in none, the one whose worst excess is smallest."""
    failed = [one for one in choice.judged if one.budgets and all(budget.holds is not None for budget in one.budgets)]
    failed = [one for one in failed if not all(budget.holds for budget in one.budgets)]
    return min(failed, key=lambda one: max(budget.excess for budget in one.budgets), default=None)


def runners_up(choice: Choice, most: int = 3) -> list[Judged]:
    """Who would come next: those that qualify and are not dominated, by the order of what is minimised."""
    behind = choice.of("behind")
    place = {name: number for number, name in enumerate(choice.asked.minimise)}

    def order(one: Judged) -> tuple:
        # Whoever was kept in play longest comes first.
        return (-place.get(one.figure, -1), *(choice.comparison.point(one.candidate, name) for name in place))

    return sorted(behind, key=order)[:most]


def _undecided(one: Candidate, kept: list[Kept], minimise: list[str]) -> str:
    """Why a candidate is neither in nor out; empty where it is."""
    doubts = {budget.name: budget.why for budget in kept if budget.holds is None}
    doubts |= {name: "not measured" for name in minimise if one.figures[name].value is None}
    return ", ".join(f"{name} is {why}" for name, why in doubts.items())


def _least(left, qualified, minimise, comparison: Comparison) -> tuple[list[Candidate], list[tuple[str, int]]]:
    """(those tied for the least in the order of `minimise`, the one to deliver first; how many each figure left).

    Ties are not transitive: a very noisy candidate may tie with the best and win by the next figure, though a third
    has less of everything. Such a one is put aside.
    """
    if not left:
        return [], []
    pool = left
    while True:
        tied, steps = pool, []
        for name in minimise:
            best = min(tied, key=lambda one: comparison.point(one, name))
            tied = [one for one in tied if not _more(comparison, one, best, name)]
            steps.append((name, len(tied)))
        heads = [one for one in tied if not any(_less_of_all(comparison, x, one, minimise) for x in qualified)]
        rest = [one for one in pool if one not in tied]
        if heads or not rest:
            break
        pool = rest
    head = min(heads or tied, key=lambda one: (_worse(one), one.figures["stored_mb"].value or math.inf))
    return [head, *(one for one in tied if one is not head)], steps


def _more(comparison: Comparison, one: Candidate, other: Candidate, name: str) -> bool:
    apart = comparison.difference(one, other, name)
    return apart is None or apart.sign > 0


def _less_of_all(comparison: Comparison, one: Candidate, other: Candidate, minimise: list[str]) -> bool:
    return all(comparison.point(one, name) < comparison.point(other, name) for name in minimise)


def _worse(one: Candidate) -> float:
    value = one.figures[WORSE].value
    return math.inf if value is None else value


def _behind(one: Candidate, head: Candidate, minimise: list[str], comparison: Comparison) -> dict:
    """The first figure to minimise in which a candidate has more than the chosen one, and by whom it is kept behind."""
    for name in minimise:
        if _more(comparison, one, head, name):
            return {"by": head, "figure": name}
    return {"by": head}


def _first(among: list[Candidate], holds) -> Candidate | None:
    return next((one for one in among if holds(one)), None)
