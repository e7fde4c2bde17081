"""Tables of the report's second half, each only where the study holds its figures.

Further texts, corrupted text, loss by context, time by workload, published figures beside ours, samples.
"""

from prunelab.disk.files import read_json
from prunelab.fragments import UNKNOWN, Cell, Column, Table, bounded, ends, number, words
from prunelab.report import published

ON_A_GRID_PERCENT = 2  # that rounding moves weights by; normal ones, in groups of 32, move by 8
KNOWN_PERCENT = 1  # of a text's tokens may be unknown to a tokenizer before it is told


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


def _beside_dense(
    study, found: dict[str, list[dict]], heading, own: str, diff: str, marked: bool = True
) -> Table | None:
    """A table with a row a variant: its differences to dense called `diff`, less being better; and, in the rows of the
    dense models, their own figures called `own`.

    marked: where a difference's whole interval lies on one side of zero.
    """

    def difference(row: dict) -> Cell:
        triple = ends(row, diff)
        known = marked and None not in triple
        mark = "bad" if known and triple[1] > 0 else "good" if known and triple[2] < 0 else ""
        return bounded(triple, "+.3f", mark)

    models = {study.label(row["dense"]) for row in study.rows}
    dense = {variant: rows for variant, rows in found.items() if variant in models}
    table, itself = _spread(found, heading, difference), _spread(dense, heading, lambda row: number(row[own], ".3f"))
    if table is None or itself is None or table.columns != itself.columns:
        return table
    told = {cells[0].text: ("reference", cells) for _, cells in itself.rows}
    return Table(table.columns, [told.get(cells[0].text, (kind, cells)) for kind, cells in table.rows])


def texts(study) -> Table | None:
    """Dense's loss on every further text, and how far that of each variant lies from it on the same windows."""
    return _beside_dense(
        study, _listed(study, "texts"), lambda row: Column(row["text"], "nats/token [95 %]"), "loss", "loss_diff"
    )


def unknown_letters(study) -> list[tuple[str, float]]:
    """(text, percent of its tokens) of the further texts that dense's tokenizer does not know."""
    rows = study.files[study.dense["path"]]["quality"].get("texts") or []
    return [(row["text"], row["unknown_percent"]) for row in rows if row["unknown_percent"] > KNOWN_PERCENT]


def other_windows(study) -> Table | None:
    """Perplexity of the study's own text by the length of the windows that it is cut into."""
    found = {}
    for row in study.rows:
        quality = study.files[row["path"]]["quality"]
        if quality.get("also_contexts"):
            first = {"context": quality["context"], "perplexity": quality["perplexity"]}
            found[study.label(row["path"])] = [first, *quality["also_contexts"]]
    return _spread(
        found,
        lambda row: Column("perplexity", f"windows of {row['context']}"),
        lambda row: number(row["perplexity"], ",.2f"),
    )


def robustness(study) -> Table | None:
    """Dense's bits a byte on corrupted text, how far every variant lies from them on the same text; and, behind that,
    how much more it rose over clean text than dense."""
    found = _listed(study, "robustness")

    def heading(before: str):
        return lambda row: Column(f"{before}{row['kind']} {row['strength_percent']} %", "bits/byte [95 %]")

    worse = _beside_dense(study, found, heading(""), "bits_per_byte", "bits_diff")
    # Not marked: who has nothing left to lose rises least.
    rise = _beside_dense(study, found, heading("rise, "), "rise", "rise_diff", marked=False)
    if worse is None:
        return None
    joined = [(kind, [*cells, *more[1:]]) for (kind, cells), (_, more) in zip(worse.rows, rise.rows, strict=True)]
    return Table([*worse.columns, *rise.columns[1:]], joined)


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
