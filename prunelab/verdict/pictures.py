"""The pictures of the verdict, one function each: numbers in, a matplotlib figure out."""

import math

from matplotlib import rc_context
from matplotlib.figure import Figure

from prunelab.report.drawing import LIGHT, look, margin_labels
from prunelab.report.evolution import KINDS, Path
from prunelab.verdict import factors
from prunelab.verdict.breaking import MARGIN
from prunelab.verdict.cells import IN_TIME, PAST_BEST, Regime
from prunelab.verdict.findings import Findings
from prunelab.verdict.precision import WANTED, Precision
from prunelab.verdict.wording import title

AVERAGED, BEST, RETRAINED = "dense, averaged", "dense, best checkpoint", "dense, retrained"
# level of factors.AGAINST_DENSE: (name, colour, dash, marker, where it begins at 0 %). Colour: what ranks; dashes:
# averaged; dots: retrained.
LINES = {
    "history": ("vermillion", "-", "o", "dense"),
    "magnitude": ("plain", "-", "s", "dense"),
    "history's threshold": ("amber", "-", "D", "dense"),
    "history, averaged": ("vermillion", (0, (4, 2)), "^", AVERAGED),
    "magnitude, best checkpoint": ("blue", "-", "v", BEST),
    "history, retrained": ("vermillion", (0, (1, 1.5)), "P", RETRAINED),
    "magnitude, retrained": ("plain", (0, (1, 1.5)), "X", RETRAINED),
    "random": ("neutral", "-", "*", "dense"),
}
NEAR = 0.25  # nats above dense that the panels show: beyond, every curve is the same cliff


def loss_against_compression(found: Findings) -> Figure:
    """Loss minus dense's over the rate, a panel for each regime, with 95 % intervals over seeds."""
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 5.8), layout="constrained")
        panels = figure.subplots(1, len(found.regimes), squeeze=False)[0]
        for axes, (which, regime) in zip(panels, found.regimes.items(), strict=True):
            _curves(figure, axes, found, which, regime)
        panels[0].set_ylabel("loss minus that of dense, nats a token")
        return figure


def _curves(figure: Figure, axes, found: Findings, which: str, regime: Regime) -> None:
    known = {level: found.against_dense(which, level) for level in LINES}
    lowest = min((effect.mean for by_rate in known.values() for effect in by_rate.values()), default=0.0)
    controls = {
        AVERAGED: found.by_rate("keeping", factors.UNPRUNED, which).get(""),
        BEST: found.by_rate("checkpoint", factors.UNPRUNED, which).get(""),
        RETRAINED: found.by_rate("retraining", factors.UNPRUNED, which).get(""),
    }
    unpruned = {"dense": 0.0} | {name: effect.mean for name, effect in controls.items() if effect is not None}
    lowest = min(lowest, *unpruned.values(), 0.0)
    low, high = lowest - 0.08 * (NEAR - lowest), NEAR
    axes.axhspan(-MARGIN, MARGIN, color=LIGHT["grid"], alpha=0.6, linewidth=0)
    axes.axhline(0, color=LIGHT["ink"], linewidth=1.1)
    labels = [(value, name, LIGHT["ink" if name == "dense" else "muted"]) for name, value in unpruned.items()]
    for value, name, colour in labels[1:]:
        axes.axhline(value, color=colour, linewidth=0.8, linestyle=(0, (6, 3)), gid=f"name:{name}")
    for level, by_rate in known.items():
        colour, dash, marker, begins = LINES[level]
        if not by_rate:
            continue
        values = {0: unpruned[begins]} if begins in unpruned else {}
        values |= {rate: effect.mean for rate, effect in by_rate.items()}
        line = {"color": LIGHT[colour], "linestyle": dash, "linewidth": 1.7, "marker": marker, "markersize": 5}
        axes.plot(list(values), list(values.values()), **line)
        for rate, effect in by_rate.items():
            if math.isfinite(effect.lo):
                name = f"name:{level} {rate} %: {effect.mean:+.4f}"
                axes.vlines(rate, effect.lo, effect.hi, color=LIGHT[colour], linewidth=1.2, gid=name)
        inside = [effect.mean for effect in by_rate.values() if effect.mean <= high]
        labels += [(inside[-1], level, LIGHT[colour])] if inside else []
    if (broken := found.breaks.get((which, "history"))) is not None and broken.found:
        axes.axvspan(*broken.at[1:], color=LIGHT["vermillion"], alpha=0.15, linewidth=0, gid="name:break of history")
    axes.set_ylim(low, high)
    axes.set_xlim(0, 82)
    axes.set_xlabel("weights removed, % of the prunable ones")
    axes.set_title(f"{title(which)} ({regime.study.name})")
    margin_labels(figure, axes, labels, low, high)


def main_effects(precisions: list[Precision]) -> Figure:
    """The main effects at 50 % with their intervals, those of both regimes beside each other."""
    rows = list(dict.fromkeys((one.factor, one.level) for one in precisions))
    places = {row: len(rows) - 1 - number for number, row in enumerate(rows)}
    looks = {IN_TIME: ("blue", "o", 0.14), PAST_BEST: ("vermillion", "s", -0.14)}
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 1.4 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-WANTED, WANTED, color=LIGHT["grid"], alpha=0.6, linewidth=0)
        axes.axvline(0, color=LIGHT["ink"], linewidth=1.0)
        for one in precisions:
            colour, marker, shift = looks[one.regime]
            y, effect = places[one.factor, one.level] + shift, one.effect
            name = f"name:{one.factor}, {one.level}, {one.regime}: {effect.mean:+.4f}"
            axes.plot([effect.mean], [y], marker=marker, color=LIGHT[colour], linestyle="none", gid=name)
            if math.isfinite(effect.lo):
                axes.hlines(y, effect.lo, effect.hi, color=LIGHT[colour], linewidth=1.6)
        at = {(one.factor, one.level): one.rate for one in precisions}
        names = [
            f"{factor}: {level}" + (f", {at[factor, level]} %" if at[factor, level] else "") for factor, level in rows
        ]
        axes.set_yticks([places[row] for row in rows], names)
        # One huge effect (retraining what was pruned at random) would flatten all others: equal steps of powers.
        axes.set_xscale("symlog", linthresh=WANTED)
        reach = max(abs(end) for one in precisions for end in one.effect.interval if math.isfinite(end))
        ticks = [step for step in (WANTED, 0.1, 1.0, 10.0) if step <= max(reach, WANTED)]
        ticks = [*(-step for step in reversed(ticks)), 0, *ticks]
        axes.set_xticks(ticks, [f"{step:+g}".replace("-", "−") if step else "0" for step in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("difference in loss, nats a token (left is better); beyond ± 0.01 the scale is logarithmic")
        shown = dict.fromkeys(one.regime for one in precisions)
        axes.set_title("   ".join(f"{'●' if which == IN_TIME else '■'} {which}" for which in shown))
        return figure


def clearest(paths: list[Path], named: list[Path]) -> Figure:
    """Single weights over training: of every kind the clearest, and those that were named."""
    panels = [*((kind, [path for path in paths if path.kind == kind]) for kind in KINDS), ("named", named)]
    panels = [(kind, mine) for kind, mine in panels if mine]
    colours = ("vermillion", "blue", "green", "purple", "amber", "sky", "brown", "plain")
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 4.0), layout="constrained")
        for axes, (kind, mine) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.axhline(0, color=LIGHT["muted"], linewidth=0.8)
            for number, path in enumerate(mine):
                colour = LIGHT[colours[number % len(colours)]]
                axes.plot(path.steps, path.values, color=colour, linewidth=1.5, gid=f"name:{path.name}")
            axes.set_title(kind)
            axes.locator_params(axis="x", nbins=4, integer=True)
        figure.axes[0].set_ylabel("value of the weight")
        figure.supxlabel("optimizer step", fontsize=12, color=LIGHT["muted"])
        return figure
