"""A choice in words: what to deploy and why, what else was looked at, and what nothing here decides.

Names of variants stand in backticks; everything else is plain text. The first sentence is the headline.
"""

import math

from prunelab.deploy.choosing import Choice, Judged, Kept, nearest, runners_up
from prunelab.deploy.figures import WORSE, Candidate, Figure, known

MOST = 4  # names in a list; more are counted


def told(choice: Choice) -> list[str]:
    """The sentences, the headline first."""
    if choice.head is None:
        return _nothing(choice)
    lines = [f"{_deploy(choice)}: {_bought(choice, choice.head)}."]
    if choice.asked.variant is not None:
        lines.append(_named(choice))
        return lines
    lines.append(_why(choice))
    lines += _notes(choice)
    if following := runners_up(choice):
        lines.append(f"Next: {'; '.join(_behind(choice, one) for one in following)}.")
    if len(choice.frontier) > 1:
        lines.append(f"The frontier, which no other row significantly beats: {names(choice.frontier)}.")
    lines += _dominated(choice)
    lines += _undecided(choice)
    return lines


def why(choice: Choice) -> str:
    """The reason in a phrase, for a card and a tag."""
    if choice.head is None:
        return "nothing qualifies, so this is the dense model as it was given"
    if choice.asked.variant is not None:
        return "named in deploy.variant"
    decided = [name for place, (name, _) in enumerate(choice.steps) if place == 0 or choice.steps[place - 1][1] > 1]
    tied = f", tied with {', '.join(one.id for one in choice.chosen[1:])}" if choice.chosen[1:] else ""
    budgets = _budgets(choice.asked.budgets)
    among = f" of the rows that keep to {budgets}" if budgets else ""
    return f"the least {', then '.join(decided)}{among}, by 95 % intervals{tied}"


def number(figure: Figure) -> str:
    """`1.83 [1.80, 1.86] ms a token`; what is exact has no interval."""
    rule = figure.rule
    if figure.value is None:
        return f"unknown {rule.words}"
    ends = ""
    if known(figure.lo, figure.hi) and (figure.lo, figure.hi) != (figure.value, figure.value):
        ends = f" [{figure.lo:{rule.form}}, {figure.hi:{rule.form}}]"
    return minus(f"{figure.value:{rule.form}}{ends} {rule.words}")


def minus(text: str) -> str:
    """A minus is a minus and not a hyphen; names stand in backticks and keep theirs."""
    return text.replace("-", "−")


def names(found: list[Candidate]) -> str:
    """`a`, `b` and 3 more."""
    shown = [f"`{one.id}`" for one in found[:MOST]]
    if len(found) > MOST:
        return f"{', '.join(shown)} and {len(found) - MOST} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _deploy(choice: Choice) -> str:
    head, others = choice.head, choice.chosen[1:]
    named = "the dense model as it is" if head.is_dense else f"`{head.id}`"
    return f"Deploy {named} (or {names(others)}, which nothing asked for tells apart)" if others else f"Deploy {named}"


def _bought(choice: Choice, head: Candidate) -> str:
    """What a candidate is beside dense: its size, its time, its headline figure."""
    row, figures = head.first, head.figures
    parts, size = [], figures["stored_mb"].value
    if size is not None:
        dense = _dense(choice).figures["stored_mb"].value
        instead = "" if head.is_dense or not dense else f" instead of {dense:.2f} ({size / dense:.2f} ×)"
        parts.append(f"{size:.2f} MB on disk{instead}")
    ratio = [row.get(f"decode_ratio{end}") for end in ("", "_lo", "_hi")]
    if figures["decode_ms_per_token"].value is not None:
        time = number(figures["decode_ms_per_token"])
        if len(head.rows) == 1 and known(*ratio) and not head.is_dense and row.get("timed_as") != "dense":
            time += f" ({ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] × dense)"
        parts.append(time)
    if figures[WORSE].value is not None and not head.is_dense:
        name = figures[WORSE].rule.headline.name
        parts.append(f"{name} {number(figures[WORSE])}".replace(f"of {name} ", ""))
    return ", ".join(parts) or "nothing of it was measured"


def _why(choice: Choice) -> str:
    """How many qualify, and what decided among them."""
    out = {"fails", "undecided"}
    qualified = sum(one.state not in out for one in choice.judged)
    budgets = _budgets(choice.asked.budgets)
    parts = [f"{qualified} of {len(choice.judged)} rows keep to {budgets or 'no budget, as none is set'}"]
    before = qualified - len(choice.of("dominated"))
    for number_, (name, left) in enumerate(choice.steps):
        if before == 1:
            break
        what = choice.head.figures[name].rule.less
        if left == 1:
            parts.append(f"{'of those ' if number_ else ''}it is the one that is {what} than the others")
        elif left == before:
            parts.append(f"none of {left} is {what} by more than noise")
        else:
            parts.append(f"{left} are {what} than the rest and tied")
        before = left
    return f"{'; '.join(parts)}."


def _notes(choice: Choice) -> list[str]:
    """What a reader has to know of the figures that decided."""
    head, notes = choice.head, []
    timed = [name for name in choice.asked.minimise if head.figures[name].rule.timed]
    if timed and head.figures[timed[0]].doubt == "marked unreliable":
        notes.append(
            "Its time is marked unreliable: it was merely to be small, so its wide interval counts as it is and ties "
            "with much."
        )
    if head.first.get("rate") is not None and head.first.get("parameters") == _dense(choice).first.get("parameters"):
        notes.append("It saves storage, not time: masks alone make no dense kernel faster.")
    return notes


def _dense(choice: Choice) -> Candidate:
    return next(one.candidate for one in choice.judged if one.candidate.is_dense)


def _behind(choice: Choice, one: Judged) -> str:
    if one.figure is None:
        return f"`{one.candidate.id}` ({_bought(choice, one.candidate)})"
    return f"`{one.candidate.id}`, {apart(choice, one.candidate, one.by, one.figure)}"


def apart(choice: Choice, one: Candidate, other: Candidate, name: str) -> str:
    """How much more `one` has of a figure than `other`: "slower: 1.21 [1.15, 1.28] ×"."""
    rule, found = one.figures[name].rule, choice.comparison.difference(one, other, name)
    if found is None:
        return f"not measured in {name}"
    if found.mid == 0:
        return f"alike in {name}"
    word = rule.more if found.mid > 0 else rule.less
    if not rule.relative:
        return minus(f"{word}: {found.mid:+.2f} [{found.lo:+.2f}, {found.hi:+.2f}] points")
    ends = f" [{math.exp(found.lo):.2f}, {math.exp(found.hi):.2f}]" if found.lo < found.hi else ""
    return f"{word}: {math.exp(found.mid):.2f}{ends} ×"


def _dominated(choice: Choice) -> list[str]:
    beaten = choice.of("dominated")
    by = {one.by.id: one.by for one in beaten}
    if not beaten:
        return []
    return [f"Beaten in what was asked, by {names(list(by.values()))}: {names([one.candidate for one in beaten])}."]


def _undecided(choice: Choice) -> list[str]:
    doubtful = choice.of("undecided")
    if not doubtful:
        return []
    reasons = ", ".join(dict.fromkeys(one.why for one in doubtful))
    found = names([one.candidate for one in doubtful])
    return [f"Undecided, so not recommended: {found} ({reasons})."]


def _named(choice: Choice) -> str:
    (judged,) = (one for one in choice.judged if one.candidate is choice.head)
    broken = [_broken(budget) for budget in judged.budgets if budget.holds is False]
    doubtful = [f"{budget.name} is {budget.why}" for budget in judged.budgets if budget.holds is None]
    against = [*broken, *doubtful]
    return f"It is named in deploy.variant{', against ' + '; '.join(against) if against else ''}."


def _broken(budget: Kept) -> str:
    """`worse_percent ≤ 2: +3.90 [+3.70, +4.10] …, 105 % over`."""
    over = f", {100 * budget.excess:.0f} % over" if budget.limit else ""
    return f"{budget.name} ≤ {budget.limit:g}: {number(budget.figure)}{over}"


def _budgets(budgets: dict[str, float]) -> str:
    return ", ".join(f"{name} ≤ {limit:g}" for name, limit in budgets.items())


def _nothing(choice: Choice) -> list[str]:
    """Which budgets fail, by how much, and what comes nearest."""
    budgets = _budgets(choice.asked.budgets)
    lines = [f"Nothing qualifies: no row keeps to {budgets} with its whole 95 % interval."]
    if not budgets:
        lines = ["Nothing qualifies: no row has all the figures that are to be minimised."]
    for name in choice.asked.budgets:
        held = [budget for one in choice.judged for budget in one.budgets if budget.name == name]
        if not any(budget.holds for budget in held):
            decided = [budget for budget in held if budget.holds is False]
            if decided:
                least = min(decided, key=lambda budget: budget.excess)
                lines.append(f"No row keeps {_broken(least)} at best.")
            else:
                reasons = ", ".join(dict.fromkeys(budget.why for budget in held))
                lines.append(f"{name} is undecided for every row: {reasons}.")
    if near := nearest(choice):
        failing = "; ".join(_broken(budget) for budget in near.budgets if budget.holds is False)
        lines.append(f"Nearest comes `{near.candidate.id}`: {failing}.")
    return lines + _undecided(choice)
