"""What `dvc plots` and the README show: the charts' numbers as CSV, and the charts as files.

The column `series` is what the templates in .dvc/plots colour by: a method, a curve, a kind of evolution. Files of the
headline figure are named by its column: loss_vs_sparsity.csv, or another task's mae_vs_sparsity.csv.
"""

import csv
from pathlib import Path

from prunelab.report import drawing


def write(folder: Path, study, found, drawn, curves: dict, paths: list) -> None:
    """All files of report/plots. Every CSV has its header even without rows, so that dvc.yaml may name it."""
    column = study.headline.column
    named = {"against_sparsity": f"{column}_vs_sparsity", "tradeoffs": f"size_vs_{column}"}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (columns, rows) in _tables(study, found, curves, paths).items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    for name, figure in drawn._asdict().items():
        if figure is not None:
            drawing.save(figure, folder / f"{named.get(name, name)}.svg")
    if drawn.against_sparsity is not None:  # the README's picture, for readers that show no SVG
        drawing.save(drawn.against_sparsity, folder / f"{column}_vs_sparsity.png")


def _tables(study, found, curves: dict, paths: list) -> dict[str, tuple[list[str], list[list]]]:
    column = study.headline.column
    values = [[g.method, g.rate, 100 * g.sparsity, *g.value] for g in found if g.value is not None]
    sizes = [
        [row["method"], study.label(row["path"]), row["packed_bytes"] / 1e6, row[column]]
        for row in study.rows
        if row["packed_bytes"] is not None and row[column] is not None
    ]
    times = [
        [
            row["method"],
            study.label(row["path"]),
            row["decode_ratio"],
            row["decode_ratio_lo"],
            row["decode_ratio_hi"],
            row[column],
        ]
        for row in study.rows
        if row["decode_ratio"] is not None and row[column] is not None and not row["timed_as"]
    ]
    curve = [
        [f"{model} {part}", step, value]
        for model, table in curves.items()
        for part in ("train", "validation")
        for step, value in table[["step", f"{part}_loss"]].dropna().itertuples(index=False)
    ]
    moves = [
        [path.kind, path.name, step, value]
        for path in paths
        for step, value in zip(path.steps.tolist(), path.values.tolist(), strict=True)
    ]
    ends = [column, f"{column}_lo", f"{column}_hi"]
    return {
        f"{column}_vs_sparsity": (["series", "rate", "sparsity_percent", *ends], values),
        f"size_vs_{column}": (["series", "variant", "stored_mb", column], sizes),
        f"time_vs_{column}": (
            ["series", "variant", "decode_ratio", "decode_ratio_lo", "decode_ratio_hi", column],
            times,
        ),
        "training_curve": (["series", "step", "loss"], curve),
        "trajectories": (["series", "weight", "step", "value"], moves),
    }
