"""What a study left behind, gathered: one row a variant and seed, the dense models included.

`read()` takes the list of variants from the settings and never from what lies in a folder, so that files of rates
that were struck out again cannot slip into a report. Unknown stays unknown (None), never 0. A row is found by its
`path`, such as s1/wanda-50, which is also its folder; with a single seed nobody is shown it (`label`).

`python -m prunelab.report.results` prints the finished table. It reads report/results.csv with the standard library
alone, because it stands at the end of every `make study` and pandas would take longer than the rest of that command.
"""

import argparse
import csv
from pathlib import Path
from typing import Any, NamedTuple

from prunelab import tasks
from prunelab.deploy import answering, devices, figures
from prunelab.disk.files import read_json, whole_file
from prunelab.errors import InputError, exit_cleanly
from prunelab.recipes import variants
from prunelab.recipes.variants import QUANTISED, Variant
from prunelab.study import locations
from prunelab.tasks import Headline

# The contract with everything that reads results: these names, first, in this order.
# fmt: off
COLUMNS = (
    "variant", "method", "rate", "seed", "sparsity_pruned", "sparsity_all", "parameters", "nonzero_parameters",
    "loss", "perplexity", "bits_per_byte", "loss_diff", "loss_diff_lo", "loss_diff_hi", "kl_to_dense",
    "top1_agreement", "dense_bytes", "packed_bytes", "macs_per_token", "prefill_ms", "decode_ms_per_token",
    "decode_ratio", "decode_ratio_lo", "decode_ratio_hi", "peak_memory_bytes", "decode_j_per_token",
    "energy_provenance", "gco2_per_million_tokens", "device",
)
# fmt: on
# Behind them, in this order; any further number, word or flag of the files follows under its own name.
# fmt: off
FURTHER = (
    "allocation", "path", "dense", "stored_as", "timed_as", "loss_increase_percent", "loss_increase_percent_lo",
    "loss_increase_percent_hi",
    "decode_verdict", "energy_estimated", "prune_rate", "target_sparsity", "calibration_hash", "calibration_seed",
    "litres_per_million_tokens", *answering.COLUMNS,
)
# fmt: on
# A name that two files use for different things.
RENAMED = {("quality", "dtype"): "quality_dtype", ("sparsity", "seed"): "pruning_seed", ("sparsity", "rate"): None}

# What a row that was not timed itself does not take over from the one that was: it has its own.
OWN = ("variant", "nonzero_parameters", "packed_bytes")


class Study(NamedTuple):
    """Everything the report is made of. `files[path]` holds the whole JSON files of a row under the names `sparsity`,
    `quality`, `efficiency` and, where asked for, `runtimes`; `bills` the energy each stage booked, by its name."""

    settings: Any
    rows: list[dict]
    files: dict[str, dict[str, dict]]
    device: dict | None
    bills: dict[str, dict]
    results: Path
    models: Path
    headline: Headline  # what rows are judged by

    @property
    def dense(self) -> dict:
        """The dense row of the first seed."""
        return self.rows[0]

    def timed_at(self, row: dict) -> str:
        """The path of the row that a row's times are from: its own, or that of the same seed in `timed_as`."""
        return f"{row['path'].partition('/')[0]}/{row['timed_as']}" if row["timed_as"] else row["path"]

    def timed(self, row: dict) -> dict:
        """The efficiency.json of that row."""
        return self.files[self.timed_at(row)].get("efficiency", {})

    def results_of(self, path: str) -> Path:
        """The folder that holds a row's results."""
        return locations.results_of(self.settings, self.results, path)

    def stage(self, kind: str, path: str) -> str:
        """The name of the stage that makes a row's model ("prune") or measures it ("quality", "efficiency")."""
        return locations.stage_of(self.settings, kind, path)

    def label(self, path: str) -> str:
        """How a row is called where people read: the variant's id, with several seeds the tag behind it."""
        return label(path, len(self.settings.seeds) > 1)


def label(path: str, several_seeds: bool) -> str:
    """`s2/wanda-50` → `wanda-50`, with several seeds `wanda-50 s2`."""
    tag, _, identifier = path.partition("/")
    return f"{identifier} {tag}" if several_seeds else identifier


def read(settings, results, models) -> Study:
    """The study of `settings` from the folders `results` and `models`. Raises InputError naming the file that is
    missing and the stage that writes it."""
    results, models = Path(results), Path(models)
    variants, files, rows, headline = settings.variants(), {}, [], tasks.headline(settings)
    for tag in settings.seeds:
        for variant in variants:
            files[f"{tag}/{variant.id}"] = _files_of(settings, tag, variant, results, models)
        rows += [row_of(settings, headline, files, tag, variant) for variant in variants]
    device = results / "device.json"
    bills = _bills(results / "energy", settings.seeds, [variant.id for variant in variants])
    known = read_json(device) if device.exists() else None
    return Study(settings, rows, files, known, bills, results, models, headline)


def _files_of(settings, tag: str, variant: Variant, results: Path, models: Path) -> dict[str, dict]:
    """The JSON files of a row, as far as its study writes them. Raises InputError where one is missing."""
    path, found = f"{tag}/{variant.id}", {}
    mine, model = locations.results_of(settings, results, path), locations.model_of(settings, results, models, path)

    def required(folder: Path, name: str, kind: str) -> dict:
        return _required(folder / f"{name}.json", locations.stage_of(settings, kind, path))

    if variant.rate is not None:
        found["sparsity"] = required(model, "sparsity", "prune")
    found["quality"] = required(mine, "quality", "quality")
    if variant.precision in QUANTISED:
        found["quantised"] = required(model, "quantised", "prune")
    if settings.timed_as(variant) is None:
        found["efficiency"] = required(mine, "efficiency", "efficiency")
    if variant.id in settings.runtimes.variants:  # other ways to run a model are no rows, but a table of their own
        found["runtimes"] = _required(results / path / "runtimes.json", f"runtimes@{variant.id}-{tag}")
    return found


def _required(path: Path, stage: str) -> dict:
    if not path.exists():
        raise InputError(f"{path}: no such file; the stage {stage} writes it: dvc repro {stage}")
    content = read_json(path)
    if not isinstance(content, dict):
        found = f"expected a JSON object, found {type(content).__name__}"
        raise InputError(f"{path}: {found}; write it again: dvc repro -f {stage}")
    return content


def row_of(settings, headline: Headline, files: dict, tag: str, variant: Variant) -> dict:
    """One row: every plain value of the variant's files under its name, and what follows from dense. Of a study that
    still runs, as far as its files are there: `files` holds an entry for every path, which may be empty."""
    path, dense = f"{tag}/{variant.id}", f"{tag}/dense"
    row, mine, base = dict.fromkeys((*COLUMNS, *FURTHER, *headline.columns)), files[path], files[dense]
    other = settings.timed_as(variant)
    if "quality" in mine and "quality" in base:
        _require_same_measure(files, path, dense)
    work = mine.get("efficiency") or files.get(f"{tag}/{other}", {}).get("efficiency", {})
    taken = {key: value for key, value in work.items() if not (other and key in OWN)}
    for name, content in ({**mine, "efficiency": taken} | {"quantised": {}}).items():  # that is for its own table
        for key, value in content.items():
            key = RENAMED.get((name, key), key)
            if key and isinstance(value, str | int | float):
                row[key] = value
    row |= {"variant": variant.id, "method": variant.family, "rate": variant.rate, "seed": settings.seed_of(tag)}
    row |= {"path": path, "dense": dense, "timed_as": other}
    row["stored_as"] = variant.precision or base.get("quality", {}).get("dtype")
    if "quantised" in mine:
        row["packed_bytes"] = mine["quantised"].get("bytes")
    row["allocation"] = mine.get("sparsity", {}).get("allocation") or variant.allocation
    if variant.rate is None:  # nothing was pruned
        row["sparsity_pruned"] = 0.0
    if calibration := mine.get("sparsity", {}).get("calibration"):
        row |= {"calibration_hash": calibration.get("hash"), "calibration_seed": calibration.get("seed")}
    provenance = row["energy_provenance"] = work.get("energy_provenance")
    if isinstance(provenance, dict):
        row["energy_provenance"] = " ".join(f"{part}:{source}" for part, source in provenance.items())
    quality = mine.get("quality", {})
    row |= figures.drops(quality) | figures.by_text(quality) | answering.per_correct(row, work)
    for column in dict.fromkeys(("loss", headline.column)):
        whole = base.get("quality", {}).get(column)
        for end in ("", "_lo", "_hi"):
            difference = row[f"{column}_diff{end}"]
            if whole and difference is not None:
                row[f"{column}_increase_percent{end}"] = 100 * difference / whole
    return row


def elsewhere(study: Study, folder) -> Study:
    """The same models with the times, memory and energy that another machine measured into the results `folder`.

    Rows that it did not measure are left out. Raises InputError as deploy.devices.measured.
    """
    files, settings, rows = devices.measured(study.files, folder), study.settings, []
    for tag in settings.seeds:
        for variant in settings.variants():
            needed = {f"{tag}/{variant.id}", f"{tag}/{settings.timed_as(variant) or variant.id}"}
            if needed <= files.keys():
                rows.append(row_of(settings, study.headline, files, tag, variant))
    return study._replace(rows=rows, files=files, device=None)


def _require_same_measure(files: dict, path: str, dense: str) -> None:
    """Raises InputError where a row was scored on another text, or beside another model, than its dense one, or in
    another precision without one of its own."""
    mine, theirs = (files[name]["quality"] for name in (path, dense))
    own = variants.parse(path.partition("/")[2]).precision
    for key in ("text_sha256", "context", *([] if own else ["dtype"]), "dense_sha256"):
        if mine.get(key) != theirs.get(key):
            raise InputError(
                f"{path}: its quality was measured with {key} {mine.get(key)}, that of {dense} with "
                f"{theirs.get(key)}; they do not compare: dvc repro"
            )


def _bills(folder: Path, tags: list[str], identifiers: list[str]) -> dict[str, dict]:
    """What stages booked, by `fetch`, `s1/train` or `s1/<stage>-<variant>`. The bills of variants and seeds that are no
    longer in the study are not this study's."""
    booked = [folder / "fetch.json", folder / "probes.json"]
    booked += [path for tag in tags for path in sorted((folder / tag).glob("*.json"))]
    whose = {path: path.stem.partition("-")[2] for path in booked if path.exists()}
    return {
        path.relative_to(folder).with_suffix("").as_posix(): read_json(path)
        for path, variant in whose.items()
        if not variant or variant in identifiers
    }


def columns(rows: list[dict]) -> list[str]:
    """The contract's columns, then the further ones, then whatever else the rows hold, in order of appearance."""
    return list(dict.fromkeys([*COLUMNS, *FURTHER, *(key for row in rows for key in row)]))


def frame(study: Study):
    """The rows as a pandas frame with the contract's columns first."""
    import pandas

    return pandas.DataFrame(study.rows, columns=columns(study.rows))


def write_csv(rows: list[dict], path) -> None:
    """The rows as CSV; empty means unknown. Written here, not by pandas, so that whole numbers stay whole."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def describe(row: dict, headline: Headline, estimated: bool, several_seeds: bool) -> list[str]:
    """The cells of one row of the terminal's table; `row` holds words, as a CSV reader gives them."""

    def number(key: str, form: str, scale: float = 1.0) -> str:
        return format(float(row[key]) * scale, form) if row.get(key) not in (None, "") else "–"

    def bounded(key: str, form: str) -> str:
        interval = f" [{number(key + '_lo', form)}, {number(key + '_hi', form)}]"
        return number(key, form) + (interval if row.get(f"{key}_lo") not in (None, "") else "")

    size = "packed_bytes" if row.get("packed_bytes") else "dense_bytes"
    own = not row.get("timed_as")  # another row's time is told once, where it was measured
    return [
        label(row["path"], several_seeds),
        number("sparsity_pruned", ".1f", 100),
        number(headline.column, headline.form),
        bounded(headline.increase_percent, "+.1f") if row["path"] != row["dense"] else "0",
        number(size, ".2f", 1e-6),
        bounded("decode_ratio", ".2f") if own else f"as {row['timed_as']}",
        (row.get("decode_verdict") or "–") if own else "–",
        (number("decode_j_per_token", ".4f") + (" est." if estimated and row.get("decode_j_per_token") else ""))
        if own
        else "–",
    ]


HEADER = [
    "variant",
    "removed %",
    "{0.column} {0.bare_unit}",
    "{0.column} vs dense % [95 %]",
    "stored MB",
    "decode time vs dense [95 %]",
    "decoding is",
    "J/token",
]


def table(rows: list[dict], headline: Headline, markdown: bool = False) -> str:
    """The final table as text for a terminal, or as Markdown for a README."""
    estimated = any(row.get("energy_estimated") == "True" for row in rows)
    several = len({row["seed"] for row in rows}) > 1
    header = [words.format(headline) for words in HEADER]
    cells = [header, *(describe(row, headline, estimated, several) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    left = {0, 6}  # words; everything else is a number and stands right
    padded = [
        [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(line)] for line in cells
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * width if i in left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prunelab.report.results", description="Print the study's result table."
    )
    parser.add_argument("--report", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--markdown", action="store_true", help="as Markdown, for a README")
    arguments = parser.parse_args(argv)
    show(arguments.report, arguments.markdown)


def show(report: Path, markdown: bool) -> None:
    """Print the table in the folder `report`. Raises InputError where none is."""
    path = report / "results.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage report writes it: dvc repro") from None
    if not rows or "path" not in rows[0]:  # an earlier version's has none
        raise InputError(f"{path}: holds no results; write it again: dvc repro -f -s report")
    advice = _advice(report / "recommendation.json")
    judged_by = Headline(**advice["headline"]) if "headline" in advice else tasks.of("language").HEADLINE
    print(table(rows, judged_by, markdown))
    if any(row.get("energy_estimated") == "True" for row in rows):
        print("\nest.: estimated. No energy counter here, so joules are time x modelled power and rank nothing anew.")
    if not markdown:
        for line in _told(advice):
            print(f"\n{line}")
        print(f"\nreport: {(report / 'index.html').resolve()}")


def _advice(path: Path) -> dict:
    """The recommendation, empty where none was made."""
    advice = read_json(path) if path.exists() else {}
    return advice if isinstance(advice, dict) and {"told", "devices"} <= advice.keys() else {}


def _told(advice: dict) -> list[str]:
    """What the recommendation says first, for this machine and every other; nothing where none was made."""
    if not advice:
        return []
    here = advice["told"][0].replace("`", "")
    return [here, *(f"on {name}: {one['told'][0].replace('`', '')}" for name, one in advice["devices"].items())]


if __name__ == "__main__":
    exit_cleanly(main)
