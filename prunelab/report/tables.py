"""The main tables of the report: every result, every method against plain magnitude, every seed together.

A table is plain data (words, and the number a column sorts by), so that one macro of the template draws them all.
"""

from prunelab.deploy.rivals import NOBODY
from prunelab.fragments import UNKNOWN, Cell, Column, Table, bounded, ends, number, rate_name, shared, words
from prunelab.report import verdict
from prunelab.tasks import Headline


def _columns(headline: Headline) -> list[Column]:
    return [
        Column("variant", words=True),
        Column("removed", "% of prunable"),
        Column(headline.name, headline.short_unit),
        Column("against dense", "% [95 %]"),
        Column("right answer", "J, beyond guessing"),
        Column("questions right", "% ± s.e."),
        Column("stored", "MB"),
        Column("stored as", words=True),
        Column("decode time", "× dense [95 %]"),
        Column("decoding is", words=True),
        Column("dominated by", words=True),
        Column("decode time", "× dense rival [95 %]"),
        Column("loss", "nats/token"),  # where another figure is the headline
        Column("KL to dense", "nats"),
        Column("same first choice", "%"),
        Column("perplexity"),
        Column("bits/byte"),
        Column("prefill", "ms"),
        Column("decode", "ms/token"),
        Column("peak memory", "MB"),
        Column("decode energy", "J/token"),
        Column("removed", "% of all"),
        Column("non-zero", "M parameters"),
        Column("MACs", "M/token"),
    ]


def results(study, chosen: str | None, rivals: dict[str, dict] | None = None) -> Table:
    """Every row of the study; `chosen` is the path of the row that is recommended, `rivals` the columns of every
    variant beside the dense rivals (deploy.rivals)."""
    rows, headline = [], study.headline
    columns = _columns(headline)
    for row in study.rows:
        efficiency, own = study.timed(row), not row["timed_as"]
        doubtful = "doubtful" if own and efficiency.get("unreliable") else ""
        reasons = "unreliable: " + "; ".join(efficiency.get("unreliable_because") or ["marked so"])
        energy = number(row["decode_j_per_token"], ".3g")
        if row["energy_estimated"]:
            energy = _estimated(energy)
        verdict_cell = words(row["decode_verdict"], doubtful or ("good" if row["decode_verdict"] == "faster" else ""))
        if doubtful and verdict_cell is not UNKNOWN:
            verdict_cell = verdict_cell._replace(text=f"{verdict_cell.text} ⚠", hint=reasons)
        beside = (rivals or {}).get(row["variant"], {})
        increase = ends(row, headline.increase_percent)
        timed = [
            number(row["prefill_ms"], ".3g"),
            number(row["decode_ms_per_token"], ".3g"),
            number(row["peak_memory_bytes"], ".0f", 1e-6),
            energy,
        ]
        taken = words(f"as {row['timed_as']}", "same", "the same work: which weights are zero changes no time here")
        cells = [
            words(study.label(row["path"])),
            number(row["sparsity_pruned"], ".1f", 100),
            number(row[headline.column], headline.form),
            words("") if row["path"] == row["dense"] else bounded(increase),
            _price(row),
            shared(row.get("pooled_accuracy"), row.get("pooled_accuracy_stderr")),
            number(row["dense_bytes"] if row["packed_bytes"] is None else row["packed_bytes"], ".2f", 1e-6),
            words(row["stored_as"]),
            bounded(ends(row, "decode_ratio"), ".3f", doubtful) if own else taken,
            verdict_cell if own else UNKNOWN,
            words(beside.get("dominated_by"), "bad" if beside.get("dominated_by") not in (None, NOBODY) else ""),
            _hinted(bounded(ends(beside, "rival_decode_ratio"), ".3f"), f"beside {beside.get('best_rival')}"),
            UNKNOWN if headline.column == "loss" else number(row["loss"]),
            number(row["kl_to_dense"]),
            number(row["top1_agreement"], ".1f", 100),
            number(row["perplexity"], ",.2f"),
            number(row["bits_per_byte"], ".3f"),
            *(timed if own else [UNKNOWN] * len(timed)),
            number(row["sparsity_all"], ".1f", 100),
            number(row["nonzero_parameters"], ".3f", 1e-6),
            number(row["macs_per_token"], ".3f", 1e-6),
        ]
        kind = "chosen" if row["path"] == chosen else "reference" if row["rate"] is None else ""
        rows.append((kind, cells))
    filled = [i for i in range(len(columns)) if any(cells[i] is not UNKNOWN for _, cells in rows)]
    return Table([columns[i] for i in filled], [(kind, [cells[i] for i in filled]) for kind, cells in rows])


def _price(row: dict) -> Cell:
    """Joules of a right answer beyond what guessing gets; a dash says why there are none."""
    if reason := row.get("per_correct_missing"):
        return Cell(UNKNOWN.text, hint=reason)
    price = number(row.get("j_per_correct"), ".3g")
    return _estimated(price) if row["energy_estimated"] else price


def _estimated(energy: Cell) -> Cell:
    if energy is UNKNOWN:
        return energy
    return energy._replace(text=f"{energy.text} est.", hint="estimated: time × modelled power")


def _hinted(cell: Cell, hint: str) -> Cell:
    return cell if cell is UNKNOWN else cell._replace(hint=hint)


def against_baseline(study, found: list[verdict.Group]) -> Table | None:
    """Headline of every method minus that of plain magnitude at the same rate; None where nothing is to compare."""
    rates = [rate for rate in dict.fromkeys(group.rate for group in found) if not rate.startswith("sigma")]
    rows, headline = [], study.headline
    for method in dict.fromkeys(group.method for group in found):
        if method == verdict.BASELINE:
            continue
        by_rate = verdict.effects(study, found, method, verdict.BASELINE)
        if by_rate:
            rows.append(("", [words(method), *(_effect(by_rate.get(rate), headline) for rate in rates)]))
    if not rows:
        return None
    return Table([Column("method", words=True), *(Column(rate_name(rate), headline.bare_unit) for rate in rates)], rows)


def _effect(effect: verdict.Effect | None, headline: Headline) -> Cell:
    if effect is None:
        return UNKNOWN
    mark = {-1: "good", 0: "same", 1: "bad"}[headline.sign * effect.sign]
    cell = bounded(effect[:3], f"+{headline.form}", mark)
    return cell._replace(text=f"{ {-1: '▼', 0: '', 1: '▲'}[effect.sign] } {cell.text}".strip())


def over_seeds(found: list[verdict.Group], headline: Headline) -> Table | None:
    """Mean and interval over seeds of every method and rate, of what was not pruned too; None for one seed."""
    if not any(len(group.rows) > 1 for group in found):
        return None
    columns = [
        Column("method", words=True),
        Column("rate", words=True),
        Column("seeds"),
        Column("removed", "% of prunable"),
        Column(headline.name, f"{headline.short_unit} [95 %]"),
        Column("against dense", "% [95 %]"),
    ]
    rows = []
    for group in found:
        known = group.value is not None
        cells = [
            words(group.method),
            words(rate_name(group.rate)) if group.rate else UNKNOWN,
            number(len(group.rows), "d"),
            number(group.sparsity, ".1f", 100),
            bounded(group.value, headline.form) if known else UNKNOWN,
            bounded(group.increase) if known else UNKNOWN,
        ]
        rows.append(("", cells))
    return Table(columns, rows)
