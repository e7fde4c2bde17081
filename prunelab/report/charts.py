"""The pictures of the report, one function each: numbers in, a matplotlib figure out.

Lines carry their names at their ends instead of a legend. Past EIGHT series every method gets a panel of its own, with
the others in grey behind it: a study of 500 variants stays readable.
"""

import math
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from prunelab import stats
from prunelab.deploy.rivals import is_rival
from prunelab.report import evolution, results, verdict
from prunelab.report.drawing import LIGHT, Style, look, margin_labels, spot_labels
from prunelab.tasks import Headline

EIGHT = 8
CONTROLS = {
    "dense-average": "averaged, unpruned",
    "dense-best": "early-stopped, unpruned",
    "dense-retrained": "trained further, unpruned",
}
IN_PRECISION = ("dense-bf16", "dense-int8", "dense-int4")  # so begin dense's rows of fewer bits


def series(groups: list[verdict.Group]) -> dict[str, list[verdict.Group]]:
    """The points of each line by its name, ordered by sparsity. n:m patterns and PruneRates are lines of their own:
    they restrict or distribute zeros in another way than a plain percentage."""
    found: dict[str, list[verdict.Group]] = {}
    for group in groups:
        if group.value is not None:
            kind = " σ" if group.rate.startswith("sigma") else " n:m" if "of" in group.rate else ""
            found.setdefault(group.method + kind, []).append(group)
    return {name: sorted(points, key=lambda group: group.sparsity) for name, points in found.items()}


def against_sparsity(
    headline: Headline, groups, references: list[dict], limit_percent: float | None, sharp_percent: float
) -> Figure:
    """The headline over sparsity with dense and its controls as lines, each the mean over seeds; `references`: their
    rows. limit_percent: how much worse than dense a deployed model may be, None: no limit."""
    lines, spread = series(groups), _values(headline, references)
    unpruned = {name: value for name, (value, _, _) in spread.items()}
    dense = unpruned["dense"]
    style = Style([group.method for group in groups])
    frame = _frame(headline, lines, unpruned, limit_percent, sharp_percent)
    one_panel = frame.shows_all
    with rc_context(look()):
        if len(lines) > EIGHT:
            return _panels(headline, lines, style, dense, frame.best, _worse(headline, dense, 3 * sharp_percent))
        figure = Figure(figsize=(13.4, 6.0), layout="constrained")
        panels = figure.subplots(1, 1 if one_panel else 2, squeeze=False)[0]
        near = panels[0]
        for axes in panels:
            axes.axhline(dense, color=LIGHT["ink"], linewidth=1.1)
            axes.plot([0], [dense], marker="*", markersize=13, color=LIGHT["ink"], gid="name:dense", clip_on=False)
            for points in lines.values():
                _line(axes, points, style[points[0].method], headline)
            axes.set_xlim(-2, 102 * max(points[-1].sparsity for points in lines.values()))
            axes.set_xlabel("weights removed, % of the prunable ones")
        low, high = sorted((frame.best, frame.worst))
        near.set_ylim(low, high)
        near.set_ylabel(f"{headline.name}, {headline.unit}")
        marks = [(dense, f"dense {dense:{headline.form}}")]
        if limit_percent is not None:
            limit = _worse(headline, dense, limit_percent)
            near.axhline(limit, color=LIGHT["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
            marks.append((limit, f"limit {'+' if headline.sign > 0 else '−'}{limit_percent:g} %"))
        drawn = [name for name in unpruned if name in CONTROLS or name.startswith(IN_PRECISION)]
        for place, control in enumerate(drawn):
            near.axhline(unpruned[control], color=LIGHT["muted"], linewidth=0.8, linestyle=(0, (6, 3)))
            if math.isfinite(spread[control][1]):
                bar = {"color": LIGHT["muted"], "linewidth": 1.2, "gid": f"name:{control}: interval over seeds"}
                beside = (place // 2 + 1) * (-1, 1)[place % 2]  # of dense's star, left and right in turn
                near.vlines(beside, *spread[control][1:], **bar)
            marks.append((unpruned[control], f"{CONTROLS.get(control, control)} {unpruned[control]:{headline.form}}"))
        names = [(points[-1].value[0], name, style[points[0].method]["color"]) for name, points in lines.items()]
        margin_labels(figure, near, [*names, *((y, text, LIGHT["muted"]) for y, text in marks)], low, high)
        if not one_panel:
            near.set_title(f"Near dense: up to {sharp_percent:g} % {headline.beyond} it")
            panels[1].set_title("Whole range")
            margin_labels(figure, panels[1], [*names, (dense, "dense", LIGHT["ink"])], *panels[1].get_ylim())
        return figure


class _Frame(NamedTuple):
    """From where to where the panel near dense goes, and whether that is all there is to see."""

    best: float
    worst: float
    shows_all: bool


def _frame(headline: Headline, lines, unpruned: dict, limit_percent: float | None, sharp_percent: float) -> _Frame:
    """Everything that is better than dense, and as far into the worse as a sharp rise (or fall) begins."""
    sign, dense = headline.sign, unpruned["dense"]  # times `sign`, less is better
    points = [[sign * value for value in group.value] for points in lines.values() for group in points]
    known = [[value for value in point if math.isfinite(value)] for point in points]
    worst, most = sign * _worse(headline, dense, sharp_percent), max(max(point) for point in known)
    best = min([min(point) for point in known] + [sign * value for value in unpruned.values()])
    nothing_near = min(middle for middle, *_ in points) > worst
    shows_all = most <= worst or nothing_near
    if shows_all:
        worst = max(most, sign * _worse(headline, dense, limit_percent or 0)) * (1 + 0.002 * sign)
    return _Frame(sign * (best - 0.08 * (worst - best)), sign * worst, shows_all)


def _worse(headline: Headline, dense: float, percent: float) -> float:
    """What is so many percent worse than dense's."""
    return dense * (1 + headline.sign * percent / 100)


def _values(headline: Headline, rows: list[dict]) -> dict[str, stats.Interval]:
    """Headline over seeds of every row that nothing was pruned of and whose one is known, by its id: (mean, lo, hi).

    As of a group of pruned ones, the interval is that of the difference to dense; of one seed it is unknown (nan).
    """
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row[headline.column] is not None:
            found.setdefault(row["variant"], []).append(row)
    means = {name: sum(row[headline.column] for row in rows) / len(rows) for name, rows in found.items()}
    apart = {name: stats.seed_interval([row[headline.diff] for row in rows]) for name, rows in found.items()}
    return {name: (means[name], *(means[name] + end - mean for end in ends)) for name, (mean, *ends) in apart.items()}


def _line(axes, points, style: dict, headline: Headline) -> None:
    """One method's curve with its intervals; every point names its variant under the pointer."""
    if not any("of" in group.rate for group in points):  # an n:m pattern is a point, not a curve
        x, y = [100 * group.sparsity for group in points], [group.value[0] for group in points]
        axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
    for group in points:
        name = f"{group.first['variant']}: {group.value[0]:{headline.form}}"
        _point(axes, 100 * group.sparsity, group.value[0], style, name)
        if math.isfinite(group.value[1]):
            axes.vlines(100 * group.sparsity, *group.value[1:], color=style["color"], linewidth=1.2)
        if len(group.rows) > 1:
            x, values = 100 * group.sparsity, [row[headline.column] for row in group.rows]
            axes.scatter([x] * len(values), values, s=7, color=style["color"], alpha=0.5, linewidths=0)


def _point(axes, x: float, y: float, style: dict, name: str, **changes) -> None:
    marker = {"marker": style["marker"], "markerfacecolor": style["markerfacecolor"], "markersize": 5.5, **changes}
    axes.plot([x], [y], color=style["color"], linestyle="none", gid=f"name:{name}", **marker)


def _panels(headline: Headline, lines: dict, style: Style, dense: float, best: float, worst: float) -> Figure:
    """One panel a method, the others in grey; what is worse than the panel stands as a triangle at its edge."""
    across = 4
    down = -(-len(lines) // across)
    figure = Figure(figsize=(13.4, 0.6 + 2.5 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, points) in zip(grid, lines.items(), strict=False):
        for other in lines.values():
            heights = [group.value[0] for group in other]
            axes.plot([100 * group.sparsity for group in other], heights, color=LIGHT["grid"], linewidth=0.8)
        axes.axhline(dense, color=LIGHT["ink"], linewidth=0.9)
        own = style[points[0].method]
        _line(axes, points, own, headline)
        for group in points:
            if headline.sign * group.value[0] > headline.sign * worst:
                variant = f"{group.first['variant']}: {group.value[0]:{headline.form}}"
                _point(axes, 100 * group.sparsity, worst, own, variant, marker=_edge(headline), clip_on=False)
        axes.set_title(name, color=own["color"])
        axes.set_ylim(*sorted((best, worst)))
    for axes in grid[len(lines) :]:
        axes.set_visible(False)
    figure.supxlabel("weights removed, % of the prunable ones", fontsize=12, color=LIGHT["muted"])
    figure.supylabel(f"{headline.name}, {headline.unit}", fontsize=12, color=LIGHT["muted"])
    return figure


def _edge(headline: Headline) -> str:
    """The marker of what lies beyond the edge where worse is."""
    return "^" if headline.lower_is_better else "v"


COSTS = {
    "packed_bytes": ("Size", "stored, MB", 1e-6),
    "decode_ratio": ("Time", "decoding time relative to dense", 1.0),
    "decode_j_per_token": ("Energy", "J a decoded token", 1.0),
}


def tradeoffs(headline: Headline, rows: list[dict], dense: dict, worst_percent: float) -> Figure | None:
    """The headline against size, time and energy, the frontier of size drawn; None when nothing was measured.

    Energy that is only modelled stands in grey and without names: it repeats the time axis and ranks nothing.
    """
    # What was not timed itself stands in no time or energy: its point would hide the one it took them from.
    rows = [
        row | ({"decode_ratio": None, "decode_j_per_token": None} if row["timed_as"] else {})
        for row in rows
        if row[headline.column] is not None
    ]
    pruned = [row for row in rows if row["rate"] is not None]
    several = len({row["seed"] for row in rows}) > 1
    shown = [cost for cost in COSTS if any(row[cost] is not None for row in pruned)]
    if not shown:
        return None
    style = Style([row["method"] for row in pruned])
    sign, column = headline.sign, headline.column
    values = [sign * row[column] for row in rows]  # less is better
    worst, best = min(sign * _worse(headline, dense[column], worst_percent), max(values)), min(values)
    ends = sign * (best - 0.09 * (worst - best)), sign * (worst + 0.02 * (worst - best))
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 5.4), layout="constrained")
        for axes, cost in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
            title, label, scale = COSTS[cost]
            modelled = cost == "decode_j_per_token" and any(row["energy_estimated"] for row in pruned)
            axes.set_ylim(*sorted(ends))
            scene = _Scene(headline, dense, cost, scale, sign * worst)
            _costs(axes, scene, pruned, None if modelled else style, several)
            if cost in ("packed_bytes", "decode_ratio"):
                _rivals(axes, scene, rows)
            for row in verdict.alternatives(rows):
                if row[cost] is not None:
                    at = row[cost] * scale, scene.height(row)
                    axes.plot(*at, marker="*", markersize=10, color=LIGHT["ink"], markerfacecolor="none")
                    if row["seed"] == dense["seed"]:
                        axes.annotate(row["variant"], at, (6, 5), textcoords="offset points", fontsize=10.5)
            axes.set_title(f"{title} (estimated: time × modelled power)" if modelled else title)
            axes.set_xlabel(f"{label}, estimated" if modelled else label)
            axes.locator_params(axis="x", nbins=5)
            if cost == "packed_bytes":
                largest = max(row[cost] or row["dense_bytes"] or 0 for row in rows)
                axes.set_xlim(0, 1.08 * largest * scale)  # from zero, so that half as far right is half as large
        figure.axes[0].set_ylabel(f"{headline.name}, {headline.unit}")
        return figure


class _Scene(NamedTuple):
    """One panel of costs: what stands where, up to the headline's `worst` value that it shows."""

    headline: Headline
    dense: dict
    cost: str
    scale: float
    worst: float

    def beyond(self, row: dict) -> bool:
        return self.headline.sign * row[self.headline.column] > self.headline.sign * self.worst

    def height(self, row: dict) -> float:
        return self.worst if self.beyond(row) else row[self.headline.column]


def _costs(axes, scene: _Scene, pruned: list[dict], style, several: bool) -> None:
    headline, dense, cost, scale, _ = scene
    column = headline.column
    if cost == "decode_ratio" and dense.get("decode_smallest_effect") is not None:
        effect = dense["decode_smallest_effect"]
        axes.axvspan(1 - effect, 1 + effect, color=LIGHT["grid"], alpha=0.6, linewidth=0)
    grey = {"color": LIGHT["neutral"], "marker": "o", "markerfacecolor": "none"}
    for row in pruned:
        if row[cost] is None:
            continue
        own = style[row["method"]] if style else grey
        changes = {"marker": _edge(headline), "clip_on": False} if scene.beyond(row) else {}
        x, y = row[cost] * scale, scene.height(row)
        told = f"{x:.4g}, {headline.name} {row[column]:{headline.form}}"
        _point(axes, x, y, own, f"{results.label(row['path'], several)}: {told}", **changes)
        if row.get(f"{cost}_lo") is not None:
            bounds = row[f"{cost}_lo"] * scale, row[f"{cost}_hi"] * scale
            axes.hlines(y, *bounds, color=own["color"], linewidth=0.9, alpha=min(0.6, 20 / len(pruned)))
    if cost == "packed_bytes":
        best = [row for row in verdict.frontier(pruned, cost, headline) if not scene.beyond(row)]
        x, y = [row[cost] * scale for row in best], [row[column] for row in best]
        axes.step(x, y, where="post", color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        points = [(row[cost] * scale, scene.height(row)) for row in pruned if row[cost] is not None]
        names = [(row[cost] * scale, row[column], results.label(row["path"], several)) for row in best]
        spot_labels(axes, names, points)
    own = {"packed_bytes": dense["dense_bytes"], "decode_ratio": 1.0}.get(cost, dense[cost])
    if own is not None:
        axes.plot([own * scale], [dense[column]], marker="*", markersize=13, color=LIGHT["ink"], gid="name:dense")
        at = own * scale, dense[column]
        axes.annotate("dense", at, (0, -16), textcoords="offset points", ha="center", fontsize=11, color=LIGHT["ink"])


def _rivals(axes, scene: _Scene, rows: list[dict]) -> None:
    """The line that pruning has to be better than: the dense model as given and in fewer bits, of the first seed."""
    _, dense, cost, scale, _ = scene
    own = {"packed_bytes": dense["dense_bytes"], "decode_ratio": 1.0}[cost]
    held = [(row[cost], row) for row in rows if is_rival(row["variant"]) and row["seed"] == dense["seed"]]
    points = sorted((x * scale, scene.height(row)) for x, row in [(own, dense), *held] if x is not None)
    if len(points) > 1:
        line = {"color": LIGHT["ink"], "linewidth": 1.0, "linestyle": (0, (4, 2)), "alpha": 0.7}
        axes.plot(*zip(*points, strict=True), gid="name:dense in fewer bits, unpruned", **line)


def training_curve(curves: dict) -> Figure:
    """Training and validation loss over optimizer steps; `curves`: the frame of history/curve.csv by dense model.

    The first model is labelled, those of further seeds stand thin behind it."""
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 4.4), layout="constrained")
        axes, labels = figure.subplots(), []
        for number, (model, table) in enumerate(curves.items()):
            for column, colour, name in (
                ("train_loss", "neutral", "training"),
                ("validation_loss", "vermillion", "validation"),
            ):
                known = table.dropna(subset=[column])
                if known.empty:
                    continue
                thin = {"linewidth": 0.8, "alpha": 0.5} if number else {"linewidth": 1.8}
                axes.plot(known["step"], known[column], color=LIGHT[colour], gid=f"name:{model} {name}", **thin)
                if number == 0:
                    last = float(known[column].iloc[-1])
                    labels.append((last, f"{name} {last:.3f}", LIGHT[colour]))
                    if column == "validation_loss":
                        best = known.loc[known[column].idxmin()]
                        axes.plot([best["step"]], [best[column]], marker="o", markersize=6, color=LIGHT[colour])
                        text = f"lowest: {best[column]:.4f} at step {best['step']:,.0f}"
                        at = {"textcoords": "offset points", "ha": "right", "fontsize": 11, "color": LIGHT["muted"]}
                        axes.annotate(text, (best["step"], best[column]), (-4, 14), **at)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats a token")
        axes.margins(x=0.01, y=0.12)
        margin_labels(figure, axes, labels, *axes.get_ylim())
        return figure


SHOWN = 40  # paths a panel: more is a carpet
KIND_COLOURS = dict(zip(evolution.KINDS, ("vermillion", "neutral", "blue", "purple"), strict=True))


def trajectories(paths: list[evolution.Path]) -> Figure:
    """Sampled weights over training, a panel for each kind of evolution; those that were named in ink."""
    share, thin = evolution.shares(paths), {"linewidth": 1, "alpha": 0.75}
    with rc_context(look()):
        figure = Figure(figsize=(13.4, 4.2), layout="constrained")
        for axes, kind in zip(figure.subplots(1, 4, sharex=True, sharey=True), evolution.KINDS, strict=True):
            colour = LIGHT[KIND_COLOURS[kind]]
            mine = [path for path in paths if path.kind == kind and not path.named]
            asked = [path for path in paths if path.kind == kind and path.named]
            axes.axhline(0, color=LIGHT["muted"], linewidth=0.8)
            for path in (*mine[:: -(-len(mine) // SHOWN) or 1], *asked):
                line = {"color": LIGHT["ink"], "linewidth": 1.8} if path.named else thin | {"color": colour}
                axes.plot(path.steps, path.values, gid=f"name:{path.name}", **line)
            axes.set_title(f"{kind}: {100 * share[kind]:.0f} %", color=colour)
            axes.locator_params(axis="x", nbins=4, integer=True)
        figure.axes[0].set_ylabel("value of the weight")
        figure.supxlabel("optimizer step", fontsize=12, color=LIGHT["muted"])
        return figure
