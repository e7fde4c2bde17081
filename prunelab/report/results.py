"""What a study left behind, gathered: one row a variant, the dense models and their controls included.

`read()` takes the list of variants from the settings and never from what lies in a folder, so that files of rates
that were struck out again cannot slip into a report. Unknown stays unknown (None), never 0.

`python -m prunelab.report.results` prints the finished table. It reads report/results.csv with the standard library
alone, because it stands at the end of every `make study` and pandas would take longer than the rest of that command.
"""

import argparse
import csv
import re
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.disk.files import read_json, whole_file
from prunelab.errors import InputError, exit_cleanly
from prunelab.recipes.methods import STRUCTURES

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
    "allocation", "dense", "loss_increase_percent", "loss_increase_percent_lo", "loss_increase_percent_hi",
    "decode_verdict", "energy_estimated", "prune_rate", "target_sparsity", "calibration_hash", "calibration_seed",
)
# fmt: on
# A name that two files use for different things.
RENAMED = {("quality", "dtype"): "quality_dtype", ("sparsity", "seed"): "pruning_seed", ("sparsity", "rate"): None}

SAME_SHAPE = ("dense-average", "dense-best")  # controls that are the dense model with other values in it


class Study(NamedTuple):
    """Everything the report is made of. `files[variant]` holds the whole JSON files of a row under the names
    `sparsity`, `quality`, `efficiency` and, where asked for, `runtimes`; `bills` the energy each stage booked, by
    its name."""

    settings: Any
    rows: list[dict]
    files: dict[str, dict[str, dict]]
    device: dict | None
    bills: dict[str, dict]
    results: Path
    models: Path


def read(settings, results, models) -> Study:
    """The study of `settings` from the folders `results` and `models`. Raises InputError naming the file that is
    missing and the stage that writes it."""
    results, models = Path(results), Path(models)
    files, rows = {}, []
    for identifier in settings.references():
        base, tag = _reference(identifier)
        stage = f"reference-replica@{tag}" if tag else "reference"
        if base in SAME_SHAPE:
            stage = f"control-replica@{base[6:]}-{tag}" if tag else f"control@{base[6:]}"
        elif base != "dense":
            stage = None
        files[identifier] = {"quality": _required(results / identifier / "quality.json", stage)}
        efficiency = results / identifier / "efficiency.json"
        if base == "dense":
            stage = f"efficiency-dense-replica@{tag}" if tag else "efficiency-dense"
            files[identifier]["efficiency"] = _required(efficiency, stage)
        elif efficiency.exists():  # a control with weights of its own size, such as an int8 or a smaller dense model
            files[identifier]["efficiency"] = read_json(efficiency)
        dense = f"dense-{tag}" if tag else "dense"
        rows.append(_row(files, identifier, base, None, None, dense, settings.seed_of(tag)))
    for variant in settings.variants():
        suffix = "-replica" if variant.seed_tag else ""
        maker = "recover" if "-recovered" in variant.id else "remove" if variant.method in STRUCTURES else "prune"
        places = {"sparsity": (models, maker), "quality": (results, "quality"), "efficiency": (results, "efficiency")}
        files[variant.id] = {
            name: _required(folder / variant.id / f"{name}.json", f"{stage}{suffix}@{variant.id}")
            for name, (folder, stage) in places.items()
        }
        allocation = files[variant.id]["sparsity"].get("allocation") or variant.allocation
        seed = settings.seed_of(variant.seed_tag)
        rows.append(_row(files, variant.id, _method(variant), variant.rate, allocation, variant.dense, seed))
    for identifier in settings.runtimes.variants:  # other ways to run a model are no rows, but a table of their own
        files[identifier]["runtimes"] = _required(results / identifier / "runtimes.json", f"runtimes@{identifier}")
    device = results / "device.json"
    bills = _bills(results / "energy", files, settings.replicas)
    return Study(settings, rows, files, read_json(device) if device.exists() else None, bills, results, models)


def _required(path: Path, stage: str | None) -> dict:
    if not path.exists():
        told = f"the stage {stage} writes it: dvc repro {stage}" if stage else "run the stage that writes it: dvc repro"
        raise InputError(f"{path}: no such file; {told}")
    content = read_json(path)
    if not isinstance(content, dict):
        found = f"expected a JSON object, found {type(content).__name__}"
        raise InputError(f"{path}: {found}; write it again: dvc repro -f {stage or ''}".rstrip())
    return content


def _reference(identifier: str) -> tuple[str, str | None]:
    """`dense-average-s2` → (`dense-average`, `s2`)."""
    match = re.fullmatch(r"(.+?)(?:-(s\d+))?", identifier)
    return match[1], match[2]


def _method(variant) -> str:
    """The id without rate and seed: `magnitude-global-50-s2` → `magnitude-global`, `depth-25-recovered` →
    `depth-recovered`. Everything that makes a variant another kind of thing stays in its name."""
    kind = re.sub(rf"-{variant.rate}(?=-|$)", "", variant.id, count=1)
    return kind.removesuffix(f"-{variant.seed_tag}") if variant.seed_tag else kind


def _row(files: dict, identifier: str, method: str, rate: str | None, allocation, dense: str, seed: int) -> dict:
    """One row: every plain value of the variant's files under its name, and what follows from dense."""
    _require_same_measure(files, identifier, dense)
    row = dict.fromkeys((*COLUMNS, *FURTHER))
    for name, content in files[identifier].items():
        for key, value in content.items():
            key = RENAMED.get((name, key), key)
            if key and isinstance(value, str | int | float):
                row[key] = value
    row |= {"variant": identifier, "method": method, "rate": rate, "seed": seed, "allocation": allocation}
    row["dense"] = dense
    base = files[dense]
    if rate is None:  # nothing was pruned
        row["sparsity_pruned"] = 0.0
    if method in SAME_SHAPE:
        row |= {key: base["efficiency"].get(key) for key in ("parameters", "dense_bytes")}
    if calibration := files[identifier].get("sparsity", {}).get("calibration"):
        row |= {"calibration_hash": calibration.get("hash"), "calibration_seed": calibration.get("seed")}
    provenance = row["energy_provenance"] = files[identifier].get("efficiency", {}).get("energy_provenance")
    if isinstance(provenance, dict):
        row["energy_provenance"] = " ".join(f"{part}:{source}" for part, source in provenance.items())
    loss = base["quality"].get("loss")
    for end in ("", "_lo", "_hi"):
        difference = row[f"loss_diff{end}"]
        if loss and difference is not None:
            row[f"loss_increase_percent{end}"] = 100 * difference / loss
    return row


def _require_same_measure(files: dict, identifier: str, dense: str) -> None:
    """Raises InputError where a row was scored on another text, or beside another model, than its dense one."""
    mine, theirs = (files[name]["quality"] for name in (identifier, dense))
    for key in ("text_sha256", "context", "dtype", "dense_sha256"):
        if mine.get(key) != theirs.get(key):
            raise InputError(
                f"{identifier}: its quality was measured with {key} {mine.get(key)}, that of {dense} with "
                f"{theirs.get(key)}; they do not compare: dvc repro"
            )


def _bills(folder: Path, files: dict, tags: list[str]) -> dict[str, dict]:
    """What stages booked, by `<stage>` or `<stage>-<variant or seed>`. The bills of variants and seeds that are no
    longer in the study are not this study's."""
    whose = {path: path.stem.partition("-")[2] for path in sorted(folder.glob("*.json"))}
    return {path.stem: read_json(path) for path, name in whose.items() if not name or name in files or name in tags}


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


def describe(row: dict, estimated: bool) -> list[str]:
    """The cells of one row of the terminal's table; `row` holds words, as a CSV reader gives them."""

    def number(key: str, form: str, scale: float = 1.0) -> str:
        return format(float(row[key]) * scale, form) if row.get(key) not in (None, "") else "–"

    def bounded(key: str, form: str) -> str:
        interval = f" [{number(key + '_lo', form)}, {number(key + '_hi', form)}]"
        return number(key, form) + (interval if row.get(f"{key}_lo") not in (None, "") else "")

    size = "packed_bytes" if row.get("packed_bytes") else "dense_bytes"
    return [
        row["variant"],
        number("sparsity_pruned", ".1f", 100),
        number("loss", ".4f"),
        bounded("loss_increase_percent", "+.1f") if row["variant"] != row["dense"] else "0",
        number(size, ".2f", 1e-6),
        bounded("decode_ratio", ".2f"),
        row.get("decode_verdict") or "–",
        number("decode_j_per_token", ".4f") + (" est." if estimated and row.get("decode_j_per_token") else ""),
    ]


HEADER = [
    "variant",
    "removed %",
    "loss nats",
    "loss vs dense % [95 %]",
    "stored MB",
    "decode time vs dense [95 %]",
    "decoding is",
    "J/token",
]


def table(rows: list[dict], markdown: bool = False) -> str:
    """The final table as text for a terminal, or as Markdown for a README."""
    estimated = any(row.get("energy_estimated") == "True" for row in rows)
    cells = [HEADER, *(describe(row, estimated) for row in rows)]
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
    path = arguments.report / "results.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage report writes it: dvc repro") from None
    if not rows or "variant" not in rows[0]:
        raise InputError(f"{path}: holds no results; write it again: dvc repro -f -s report")
    print(table(rows, arguments.markdown))
    if any(row.get("energy_estimated") == "True" for row in rows):
        print("\nest.: estimated. No energy counter here, so joules are time x modelled power and rank nothing anew.")
    if not arguments.markdown:
        print(f"\nreport: {(arguments.report / 'index.html').resolve()}")


if __name__ == "__main__":
    exit_cleanly(main)
