"""What `dvc plots` and the README show: the charts' numbers as CSV, and the charts as files.

The column `series` is what the templates in .dvc/plots colour by: a method, a curve, a kind of evolution.
"""

import csv
from pathlib import Path

from prunelab.report import drawing


def write(folder: Path, study, found, drawn, curves: dict, paths: list) -> None:
    """All files of report/plots. Every CSV has its header even without rows, so that dvc.yaml may name it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (columns, rows) in _tables(study, found, curves, paths).items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    for name, figure in drawn._asdict().items():
        if figure is not None:
            drawing.save(figure, folder / f"{name}.svg")
    if drawn.loss_vs_sparsity is not None:  # the README's picture, for readers that show no SVG
        drawing.save(drawn.loss_vs_sparsity, folder / "loss_vs_sparsity.png")


def _tables(study, found, curves: dict, paths: list) -> dict[str, tuple[list[str], list[list]]]:
    losses = [[g.method, g.rate, 100 * g.sparsity, *g.loss] for g in found if g.loss is not None]
    sizes = [
        [row["method"], study.label(row["path"]), row["packed_bytes"] / 1e6, row["loss"]]
        for row in study.rows
        if row["packed_bytes"] is not None and row["loss"] is not None
    ]
    times = [
        [
            row["method"],
            study.label(row["path"]),
            row["decode_ratio"],
            row["decode_ratio_lo"],
            row["decode_ratio_hi"],
            row["loss"],
        ]
        for row in study.rows
        if row["decode_ratio"] is not None and row["loss"] is not None and not row["timed_as"]
    ]
    curve = [
        [f"{model} {column.removesuffix('_loss')}", step, value]
        for model, table in curves.items()
        for column in ("train_loss", "validation_loss")
        for step, value in table[["step", column]].dropna().itertuples(index=False)
    ]
    moves = [
        [path.kind, f"{path.tensor}[{path.index}]", step, value]
        for path in paths
        for step, value in zip(path.steps.tolist(), path.values.tolist(), strict=True)
    ]
    return {
        "loss_vs_sparsity": (["series", "rate", "sparsity_percent", "loss", "loss_lo", "loss_hi"], losses),
        "size_vs_loss": (["series", "variant", "stored_mb", "loss"], sizes),
        "time_vs_loss": (["series", "variant", "decode_ratio", "decode_ratio_lo", "decode_ratio_hi", "loss"], times),
        "training_curve": (["series", "step", "loss"], curve),
        "trajectories": (["series", "weight", "step", "value"], moves),
    }
