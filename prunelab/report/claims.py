"""The verdict in words: which claims of arXiv 2502.17071 and of the field this study bears out.

Names of variants stand in backticks; everything else is plain text. Nothing is said that no interval supports.
"""

from prunelab.fragments import Claim, interval, minus, rate_name, rate_names
from prunelab.recipes.variants import split_method
from prunelab.report import verdict
from prunelab.report.verdict import BASELINE, Group

PAPER = "systematic"  # the paper's method: rank by weight history, keep the final weights


def thinned(figures: list, most: int = 8) -> tuple:
    """At most about `most` of the figures, evenly spread, the last among them."""
    step = -(-len(figures) // most)
    return tuple(figures[(len(figures) - 1) % step :: step]) if figures else ()


def claims(study, found: list[Group]) -> list[Claim]:
    """The claims that this study's methods can answer."""
    methods = list(dict.fromkeys(group.method for group in found))
    told, paper = [], _with_allocation(PAPER, methods)
    if paper and (baseline := paper.replace(PAPER, BASELINE)) in methods:
        question = "Does weight history beat plain magnitude at equal sparsity?"
        told.append(_beats(study, found, question, paper, baseline))
    followed = paper or _with_allocation(BASELINE, methods)
    if followed and study.headline.paper:
        curve = [group for group in found if group.method == followed]
        told += [_moderate(study, curve), _sharp(study, curve)]
    rewriting, scoring = (_with_allocation(name, methods) for name in ("sparsegpt", "wanda"))
    if rewriting and scoring:
        question = "Does SparseGPT, which rewrites what stays, beat Wanda at equal sparsity?"
        told.append(_beats(study, found, question, rewriting, scoring))
    return told


def _with_allocation(method: str, methods: list[str]) -> str | None:
    """`method` itself where the study has it, else its first entry with an allocation, such as `systematic-sigma`."""
    return min((name for name in methods if split_method(name)[0] == method), key=len, default=None)


def _beats(study, found: list[Group], question: str, method: str, baseline: str) -> Claim:
    by_rate, headline = verdict.effects(study, found, method, baseline), study.headline
    known = {rate: effect for rate, effect in by_rate.items() if effect.lo == effect.lo}
    if not known:
        return Claim(question, "open", "No rate at which both were measured with an interval.")
    better = [rate for rate, effect in known.items() if headline.sign * effect.sign < 0]
    worse = [rate for rate, effect in known.items() if headline.sign * effect.sign > 0]
    same = [rate for rate, effect in known.items() if effect.sign == 0]
    parts = [
        f"{words} at {rate_names(rates, list(known))}"
        for words, rates in (
            (f"{headline.better} {headline.name}", better),
            (f"{headline.worse} {headline.name}", worse),
            ("no difference", same),
        )
        if rates
    ]
    # Better here and worse there is no advantage.
    status = "holds" if len(better) == len(known) else "holds in part" if better and not worse else "does not hold"
    some = next(iter(known.values()))
    fetched = study.settings.train.epochs == 0
    if some.unit == "items":
        once = "one calibration set: another one" if fetched else "one trained model: another seed"
        scope = f"Intervals over {some.units:,} {headline.items} of {once} may differ."
    else:
        scope = f"Intervals over {some.units} {'calibration' if fetched else 'training'} seeds."
    answer = f"`{method}` against `{baseline}`: {'; '.join(parts)}. {scope}"
    form, unit = f"+{headline.form}", headline.bare_unit
    figures = ((rate_name(rate), f"{interval(effect, form)} {unit}", effect.sign) for rate, effect in known.items())
    return Claim(question, status, answer, thinned(list(figures)))


def _moderate(study, followed: list[Group]) -> Claim:
    method, headline = followed[0].method, study.headline
    up_to, turn = headline.paper.moderate, "fall" if headline.lower_is_better else "rise"
    asked = [group for group in followed if group.increase and group.sparsity <= _up_to(up_to)]
    question = (
        f"Does pruning {headline.improves} the {headline.name} at moderate sparsity? "
        f"(the paper: it {turn}s up to {up_to} %)"
    )
    if not asked:
        return Claim(question, "open", f"No rate up to {up_to} % in this study.")
    tested = [group.rate for group in asked]
    better, same, worse = (
        [group.rate for group in asked if headline.sign * _sign(group) == sign] for sign in (-1, 0, 1)
    )
    parts = [
        f"{words} at {rate_names(rates, tested)}"
        for words, rates in (
            (f"{headline.within} dense", better),
            ("no difference", same),
            (f"{headline.beyond} dense", worse),
        )
        if rates
    ]
    answer = f"{headline.title} of `{method}`: {'; '.join(parts)}."
    if better and (control := _controls(study)):
        answer += f" Without any pruning, {control}: so part of a {turn} may be regularisation alone."
    status = "holds" if len(better) == len(asked) else "holds in part" if better else "does not hold"
    return Claim(question, status, answer, thinned([_increase(group) for group in asked]))


def _up_to(percent: int) -> float:
    """The sparsity that a rate of so many percent has, however its numbers of weights were rounded."""
    return percent / 100 + 0.005


def _sign(group: Group) -> int:
    """-1: below dense with its whole interval, 1: above."""
    _, lo, hi = group.increase
    return -1 if hi < 0 else 1 if lo > 0 else 0


def _increase(group: Group) -> tuple[str, str, int]:
    return rate_name(group.rate), f"{interval(group.increase, '+.2f')} %", _sign(group)


def _controls(study) -> str:
    """Controls that beat dense although nothing was pruned."""
    better = [
        f"`{group.method}` has {minus(format(group.increase[0], '+.2f'))} %"
        for group in verdict.unpruned(study)
        if group.increase and study.headline.sign * _sign(group) < 0
    ]
    return ", ".join(better)


def _sharp(study, followed: list[Group]) -> Claim:
    sharp, headline = study.settings.report.sharp_rise_percent, study.headline
    past, moderate = headline.paper.sharp_past, headline.paper.moderate
    question = f"Does the {headline.name} {headline.worsens} sharply past {past} %?"
    known = sorted((group for group in followed if group.increase), key=lambda group: group.sparsity)
    steep = [group for group in known if headline.sign * group.increase[0] > sharp]
    method = f"`{followed[0].method}`"
    if not known or (not steep and known[-1].sparsity <= _up_to(past)):
        return Claim(question, "open", f"{method} was not pruned beyond {past} % in this study.")
    if not steep:
        last = known[-1]
        answer = f"{method} stays within {sharp:g} % of dense up to {rate_name(last.rate)}"
        return Claim(question, "does not hold", f"{answer} ({interval(last.increase)} %).", (_increase(last),))
    before = [group for group in known if group.sparsity < steep[0].sparsity]
    answer = f"{method} is more than {sharp:g} % {headline.beyond} dense from {rate_name(steep[0].rate)} on"
    answer += f" ({interval(steep[0].increase)} %)"
    if before:
        answer += f", after {interval(before[-1].increase)} % at {rate_name(before[-1].rate)}"
    holds = steep[0].sparsity > _up_to(past)
    around = [_increase(group) for group in known if group.sparsity > _up_to(moderate)]
    told = f"{answer}." if holds else f"{answer}: earlier than that."
    return Claim(question, "holds" if holds else "holds in part", told, thinned(around))
