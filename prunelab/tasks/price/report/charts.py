"""The pictures of the task price: error against compression, and predictions against truth.

`drawing` is the report's module of that name: its colours, letters and labels.
"""

import math

import numpy as np

from prunelab.fragments import rate_name
from prunelab.tasks.price.report.points import Point

WIDE = 10  # times the lowest price that the highest is, from which axes are logarithmic
PAPERS_LINE = 30  # percent of the weights, where the paper draws its line
HEADROOM = 1.35  # how far above the mean predictor's error the picture ends: worse than that is worse than no model


def error_against_compression(drawing, found: dict[str, list[Point]], dense: dict, unit: str):
    """MAE over the share of weights removed, a line a method with intervals, as the paper's figure 4.

    dense: its quality.json; unit: the currency.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours, style = drawing.LIGHT, drawing.Style(list(found))
    known = {name: told["mae"] for name, told in (dense.get("baselines") or {}).items()}
    ends = [end for points in found.values() for point in points for end in point.mae if math.isfinite(end)]
    highest = max(*ends, dense["mae"], *known.values())
    ceiling = min(highest * 1.03, HEADROOM * known["mean"]) if "mean" in known else highest * 1.03
    with rc_context(drawing.look()):
        figure = Figure(figsize=(13.4, 6.0), layout="constrained")
        axes = figure.subplots()
        axes.axvline(PAPERS_LINE, color=colours["muted"], linewidth=1.0, linestyle=(0, (5, 3)))
        axes.text(PAPERS_LINE, 1.01, "30 %", ha="center", color=colours["muted"], transform=axes.get_xaxis_transform())
        axes.axhline(dense["mae"], color=colours["ink"], linewidth=1.1)
        axes.plot([0], [dense["mae"]], marker="*", markersize=13, color=colours["ink"], gid="name:dense", clip_on=False)
        marks = [(dense["mae"], "dense", colours["ink"])]
        for name, mae in known.items():
            axes.axhline(mae, color=colours["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
            marks.append((mae, NAMES.get(name, name), colours["muted"]))
        for method, points in found.items():
            _line(axes, points, style[method], ceiling)
            marks.append((min(points[-1].mae[0], ceiling), method, style[method]["color"]))
        axes.set_xlim(-2, 102 * max(points[-1].sparsity for points in found.values()))
        axes.set_ylim(0, ceiling)
        axes.set_xlabel("weights removed, % of the prunable ones")
        axes.set_ylabel(f"mean absolute error, {unit}")
        drawing.margin_labels(figure, axes, marks, 0, ceiling)
    return figure


NAMES = {"mean": "mean predictor", "median": "median predictor", "ridge": "ridge on the columns"}


def _line(axes, points: list[Point], style: dict, ceiling: float) -> None:
    """One method's errors; what lies above the picture stands as a triangle at its upper edge."""
    curve = [point for point in points if "of" not in point.rate]  # an n:m pattern is a point, not a curve
    axes.plot(
        [100 * point.sparsity for point in curve],
        [point.mae[0] for point in curve],
        color=style["color"],
        linestyle=style["linestyle"],
        linewidth=1.8,
    )
    for point in points:
        mean, lo, hi = point.mae
        above = mean > ceiling
        axes.plot(
            [100 * point.sparsity],
            [min(mean, ceiling)],
            color=style["color"],
            linestyle="none",
            marker="^" if above else style["marker"],
            markerfacecolor=style["markerfacecolor"],
            markersize=5.5,
            clip_on=not above,
            gid=f"name:{point.row['variant']}: {mean:.4g}",
        )
        if math.isfinite(lo):
            axes.vlines(100 * point.sparsity, lo, hi, color=style["color"], linewidth=1.2)


def predictions_against_truth(drawing, shown: list[tuple[str, np.ndarray, np.ndarray]], unit: str):
    """A panel a model with a dot a row, true against predicted price; shown: (name, true, predicted) each.

    What is no number has no dot and is counted in the panel's corner. Dots beyond the picture stand at its edge. Prices
    that differ by WIDE and more stand on logarithmic axes, on which equal errors in percent look alike.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = drawing.LIGHT
    lowest, highest = min(true.min() for _, true, _ in shown), max(true.max() for _, true, _ in shown)
    logs = lowest > 0 and highest / lowest >= WIDE
    pad = 0.08 * (highest - lowest) or 1.0
    low, high = (lowest / 1.2, highest * 1.2) if logs else (lowest - pad, highest + pad)
    short = FuncFormatter(lambda value, _: f"{value / 1e6:g} M" if abs(value) >= 1e6 else f"{value:,.4g}")
    with rc_context(drawing.look()):
        figure = Figure(figsize=(13.4, min(13.4 / len(shown) + 0.9, 6.0)), layout="constrained")
        for axes, (name, true, predicted) in zip(
            figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0], shown, strict=True
        ):
            known = np.isfinite(predicted)
            axes.plot([low, high], [low, high], color=colours["muted"], linewidth=0.9)
            axes.scatter(
                true[known],
                predicted[known].clip(low, high),
                s=9,
                color=colours["blue"],
                alpha=0.45,
                linewidths=0,
                rasterized=len(true) > 2000,
            )
            if not known.all():
                axes.text(
                    0.03, 0.96, f"{int((~known).sum())} no number", transform=axes.transAxes, va="top", fontsize=10,
                    color=colours["muted"],
                )  # fmt: skip
            axes.set_title(name)
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
            if logs:
                axes.set_xscale("log")
                axes.set_yscale("log")
            else:
                axes.locator_params(nbins=4)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(short)
                axis.set_minor_formatter(NullFormatter())
                axis.set_tick_params(which="minor", size=0)
            axes.set_aspect("equal")
        figure.axes[0].set_ylabel(f"predicted, {unit}")
        figure.supxlabel(f"true price, {unit}", fontsize=12, color=colours["muted"])
    return figure


def panel_name(row: dict, label: str) -> str:
    return label if row["rate"] is None else f"{row['method']} {rate_name(row['rate'])}"
