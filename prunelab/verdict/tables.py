"""The tables of the verdict, as plain data of prunelab/fragments.py."""

from prunelab.fragments import UNKNOWN, Cell, Column, Table, bounded, interval, number, words
from prunelab.verdict import factors, wording
from prunelab.verdict.breaking import MARGIN
from prunelab.verdict.cells import Effect
from prunelab.verdict.factors import ALL, BOTH, INTERACTION, PRUNING, REGIME
from prunelab.verdict.findings import Findings
from prunelab.verdict.primary import Answer

MARKS = {-1: "good", 0: "same", 1: "bad"}
UNIT = "nats [95 %]"


def primary(answers: list[Answer]) -> Table:
    """The six comparisons."""
    columns = [
        Column("", words=True),
        Column("comparison", words=True),
        Column("difference in loss", UNIT),
        Column("over windows", "[95 %]"),
        Column("seeds"),
        Column("p"),
        Column("p, Holm"),
        Column("so", words=True),
    ]
    rows = []
    for one in answers:
        known = one.effect is not None
        cells = [
            words(one.primary.id),
            words(one.primary.words),
            _effect(one.effect, MARKS[one.sign]) if known else UNKNOWN,
            _inner(one.effect) if known else UNKNOWN,
            number(one.effect.seeds, "d") if known else UNKNOWN,
            number(one.effect.p, ".2g") if known else UNKNOWN,
            number(one.p, ".2g"),
            words(one.words, MARKS[one.sign]),
        ]
        rows.append(("", cells))
    return Table(columns, rows)


def _effect(effect: Effect, mark: str | None = None) -> Cell:
    mark = MARKS[effect.sign] if mark is None else mark
    cell = bounded(effect.interval, "+.4f", mark)
    hint = f"{effect.seeds} seeds, p {effect.p:.2g}" if effect.lo == effect.lo else f"{effect.seeds} seed: no interval"
    return cell._replace(hint=hint)


def _inner(effect: Effect) -> Cell:
    if effect.inner_lo != effect.inner_lo:
        return UNKNOWN
    return Cell(f"[{_signed(effect.inner_lo)}, {_signed(effect.inner_hi)}]", effect.inner_lo)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def main_effects(found: Findings, regime: str) -> Table | None:
    """Every factor at every level, by rate, in one regime."""
    wanted = {(factor.name, pair.level) for factor in factors.FACTORS for pair in factor.pairs}
    return _by_rate(found, lambda one: one.regime == regime and (one.factor, one.level) in wanted, ("factor", "at"))


def interactions(found: Findings, regime: str) -> Table | None:
    """The interactions within a regime, or with BOTH those with the regime."""
    kinds = (INTERACTION, REGIME) if regime == BOTH else (INTERACTION,)
    return _by_rate(found, lambda one: one.regime == regime and one.kind in kinds, ("interaction", "of"))


def against_dense(found: Findings, regime: str, factor: str) -> Table | None:
    """What pruning does against dense, or against the control of the same treatment."""
    return _by_rate(
        found, lambda one: one.kind == PRUNING and one.regime == regime and one.factor == factor, (None, "pruned by")
    )


def losses(found: Findings, regime: str) -> Table:
    """Mean loss over seeds by rate as in the paper's own table, with what the paper says in words in its first row."""
    here = found.regimes[regime]
    rates = sorted({rate for pair in factors.AGAINST_DENSE.pairs for rate in here.rates(pair.one)})

    def mean(variant: str) -> Cell:
        by_seed = here.losses.get(variant, {})
        return number(sum(float(values.mean()) for values in by_seed.values()) / len(by_seed)) if by_seed else UNKNOWN

    def said(rate: int) -> Cell:
        return words("falls" if rate <= wording.MODERATE else "rises sharply" if rate > wording.SHARP else "")

    columns = [Column("pruned by", words=True), Column("nothing removed", "nats/token")]
    columns += [Column(f"{rate} %", "nats/token") for rate in rates]
    rows = [("reference", [words("the paper, in words"), UNKNOWN, *map(said, rates)])]
    for pair in factors.AGAINST_DENSE.pairs:
        cells = [mean(pair.one.format(r=rate)) for rate in rates]
        if any(cell is not UNKNOWN for cell in cells):
            rows.append(("", [words(pair.level), mean("dense"), *cells]))
    for control in ("dense-average", "dense-best", "dense-retrained"):
        if control in here.losses:
            rows.append(("reference", [words(control), mean(control), *[UNKNOWN] * len(rates)]))
    return Table(columns, rows)


def _by_rate(found: Findings, wanted, heads: tuple) -> Table | None:
    chosen = [one for one in found.contrasts if wanted(one)]
    if not chosen:
        return None
    rates = sorted({one.rate for one in chosen if one.rate.isdigit()}, key=int)
    rates += [rate for rate in (ALL, "") if any(one.rate == rate for one in chosen)]
    by_row: dict[tuple, dict[str, Effect]] = {}
    for one in chosen:
        by_row.setdefault((one.factor, one.level), {})[one.rate] = one.effect
    titles = {ALL: ("mean of the rates", UNIT), "": ("nothing pruned", UNIT)}
    columns = [Column(head, words=True) for head in heads if head]
    columns += [Column(*titles.get(rate, (f"{rate} %", UNIT))) for rate in rates]
    rows = []
    for names, effects in by_row.items():
        told = [words(name) for head, name in zip(heads, names, strict=True) if head]
        rows.append(("", [*told, *(_effect(effects[rate]) if rate in effects else UNKNOWN for rate in rates)]))
    return Table(columns, rows)


def safe(found: Findings) -> Table:
    """Up to which rate each method is safe, and where it breaks."""
    columns = [
        Column("pruned by", words=True),
        Column("regime", words=True),
        Column("safe up to", "%"),
        Column(f"reaches dense + {MARGIN:g} at", "%"),
        Column("breaks at", "% [95 %]"),
        Column("rise before", "nats for 10 %"),
        Column("rise behind", "nats for 10 %"),
    ]
    rows = []
    for (regime, level), one in found.safe.items():
        broken = found.breaks.get((regime, level))
        if broken is None or not broken.found:
            told = [words("no break found" if broken else ""), UNKNOWN, UNKNOWN]
        else:
            at = interval(broken.at, ".1f") + (" or later" if broken.at_edge else "")
            slopes = broken.before[0], broken.before[0] + broken.change[0]
            told = [Cell(at, broken.at[0]), *(number(slope, "+.4f", 10) for slope in slopes)]
        reached = number(one.breached, "d") if one.breached is not None else words("at none tested", "good")
        up_to = number(one.up_to, "d", mark="good") if one.up_to is not None else words("no tested rate", "bad")
        rows.append(("", [words(level), words(regime), up_to, reached, *told]))
    return Table(columns, rows)


def precision(found: Findings) -> Table | None:
    """How precise the main effects at 50 % are."""
    if not found.precisions:
        return None
    columns = [
        Column("factor", words=True),
        Column("at", words=True),
        Column("regime", words=True),
        Column("rate", "%"),
        Column("difference in loss", UNIT),
        Column("±", "nats"),
        Column("spread of seeds", "nats"),
        Column("seeds"),
        Column("seeds for ± 0.01"),
        Column("seeds to find 0.01"),
    ]
    rows = []
    for one in found.precisions:
        mark = "good" if one.narrow else "doubtful"
        cells = [
            words(one.factor),
            words(one.level),
            words(one.regime),
            words(one.rate),
            _effect(one.effect),
            number(one.effect.half, ".4f", mark=mark),
            number(one.effect.sd, ".4f"),
            number(one.effect.seeds, "d"),
            words("enough", "good") if one.narrow else number(one.seeds_for_interval, "d"),
            words("–") if one.narrow else number(one.seeds_for_power, "d"),
        ]
        rows.append(("", cells))
    return Table(columns, rows)
