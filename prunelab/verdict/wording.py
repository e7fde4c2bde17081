"""The verdict in sentences: one for each claim of the paper and of the first author's earlier code.

Names of variants stand in backticks. Where a comparison was named beforehand (P1 to P6), it decides by its adjusted
test; the rest is told as exploration. Nothing is said that no interval supports.
"""

from prunelab.fragments import Claim, interval, rate_names
from prunelab.verdict import factors
from prunelab.verdict.cells import PAST_BEST, Effect
from prunelab.verdict.factors import AVERAGED, BY_HISTORY, FINAL, RETRAINED, UNPRUNED
from prunelab.verdict.findings import Findings

MODERATE, SHARP = (
    60,
    70,
)  # percent: the paper says that the loss falls up to the first and rises sharply past the second
PAPER = "history"  # the level of its method among those held against dense


def claims(found: Findings) -> list[Claim]:
    """All of them, open ones too."""
    return [_falls(found), _reason(found), _sharp(found), _ranks(found), _averages(found), _threshold(found),
            _retrains(found)]  # fmt: skip


def headline(found: Findings) -> str:
    """What a reader takes home, in one or two sentences.

    Where history ranks better in some named comparisons and worse in others, "no better" would hide the first and the
    status alone the second: they are counted.
    """
    ranks, falls = _ranks(found), _falls(found)
    signs = [sign for _, _, sign in ranks.figures]
    history = {
        "holds": "Weight history ranks weights better than their final magnitude does",
        "holds in part": "Weight history ranks weights better than their final magnitude in some cases only",
        "does not hold": "Weight history ranks weights no better than their final magnitude does",
        "open": "Whether weight history ranks weights better than their final magnitude is open",
    }[ranks.status]
    if {-1, 1} <= set(signs):
        history = (
            f"Ranked by weight history instead of final magnitude, a pruned model has the lower loss in "
            f"{signs.count(-1)} of {len(signs)} comparisons named beforehand, the higher one in {signs.count(1)}"
        )
    loss = {
        "holds": "pruning up to 60 % lowers the loss",
        "holds in part": "pruning lowers the loss in part of the cases",
        "does not hold": "pruning does not lower the loss",
        "open": "whether pruning lowers the loss is open",
    }[falls.status]
    return f"{history}; {loss}."


def nats(effect: Effect) -> str:
    return f"{interval(effect.interval, '+.4f')} nats"


def title(name: str) -> str:
    """Words at the head of a sentence."""
    return f"{name[0].upper()}{name[1:]}"


def _told(effects: dict, words: dict[int, str]) -> str:
    """`below dense at 30 and 40 %; no difference at 50 %`, by the sign of every effect."""
    rates = [str(rate) for rate in effects]
    parts = []
    for sign, word in words.items():
        mine = [str(rate) for rate, effect in effects.items() if effect.sign == sign]
        if mine:
            parts.append(f"{word} at {rate_names(mine, rates)}")
    return "; ".join(parts)


def _status(signs: list[int]) -> str:
    """-1 bears a claim out: all do, some do, none does, none was asked."""
    if not signs:
        return "open"
    if all(sign < 0 for sign in signs):
        return "holds"
    return "holds in part" if any(sign < 0 for sign in signs) else "does not hold"


def _advantage(signs: list[int]) -> str:
    """The same of what should be better: better here and worse there is no advantage."""
    return "does not hold" if any(sign > 0 for sign in signs) else _status(signs)


def _falls(found: Findings) -> Claim:
    question = f"Does the loss fall under pruning up to {MODERATE} %? (the paper: it does)"
    told, signs, shown = [], [], ()
    for which in found.regimes:
        effects = {r: e for r, e in found.against_dense(which, PAPER).items() if r <= MODERATE and e.lo == e.lo}
        if not effects:
            continue
        signs += [effect.sign for effect in effects.values()]
        words = {-1: "below its dense model", 0: "no difference to it", 1: "above its dense model"}
        told.append(f"{title(which)}, `systematic`: {_told(effects, words)}.")
        shown += tuple((f"{which}, {rate} %", nats(effect), effect.sign) for rate, effect in effects.items())
    if not signs:
        return Claim(question, "open", _open(found))
    if PAST_BEST in found.regimes and (after := found.answer("P5").effect) is not None and after.lo == after.lo:
        told.append(f"There it moves by {nats(after)} against that dense model at {MODERATE} %.")
    return Claim(question, _status(signs), " ".join([*told, *found.missing.values()]), shown)


def _reason(found: Findings) -> Claim:
    """Both things that have to be said of the model past its best."""
    question = "Past its best: is that fall a reason to prune?"
    own, stopped = found.answer("P5"), found.answer("P6")
    if own.effect is None or stopped.effect is None or stopped.p != stopped.p:
        return Claim(question, "open", _open(found))
    verb = {-1: "lowers", 0: "is not shown to change", 1: "raises"}[own.sign]
    # An interval can leave zero out where the test, adjusted for six comparisons, doesn't.
    adjusted = "" if own.sign or not own.effect.sign else f", adjusted p {own.p:.2g}"
    told = f"Removing 60 % by history {verb} the loss against that dense model ({nats(own.effect)}, P5{adjusted}); "
    place = {-1: "below", 0: "level with", 1: "above"}[stopped.sign]
    told += (
        f"it ends {place} the checkpoint of the same training that simply stopped in time ({nats(stopped.effect)}, P6)."
    )
    if own.sign < 0 <= stopped.sign:
        told += " A fall that ends there is regularisation of an over-fitted model, which stopping gives for nothing."
    beyond = found.by_rate(factors.CONTROLLED.name, "history, one-shot, beside the best checkpoint", PAST_BEST)
    best = min((r for r in beyond if r.isdigit()), key=lambda rate: beyond[rate].mean, default=None)
    if best is not None:
        told += f" The lowest loss of all its rates, at {best} %, stands {nats(beyond[best])} from that checkpoint."
    status = "holds" if own.sign < 0 and stopped.sign < 0 else "does not hold"
    figures = (("dense", nats(own.effect), own.sign), ("stopped in time", nats(stopped.effect), stopped.sign))
    return Claim(question, status, told, figures)


def _sharp(found: Findings) -> Claim:
    question = f"Does the loss rise sharply past {SHARP} %? (the paper: it does)"
    told, statuses, shown = [], [], ()
    for which in found.regimes:
        broken = found.breaks.get((which, PAPER))
        if broken is None:
            continue
        if not broken.found:
            statuses.append("does not hold")
            told.append(f"{title(which)}: no break is found in the tested rates.")
            continue
        at = interval(broken.at, ".1f")
        early = broken.at[2] < SHARP and not broken.at_edge
        statuses.append("holds in part" if early else "holds")
        words = "earlier than that" if early else "as it says" if broken.at[1] <= SHARP else "later"
        edge = ", the last place looked at" if broken.at_edge else ""
        told.append(f"{title(which)}: `systematic` breaks away at {at} %{edge}, {words}.")
        if (other := found.breaks.get((which, "magnitude"))) is not None and other.found:
            told.append(f"Plain magnitude does at {interval(other.at, '.1f')} %.")
        shown += ((which, f"{at} %", 0),)
    if not statuses:
        return Claim(question, "open", f"Too few rates or seeds to find a break. {_open(found)}".strip())
    status = statuses[0] if len(set(statuses)) == 1 else "holds in part"
    return Claim(question, status, " ".join(told), shown)


def _ranks(found: Findings) -> Claim:
    question = "Does a weight's history rank it better than its final magnitude? (the paper: it does)"
    words = {-1: "lower loss", 0: "no difference", 1: "higher loss"}
    named = [found.answer(identifier) for identifier in ("P1", "P2", "P4")]
    asked = [one for one in named if one.effect is not None and one.p == one.p]
    told = [f"Named beforehand: {'; '.join(f'{one.primary.id} {one.words}' for one in asked)}."] if asked else []
    for which in found.regimes:
        parts = []
        for level in (FINAL, AVERAGED, RETRAINED):
            effects = _rates(found.by_rate("ranking", level, which))
            if effects:
                parts.append(f"{level}: {_told(effects, words)}.")
        if parts:
            told.append(f"{title(which)}, {' '.join([parts[0], *map(title, parts[1:])])}")
    if not asked:
        return Claim(question, "open", " ".join([*told, _open(found)]).strip())
    shown = tuple((one.primary.id, nats(one.effect), one.sign) for one in asked)
    return Claim(question, _advantage([one.sign for one in asked]), " ".join(told), shown)


def _averages(found: Findings) -> Claim:
    question = "Is it better to keep the averaged weights than the final ones?"
    words = {-1: "lower loss", 0: "no difference", 1: "higher loss"}
    named, told = found.answer("P3"), []
    for which in found.regimes:
        effects = _rates(found.by_rate("keeping", BY_HISTORY, which))
        if effects:
            told.append(f"{title(which)}, ranked by history: {_told(effects, words)}.")
        if (control := found.by_rate("keeping", UNPRUNED, which).get("")) is not None and control.lo == control.lo:
            told.append(f"Averaging alone, nothing pruned: {nats(control)}.")
    if named.effect is None or named.p != named.p:
        return Claim(question, "open", " ".join([*told, _open(found)]).strip())
    told.insert(0, f"Named beforehand: P3 {named.words}.")
    return Claim(question, _advantage([named.sign]), " ".join(told), (("P3", nats(named.effect), named.sign),))


def _threshold(found: Findings) -> Claim:
    question = "Is a threshold from the history better than σ of the final weights? (the first author's earlier code)"
    words = {-1: "lower loss", 0: "no difference", 1: "higher loss"}
    told, signs, shown = [], [], ()
    for which in found.regimes:
        effects = _rates(found.by_rate("threshold", "final magnitude decides", which))
        if effects:
            told.append(f"{title(which)}, `history-threshold` against `magnitude-sigma`: {_told(effects, words)}.")
            signs += [effect.sign for effect in effects.values()]
            shown += tuple((f"{which}, {rate} %", nats(effect), effect.sign) for rate, effect in effects.items())
    if not signs:
        return Claim(question, "open", _open(found))
    return Claim(question, _advantage(signs), f"Exploration. {' '.join(told)}", shown)


def _retrains(found: Findings) -> Claim:
    question = "Does a pruned model that is retrained end below dense, and is it the pruning?"
    told, signs, shown = [], [], ()
    for which in found.regimes:
        against = _rates(found.by_rate(factors.AGAINST_DENSE.name, "history, retrained", which))
        control = _rates(found.by_rate(factors.CONTROLLED.name, "history, retrained", which))
        if against:
            words = {-1: "below dense", 0: "no difference to dense", 1: "above dense"}
            told.append(f"{title(which)}, by history: {_told(against, words)}.")
        if control:
            words = {-1: "below", 0: "no difference to", 1: "above"}
            beside = _told(control, {sign: f"{word} `dense-retrained`" for sign, word in words.items()})
            told.append(f"Beside retraining without pruning: {beside}.")
            signs += [effect.sign for effect in control.values()]
            shown += tuple((f"{which}, {rate} %", nats(effect), effect.sign) for rate, effect in control.items())
    if not signs:
        return Claim(question, "open", " ".join([*told, _open(found)]).strip())
    return Claim(question, _advantage(signs), f"Exploration. {' '.join(told)}", shown)


def _rates(effects: dict[str, Effect]) -> dict[str, Effect]:
    """Those of single rates whose interval is known."""
    return {rate: effect for rate, effect in effects.items() if rate.isdigit() and effect.lo == effect.lo}


def _open(found: Findings) -> str:
    """Why a question is open."""
    if found.missing:
        return " ".join(found.missing.values())
    return "These studies have no cells for it, or one seed."


def precise(found: Findings) -> str:
    """Whether the main effects at 50 % are as precise as was wanted, in a sentence."""
    from prunelab.verdict.precision import MOST, WANTED

    wide = [one for one in found.precisions if not one.narrow]
    known = [one for one in wide if one.seeds_for_interval is not None]
    if not found.precisions:
        return "These studies have no main effect at 50 %."
    if not wide:
        return f"Every main effect at 50 % is known to ± {WANTED:g} nats or better."
    if len(known) < len(wide):
        return "One seed has no interval: two or more would have."
    most = max(known, key=lambda one: (one.seeds_for_interval, one.effect.half))
    needed = f"{most.seeds_for_interval}" if most.seeds_for_interval < MOST else f"{MOST:,} or more"
    return (
        f"{len(found.precisions) - len(wide)} of {len(found.precisions)} main effects at 50 % are known to "
        f"± {WANTED:g} nats. The widest ({most.factor}, {most.level}, {most.regime}: ± {most.effect.half:.4f}) would "
        f"need {needed} seeds instead of {most.effect.seeds} for that."
    )
