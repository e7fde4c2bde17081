"""The verdict in words: which claims of arXiv 2502.17071 and of the field this study bears out.

Names of variants stand in backticks; everything else is plain text. Nothing is said that no interval supports.
"""

from typing import NamedTuple

from prunelab.recipes.variants import split_method
from prunelab.report import verdict
from prunelab.report.verdict import BASELINE, Group

PAPER = "systematic"  # the paper's method: rank by weight history, keep the final weights


class Claim(NamedTuple):
    question: str
    status: str  # holds | holds in part | does not hold | open
    answer: str
    figures: tuple[tuple[str, str, int], ...] = ()  # (rate, difference with its interval, sign where it is certain)


def rate_name(rate: str) -> str:
    """`60` → 60 %, `2of4` → 2:4, `sigma112` → PruneRate 1.12."""
    if rate.startswith("sigma"):
        return f"PruneRate {int(rate[5:]) / 100:g}"
    return rate.replace("of", ":") if "of" in rate else f"{rate} %"


def rate_names(rates: list[str], among: list[str] = ()) -> str:
    """`["20", "40", "2of4"]` → "20, 40 % and 2:4"; three or more that follow each other in `among` → "20 to 60 %"."""
    runs: list[list[str]] = []
    for rate in rates:
        follows = runs and runs[-1][-1] in among and among.index(runs[-1][-1]) + 1 < len(among)
        if follows and among[among.index(runs[-1][-1]) + 1] == rate and rate.isdigit() == runs[-1][-1].isdigit():
            runs[-1].append(rate)
        else:
            runs.append([rate])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 3 else run)]
    last = max((number for number, part in enumerate(parts) if part[0].isdigit() and "of" not in part), default=-1)
    names = [  # "20, 40 %", not "20 %, 40 %"
        f"{part} %" if number == last else part if part[0].isdigit() and "of" not in part else rate_name(part)
        for number, part in enumerate(parts)
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def thinned(figures: list, most: int = 8) -> tuple:
    """At most about `most` of the figures, evenly spread, the last among them."""
    step = -(-len(figures) // most)
    return tuple(figures[(len(figures) - 1) % step :: step]) if figures else ()


def interval(triple, form: str = "+.1f", unit: str = "") -> str:
    """`(1.0, 0.5, 1.5)` → "+1.0 [+0.5, +1.5]"; without a known interval the mean alone."""
    mean, lo, hi = triple[:3]
    known = lo == lo and hi == hi
    return minus(f"{mean:{form}}{unit}" + (f" [{lo:{form}}, {hi:{form}}]" if known else " (no interval)"))


def minus(text: str) -> str:
    """A minus is a minus and not a hyphen."""
    return text.replace("-", "−")


def claims(study, found: list[Group]) -> list[Claim]:
    """The claims that this study's methods can answer."""
    methods = list(dict.fromkeys(group.method for group in found))
    told, paper = [], _with_allocation(PAPER, methods)
    if paper and (baseline := paper.replace(PAPER, BASELINE)) in methods:
        question = "Does weight history beat plain magnitude at equal sparsity?"
        told.append(_beats(study, found, question, paper, baseline))
    if followed := paper or _with_allocation(BASELINE, methods):
        curve = [group for group in found if group.method == followed]
        told += [_fall(study, curve), _rise(study, curve)]
    rewriting, scoring = (_with_allocation(name, methods) for name in ("sparsegpt", "wanda"))
    if rewriting and scoring:
        question = "Does SparseGPT, which rewrites what stays, beat Wanda at equal sparsity?"
        told.append(_beats(study, found, question, rewriting, scoring))
    return told


def _with_allocation(method: str, methods: list[str]) -> str | None:
    """`method` itself where the study has it, else its first entry with an allocation, such as `systematic-sigma`."""
    return min((name for name in methods if split_method(name)[0] == method), key=len, default=None)


def _beats(study, found: list[Group], question: str, method: str, baseline: str) -> Claim:
    by_rate = verdict.effects(study, found, method, baseline)
    known = {rate: effect for rate, effect in by_rate.items() if effect.lo == effect.lo}
    if not known:
        return Claim(question, "open", "No rate at which both were measured with an interval.")
    better = [rate for rate, effect in known.items() if effect.sign < 0]
    worse = [rate for rate, effect in known.items() if effect.sign > 0]
    same = [rate for rate, effect in known.items() if effect.sign == 0]
    parts = [
        f"{words} at {rate_names(rates, list(known))}"
        for words, rates in (("lower loss", better), ("higher loss", worse), ("no difference", same))
        if rates
    ]
    # Better here and worse there is no advantage.
    status = "holds" if len(better) == len(known) else "holds in part" if better and not worse else "does not hold"
    some = next(iter(known.values()))
    fetched = study.settings.train.epochs == 0
    if some.unit == "windows":
        once = "one calibration set: another one" if fetched else "one trained model: another seed"
        scope = f"Intervals over {some.units:,} windows of text of {once} may differ."
    else:
        scope = f"Intervals over {some.units} {'calibration' if fetched else 'training'} seeds."
    answer = f"`{method}` against `{baseline}`: {'; '.join(parts)}. {scope}"
    figures = ((rate_name(rate), f"{interval(effect, '+.4f')} nats", effect.sign) for rate, effect in known.items())
    return Claim(question, status, answer, thinned(list(figures)))


def _fall(study, followed: list[Group]) -> Claim:
    method = followed[0].method
    asked = [group for group in followed if group.increase and group.sparsity <= 0.605]
    question = "Does pruning lower the loss at moderate sparsity? (the paper: it falls up to 60 %)"
    if not asked:
        return Claim(question, "open", "No rate up to 60 % in this study.")
    tested = [group.rate for group in asked]
    falls = [group for group in asked if group.increase[2] < 0]
    rises = [group.rate for group in asked if group.increase[1] > 0]
    same = [group.rate for group in asked if group not in falls and group.rate not in rises]
    parts = [f"below dense at {rate_names([group.rate for group in falls], tested)}"] if falls else []
    parts += [f"no difference at {rate_names(same, tested)}"] if same else []
    parts += [f"above dense at {rate_names(rises, tested)}"] if rises else []
    answer = f"Loss of `{method}`: {'; '.join(parts)}."
    if falls and (control := _controls(study)):
        answer += f" Without any pruning, {control}: so part of a fall may be regularisation alone."
    status = "holds" if len(falls) == len(asked) else "holds in part" if falls else "does not hold"
    return Claim(question, status, answer, thinned([_increase(group) for group in asked]))


def _increase(group: Group) -> tuple[str, str, int]:
    _, lo, hi = group.increase
    return rate_name(group.rate), f"{interval(group.increase, '+.2f')} %", -1 if hi < 0 else 1 if lo > 0 else 0


def _controls(study) -> str:
    """Controls that beat dense although nothing was pruned."""
    better = [
        f"`{group.method}` has {minus(format(group.increase[0], '+.2f'))} %"
        for group in verdict.unpruned(study)
        if group.increase and group.increase[2] < 0
    ]
    return ", ".join(better)


def _rise(study, followed: list[Group]) -> Claim:
    sharp = study.settings.report.sharp_rise_percent
    question = "Does the loss rise sharply past 70 %?"
    known = sorted((group for group in followed if group.increase), key=lambda group: group.sparsity)
    steep = [group for group in known if group.increase[0] > sharp]
    method = f"`{followed[0].method}`"
    if not known or (not steep and known[-1].sparsity <= 0.7):
        return Claim(question, "open", f"{method} was not pruned beyond 70 % in this study.")
    if not steep:
        last = known[-1]
        answer = f"{method} stays within {sharp:g} % of dense up to {rate_name(last.rate)}"
        return Claim(question, "does not hold", f"{answer} ({interval(last.increase)} %).", (_increase(last),))
    before = [group for group in known if group.sparsity < steep[0].sparsity]
    answer = f"{method} is more than {sharp:g} % above dense from {rate_name(steep[0].rate)} on"
    answer += f" ({interval(steep[0].increase)} %)"
    if before:
        answer += f", after {interval(before[-1].increase)} % at {rate_name(before[-1].rate)}"
    holds, around = steep[0].sparsity > 0.7, [_increase(group) for group in known if group.sparsity > 0.605]
    told = f"{answer}." if holds else f"{answer}: earlier than that."
    return Claim(question, "holds" if holds else "holds in part", told, thinned(around))
