"""The section of the report on what models still answer: every set of questions, all of them as one, and the price of a
right answer; what tells nothing is told so."""

import math

from prunelab.fragments import UNKNOWN, Cell, Column, Picture, Section, Table, bounded, ends, number, shared, words

PRICES = (
    ("j_per_correct", "J", ".3g"),
    ("gco2_per_correct", "g CO₂e", ".2g"),
    ("litres_per_correct", "l of water", ".2g"),
)


def section(study, rows: list[dict]) -> Section | None:
    """Of `study` (report.results.Study) and its rows; None where nothing was asked."""
    asked = {row["path"]: study.files[row["path"]]["quality"].get("tasks") or [] for row in rows}
    if not any(asked.values()):
        return None
    parts: list = [" ".join(_told(study, asked))]
    if any("pooled_accuracy" in row for row in rows):
        parts.append(_pooled(study, rows))
        if curves := _curves(rows):
            dense = study.dense
            parts.append(
                Picture(
                    lambda drawing: _chart(drawing, curves, dense),
                    "Share of questions answered rightly against sparsity, a line for each method",
                    "All questions on which dense is better than guessing. Bars are 95 % intervals of the difference "
                    "to dense, paired over questions; the dotted line is what guessing gets.",
                )
            )
    parts.append(_by_set(study, asked))
    return Section("answers", "Answers", parts)


def _told(study, asked: dict[str, list[dict]]) -> list[str]:
    """The sentences above the tables."""
    quality = study.files[study.dense["path"]]["quality"]
    tasks = quality.get("tasks") or next(found for found in asked.values() if found)
    by_guessing = [task["task"] for task in tasks if task.get("dense_above_chance") is False]
    told = [
        "Right answers in percent, ± their standard error, behind it the difference to dense in points with its 95 % "
        "interval, paired question by question."
    ]
    if any(task.get("chat") for task in tasks):
        told.append("Questions of files were asked as a user's turns of the model's chat template.")
    if by_guessing:
        verb = "is" if len(by_guessing) == 1 else "are"
        told.append(
            f"On {_listed(by_guessing)} dense is no better than guessing (its interval includes chance), so "
            f"{'it' if verb == 'is' else 'they'} {verb} in no ranking and not in what is pooled."
        )
    if pooled := quality.get("pooled_tasks"):
        right, guessed = 100 * quality["pooled_accuracy"], 100 * (quality["pooled_chance"] or 0)
        told.append(
            f"Pooled over {quality['pooled_questions']} questions of {_listed(pooled)}, dense answers {right:.1f} % "
            f"rightly, guessing would {guessed:.1f} %."
        )
    elif by_guessing:
        told.append("No set is left to pool: this model's answers tell nothing of pruning.")
    return told


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _pooled(study, rows: list[dict]) -> Table:
    """A row a variant: all questions as one, and what a right answer costs."""
    columns = [
        Column("variant", words=True),
        Column("removed", "% of prunable"),
        Column("all questions", "% ± s.e."),
        Column("to dense", "points [95 %]"),
        Column("probability of the right answer", "% ± s.e."),
        Column("to dense", "points [95 %]"),
        *(Column("a right answer", f"{unit}, beyond guessing") for _, unit, _ in PRICES),
    ]
    table = []
    for row in rows:
        cells = [words(study.label(row["path"])), number(row["sparsity_pruned"], ".1f", 100)]
        for name in ("pooled_accuracy", "pooled_right_probability"):
            cells += [shared(row.get(name), row.get(f"{name}_stderr")), _apart(row, f"{name}_diff")]
        reason = row.get("per_correct_missing")
        mark = " est." if row["energy_estimated"] else ""
        for name, _, form in PRICES:
            cell = Cell(UNKNOWN.text, hint=reason) if reason else number(row.get(name), form)
            known = cell.value is not None
            cells.append(cell._replace(text=f"{cell.text}{mark}") if known else cell)
        table.append(("reference" if row["rate"] is None else "", cells))
    return Table(columns, table)


def _by_set(study, asked: dict[str, list[dict]]) -> Table:
    """A row a variant, a column a set, with what guessing gets in its head."""
    tasks = {task["task"]: task for found in asked.values() for task in found}
    columns = [Column(name, f"% ± s.e., to dense{_guessing(task)}") for name, task in tasks.items()]
    table = []
    for path, found in asked.items():
        if found:
            mine = {task["task"]: task for task in found}
            cells = [_of_set(mine[name]) if name in mine else UNKNOWN for name in tasks]
            table.append(("", [words(study.label(path)), *cells]))
    return Table([Column("variant", words=True), *columns], table)


def _guessing(task: dict) -> str:
    chance = task.get("chance")
    return "" if chance is None else f"; guessing {100 * chance:.0f} %"


def _of_set(task: dict) -> Cell:
    metric = "acc" if "acc" in task else next((key[:-7] for key in task if key.endswith("_stderr")), None)
    cell = shared(task.get(metric), task.get(f"{metric}_stderr"))
    apart = _apart(task, f"{metric}_diff")
    if cell is UNKNOWN or apart is UNKNOWN or task.get(f"{metric}_diff_lo") == task.get(f"{metric}_diff_hi") == 0:
        return cell  # dense beside itself
    mark = "same" if task.get("dense_above_chance") is False else apart.mark
    return cell._replace(text=f"{cell.text}, {apart.text}", mark=mark)


def _apart(found: dict, name: str) -> Cell:
    """A difference to dense in points; a colour where its interval excludes zero."""
    triple = ends(found, name)
    if triple[0] is None:
        return UNKNOWN
    known = None not in triple
    mark = "good" if known and triple[1] > 0 else "bad" if known and triple[2] < 0 else ""
    return bounded(tuple(None if end is None else 100 * end for end in triple), "+.1f", mark)


def _curves(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of the first seed that were pruned by a mask's or structure's method, by that method and sparsity."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        first = row["path"].partition("/")[0] == rows[0]["path"].partition("/")[0]
        if first and row["rate"] is not None and row["method"] and "pooled_accuracy" in row:
            found.setdefault(row["method"], []).append(row)
    return {method: sorted(of, key=lambda row: row["sparsity_pruned"]) for method, of in found.items()}


def _chart(drawing, curves: dict[str, list[dict]], dense: dict):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours, style = drawing.LIGHT, drawing.Style(list(curves))
    base, chance = 100 * dense["pooled_accuracy"], dense.get("pooled_chance")
    with rc_context(drawing.look()):
        figure = Figure(figsize=(13.4, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.axhline(base, color=colours["ink"], linewidth=1.1)
        marks = [(base, "dense", colours["ink"])]
        if chance is not None:
            axes.axhline(100 * chance, color=colours["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
            marks.append((100 * chance, "guessing", colours["muted"]))
        for method, rows in curves.items():
            looks, at = style[method], [100 * row["sparsity_pruned"] for row in rows]
            values = [100 * row["pooled_accuracy"] for row in rows]
            axes.plot(at, values, color=looks["color"], linestyle=looks["linestyle"], linewidth=1.8)
            for x, y, row in zip(at, values, rows, strict=True):
                _, lo, hi = ends(row, "pooled_accuracy_diff")
                if lo is not None and math.isfinite(lo):
                    axes.plot([x, x], [base + 100 * lo, base + 100 * hi], color=looks["color"], linewidth=1.0)
                axes.plot(
                    [x], [y], color=looks["color"], marker=looks["marker"], markerfacecolor=looks["markerfacecolor"],
                    markersize=5.5, gid=f"name:{row['variant']}: {y:.1f} %",
                )  # fmt: skip
            marks.append((values[-1], method, looks["color"]))
        axes.set_xlim(left=-2)
        axes.set_xlabel("weights removed, % of the prunable ones")
        axes.set_ylabel("questions answered rightly, %")
        lo, hi = axes.get_ylim()
        drawing.margin_labels(figure, axes, marks, lo, hi)
    return figure
