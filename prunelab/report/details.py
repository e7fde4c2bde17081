"""Tables of the report's second half, each only where the study holds its figures.

Robustness, zero-shot tasks, loss by context, time by workload, published figures beside ours, samples.
"""

from prunelab.disk.files import read_json
from prunelab.fragments import UNKNOWN, Cell, Column, Table, bounded, ends, number, words
from prunelab.report import published

ON_A_GRID_PERCENT = 2  # that rounding moves weights by; normal ones, in groups of 32, move by 8


def _listed(study, name: str) -> dict[str, list[dict]]:
    """The rows, as they are called, whose quality.json holds a list called `name`."""
    found = {study.label(path): files["quality"].get(name) for path, files in study.files.items()}
    return {variant: rows for variant, rows in found.items() if isinstance(rows, list) and rows}


def _spread(found: dict[str, list[dict]], heading, cell) -> Table | None:
    """A table with a row a variant and a column for every distinct `heading(row)`."""
    if not found:
        return None
    columns = list(dict.fromkeys(heading(row) for rows in found.values() for row in rows))
    table = []
    for variant, rows in found.items():
        by_column = {heading(row): cell(row) for row in rows}
        table.append(("", [words(variant), *(by_column.get(column, UNKNOWN) for column in columns)]))
    return Table([Column("variant", words=True), *columns], table)


def on_a_grid(study) -> str | None:
    """What is to be known of a model whose weights rounding to int4 hardly moves: it was quantised before."""
    path = study.models / study.dense["path"].replace("dense", "dense-int4") / "quantised.json"
    moved = read_json(path).get("moved_percent") if path.exists() else None
    if moved is None or moved > ON_A_GRID_PERCENT:
        return None
    return (
        f"Rounding the blocks' weights to int4 moved them by {moved:.2g} % only, where 8 to 10 % are usual: they lie "
        "on a grid of 4 bits already, so this model was quantised before. What `dense-int4` costs here says nothing "
        "of a model that was not, and the sizes here are to be seen beside that of the file it came from."
    )


def robustness(study) -> Table | None:
    """How much more a corruption costs a variant than it costs dense, bits per byte."""

    def cell(row: dict) -> Cell:
        triple = tuple(row.get(f"rise_diff{end}") for end in ("", "_lo", "_hi"))
        known = None not in triple
        mark = "bad" if known and triple[1] > 0 else "good" if known and triple[2] < 0 else ""
        return bounded(triple, "+.3f", mark)

    found = {variant: rows for variant, rows in _listed(study, "robustness").items() if not variant.startswith("dense")}
    return _spread(found, lambda row: Column(f"{row['kind']} {row['strength_percent']} %", "bits/byte [95 %]"), cell)


def tasks(study) -> Table | None:
    """Accuracy with its standard error on every zero-shot task."""

    def cell(row: dict) -> Cell:
        metric = "acc" if "acc" in row else next((key[:-7] for key in row if key.endswith("_stderr")), None)
        shown = number(row.get(metric), ".1f", 100)
        error = row.get(f"{metric}_stderr")
        return shown if shown is UNKNOWN or error is None else shown._replace(text=f"{shown.text} ± {100 * error:.1f}")

    return _spread(_listed(study, "tasks"), lambda row: Column(row["task"], "% ± s.e."), cell)


def context(study) -> Table | None:
    """Loss by how many tokens stand before the predicted one."""

    def heading(row: dict) -> Column:
        first, last = row["tokens_before_from"], row["tokens_before_to"]
        return Column(str(first) if first == last else f"{first}–{last}", "tokens before")

    return _spread(_listed(study, "context_curve"), heading, lambda row: number(row["loss"], ".3f"))


def workloads(study, path: str) -> Table | None:
    """Time of one variant against dense for every prompt length and batch size that was measured."""
    works = study.files[path].get("efficiency", {}).get("works") or []
    if len(works) < 2:
        return None
    columns = [
        Column("prompt", "tokens"),
        Column("batch"),
        Column("prefill", "ms"),
        Column("prefill time", "× dense [95 %]"),
        Column("decode", "ms/token"),
        Column("decode time", "× dense [95 %]"),
        Column("decoding is", words=True),
    ]
    rows = []
    for work in works:
        prefill, decode = (tuple(work[f"{p}_ratio{end}"] for end in ("", "_lo", "_hi")) for p in ("prefill", "decode"))
        cells = [
            number(work["prompt_tokens"], "d"),
            number(work["batch"], "d"),
            number(work["prefill_ms"], ".3g"),
            bounded(prefill, ".3f"),
            number(work["decode_ms_per_token"], ".3g"),
            bounded(decode, ".3f"),
            words(work.get("decode_verdict")),
        ]
        rows.append(("", cells))
    return Table(columns, rows)


def runtimes(study) -> Table | None:
    """Time of a variant on further runtimes against the eager dense model; what is not available says why."""
    rows = []
    for path, files in study.files.items():
        for name, figures in files.get("runtimes", {}).get("runtimes", {}).items():
            cells = [words(study.label(path)), words(name)]
            if figures["available"]:
                cells += [bounded(ends(figures, f"{phase}_ratio"), ".3f") for phase in ("prefill", "decode")]
                faster = figures.get("decode_verdict") == "faster"
                cells += [words(figures.get("decode_verdict"), "good" if faster else "")]
            else:
                cells += [UNKNOWN, UNKNOWN, words(f"not available here: {figures['reason']}", "same")]
            rows.append(("", cells))
    columns = [
        Column("variant", words=True),
        Column("runtime", words=True),
        Column("prefill time", "× eager dense [95 %]"),
        Column("decode time", "× eager dense [95 %]"),
        Column("decoding is", words=True),
    ]
    return Table(columns, rows) if rows else None


def recovery(study) -> Table | None:
    """Every recovered variant before and after fine-tuning: its validation loss, and its headline against dense's."""
    rows = {row["path"]: row for row in study.rows}
    lines = []
    for path, files in study.files.items():
        facts = files.get("sparsity", {}).get("recovery")
        if not facts or rows[path]["stored_as"] != rows[rows[path]["dense"]]["stored_as"]:
            # One in another precision holds the record of what was recovered before.
            continue
        before, after = (rows.get(name, {}) for name in (f"{path.partition('/')[0]}/{facts['from']}", path))
        cells = [
            words(study.label(path)),
            number(facts["tokens"], ",d"),
            words(facts["source"]),
            number(facts["validation_loss_before"]),
            number(facts["validation_loss_after"]),
            bounded(ends(before, study.headline.increase_percent)),
            bounded(ends(after, study.headline.increase_percent)),
        ]
        lines.append(("", cells))
    columns = [
        Column("variant", words=True),
        Column("trained on", "tokens"),
        Column("learns from", words=True),
        Column("validation before", "nats/token"),
        Column("validation after", "nats/token"),
        Column("test before", "% of dense [95 %]"),
        Column("test after", "% of dense [95 %]"),
    ]
    return Table(columns, lines) if lines else None


def reproduction(study) -> tuple[str, Table, list[str]] | None:
    """(model, published perplexities beside ours, what keeps them from being comparable) for a model of the papers."""
    model = published.model_name(study.settings)
    if model is None:
        return None
    rows = [
        (
            "",
            [
                words(one.variant),
                Cell(one.published, one.ours / (1 + one.deviation_percent / 100)),
                number(one.ours, ".5g"),
                number(one.deviation_percent, "+.1f"),
            ],
        )
        for one in published.beside(model, study.rows)
    ]
    columns = [
        Column("variant", words=True),
        Column("published", "perplexity"),
        Column("ours", "perplexity"),
        Column("deviation", "%"),
    ]
    return (
        model,
        Table(columns, rows),
        published.differences(model, study.settings, study.files[study.dense["path"]]["quality"]),
    )


def samples(study, limit: int = 6) -> list[tuple[str, list[tuple[str, str]]]]:
    """(prompt, [(variant, greedy continuation)]): dense and a handful of variants spread over the study."""
    found = {
        variant: {
            row["prompt"]: row["text"] if row["text"].strip() else "(blanks only)"
            for row in rows
            if row["seed"] is None
        }
        for variant, rows in _listed(study, "samples").items()
    }
    if not found:
        return []
    names = [study.label(row["path"]) for row in study.rows if row["rate"] is not None]
    pruned, dense = [name for name in names if name in found], study.label(study.dense["path"])
    shown = [dense] if dense in found else []
    shown += pruned[:: -(-len(pruned) // limit)] if pruned else []
    prompts = dict.fromkeys(prompt for variant in shown for prompt in found[variant])
    return [(prompt, [(v, found[v][prompt]) for v in shown if prompt in found[v]]) for prompt in prompts]
