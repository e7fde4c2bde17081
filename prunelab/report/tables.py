"""The main tables of the report: every result, every method against plain magnitude, every seed together.

A table is plain data (words, and the number a column sorts by), so that one macro of the template draws them all.
"""

import math
from typing import NamedTuple

from prunelab.deploy.rivals import NOBODY
from prunelab.report import verdict
from prunelab.report.claims import minus, rate_name


class Column(NamedTuple):
    name: str
    unit: str = ""
    words: bool = False  # left-aligned, sorted as text


class Cell(NamedTuple):
    text: str
    value: float | str | None = None  # what it sorts by; None stands last
    mark: str = ""  # a CSS class
    hint: str = ""  # shown under the pointer


class Table(NamedTuple):
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]  # (CSS class of the row, its cells)


UNKNOWN = Cell("–")


def number(value, form: str = ".4f", scale: float = 1, mark: str = "") -> Cell:
    """A number in `form`; unknown is a dash, and a minus is a minus and not a hyphen."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNKNOWN
    return Cell(minus(format(value * scale, form)), value * scale, mark)


def bounded(triple, form: str = "+.2f", mark: str = "") -> Cell:
    """A number with its 95 % interval; (mean, lo, hi), where unknown ends leave the mean alone."""
    cell = number(triple[0], form, mark=mark)
    if cell is UNKNOWN or any(end is None or math.isnan(end) for end in triple[1:3]):
        return cell
    return cell._replace(text=f"{cell.text} [{minus(format(triple[1], form))}, {minus(format(triple[2], form))}]")


def words(text, mark: str = "", hint: str = "") -> Cell:
    return Cell(str(text), str(text), mark, hint) if text not in (None, "") else UNKNOWN


def ends(row: dict, key: str) -> tuple:
    """(mean, lo, hi) of a figure that a row holds with its interval."""
    return row.get(key), row.get(f"{key}_lo"), row.get(f"{key}_hi")


RESULTS = [
    Column("variant", words=True),
    Column("removed", "% of prunable"),
    Column("loss", "nats/token"),
    Column("against dense", "% [95 %]"),
    Column("stored", "MB"),
    Column("stored as", words=True),
    Column("decode time", "× dense [95 %]"),
    Column("decoding is", words=True),
    Column("dominated by", words=True),
    Column("decode time", "× dense rival [95 %]"),
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
    rows = []
    for row in study.rows:
        efficiency, own = study.timed(row), not row["timed_as"]
        doubtful = "doubtful" if own and efficiency.get("unreliable") else ""
        reasons = "unreliable: " + "; ".join(efficiency.get("unreliable_because") or ["marked so"])
        energy = number(row["decode_j_per_token"], ".3g")
        if row["energy_estimated"] and energy is not UNKNOWN:
            energy = energy._replace(text=f"{energy.text} est.", hint="estimated: time × modelled power")
        verdict_cell = words(row["decode_verdict"], doubtful or ("good" if row["decode_verdict"] == "faster" else ""))
        if doubtful and verdict_cell is not UNKNOWN:
            verdict_cell = verdict_cell._replace(text=f"{verdict_cell.text} ⚠", hint=reasons)
        beside = (rivals or {}).get(row["variant"], {})
        increase = ends(row, "loss_increase_percent")
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
            number(row["loss"]),
            words("") if row["path"] == row["dense"] else bounded(increase),
            number(row["dense_bytes"] if row["packed_bytes"] is None else row["packed_bytes"], ".2f", 1e-6),
            words(row["stored_as"]),
            bounded(ends(row, "decode_ratio"), ".3f", doubtful) if own else taken,
            verdict_cell if own else UNKNOWN,
            words(beside.get("dominated_by"), "bad" if beside.get("dominated_by") not in (None, NOBODY) else ""),
            _hinted(bounded(ends(beside, "rival_decode_ratio"), ".3f"), f"beside {beside.get('best_rival')}"),
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
    filled = [i for i in range(len(RESULTS)) if any(cells[i] is not UNKNOWN for _, cells in rows)]
    return Table([RESULTS[i] for i in filled], [(kind, [cells[i] for i in filled]) for kind, cells in rows])


def _hinted(cell: Cell, hint: str) -> Cell:
    return cell if cell is UNKNOWN else cell._replace(hint=hint)


def against_baseline(study, found: list[verdict.Group]) -> Table | None:
    """Loss of every method minus that of plain magnitude at the same rate; None where there is nothing to compare."""
    rates = [rate for rate in dict.fromkeys(group.rate for group in found) if not rate.startswith("sigma")]
    rows = []
    for method in dict.fromkeys(group.method for group in found):
        if method == verdict.BASELINE:
            continue
        by_rate = verdict.effects(study, found, method, verdict.BASELINE)
        if by_rate:
            rows.append(("", [words(method), *(_effect(by_rate.get(rate)) for rate in rates)]))
    if not rows:
        return None
    return Table([Column("method", words=True), *(Column(rate_name(rate), "nats") for rate in rates)], rows)


def _effect(effect: verdict.Effect | None) -> Cell:
    if effect is None:
        return UNKNOWN
    cell = bounded(effect[:3], "+.4f", {-1: "good", 0: "same", 1: "bad"}[effect.sign])
    return cell._replace(text=f"{ {-1: '▼', 0: '', 1: '▲'}[effect.sign] } {cell.text}".strip())


def over_seeds(found: list[verdict.Group]) -> Table | None:
    """Mean and interval over seeds of every method and rate, of what was not pruned too; None for one seed."""
    if not any(len(group.rows) > 1 for group in found):
        return None
    columns = [
        Column("method", words=True),
        Column("rate", words=True),
        Column("seeds"),
        Column("removed", "% of prunable"),
        Column("loss", "nats/token [95 %]"),
        Column("against dense", "% [95 %]"),
    ]
    rows = []
    for group in found:
        known = group.loss is not None
        cells = [
            words(group.method),
            words(rate_name(group.rate)) if group.rate else UNKNOWN,
            number(len(group.rows), "d"),
            number(group.sparsity, ".1f", 100),
            bounded(group.loss, ".4f") if known else UNKNOWN,
            bounded(group.increase) if known else UNKNOWN,
        ]
        rows.append(("", cells))
    return Table(columns, rows)
