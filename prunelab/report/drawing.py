"""How the report's pictures look: colours, letters, labels, and the way into a page or a file.

Colour says what a method ranks by, the line what it keeps (solid: the final weights, dashed: the averaged clone), the
marker tells both apart in grey. In a page every colour is a CSS variable, so that one SVG suits light and dark.
"""

import io
import re

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure

from prunelab.recipes.methods import METHODS
from prunelab.recipes.variants import split_method

# name: (light, dark). After Okabe and Ito: told apart with any of the common kinds of colour blindness.
PALETTE = {
    "ink": ("#1b1f24", "#e6e8eb"),
    "muted": ("#656d76", "#9aa3ad"),
    "grid": ("#dde1e6", "#363c44"),
    "neutral": ("#9aa0a6", "#7b838c"),
    "plain": ("#30363d", "#cfd5dc"),
    "vermillion": ("#d55e00", "#ff8b3d"),
    "blue": ("#0072b2", "#4fb0ea"),
    "green": ("#00916a", "#31c79b"),
    "purple": ("#b0569b", "#e298cf"),
    "amber": ("#b98300", "#edbb3a"),
    "sky": ("#3d9fd3", "#8fd0f5"),
    "brown": ("#7a5230", "#c79a72"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
BY_SCORE = {"random": "neutral", "magnitude": "plain", "history": "vermillion", "wanda": "blue", "sparsegpt": "green"}
SPARE = ("purple", "amber", "sky", "brown", "blue", "green")
MARKERS = "osD^vPX*<>hp"
FONTS = ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"]


def look() -> dict:
    known = set(font_manager.get_font_names())
    return {
        "font.family": [name for name in FONTS if name in known],  # matplotlib complains of every missing one
        "font.size": 12,
        "svg.hashsalt": "prunelab",  # equal content, equal bytes
        "text.color": LIGHT["ink"],
        "axes.edgecolor": LIGHT["muted"],
        "axes.labelcolor": LIGHT["muted"],
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LIGHT["grid"],
        "grid.linewidth": 0.8,
        "xtick.color": LIGHT["muted"],
        "ytick.color": LIGHT["muted"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }


def inline(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element whose colours are CSS variables, with `label` for those who cannot see it."""
    out = io.StringIO()
    with rc_context({**look(), "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'<g id="name:([^"]*)"([^>]*)>', r"<g\2><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # figure_1, axes_1, …: the page holds several figures
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    box = re.search(r'viewBox="([^"]*)"', svg)[1]
    svg = re.sub(r"<svg [^>]*>", f'<svg viewBox="{box}" role="img" aria-label="{label}">', svg, count=1, flags=re.S)
    return svg.replace("xlink:href", "href")


def save(figure: Figure, path, kind: str | None = None) -> None:
    """The figure as a file on white, letters as outlines: it looks the same everywhere. kind: svg or png, where the
    file's name doesn't say it."""
    kind = kind or str(path).rpartition(".")[2]
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({**look(), "svg.fonttype": "path"}):
        figure.savefig(path, format=kind, facecolor="white", dpi=160, metadata=metadata)


class Style:
    """Colour, dash and marker of every method of a study."""

    def __init__(self, methods: list[str]):
        self._of, colours = {}, dict(BY_SCORE)
        for number, name in enumerate(dict.fromkeys(methods)):
            base, allocation = split_method(name)
            rule = METHODS.get(base)
            ranked_by = rule.score if rule else base
            colour = colours.setdefault(ranked_by, SPARE[(len(colours) - len(BY_SCORE)) % len(SPARE)])
            averaged = rule is not None and rule.keep == "average"
            dash = (0, (4, 2)) if averaged else (0, (1, 1.5)) if allocation else "-"
            self._of[name] = {
                "color": LIGHT[colour],
                "linestyle": dash,
                "marker": MARKERS[number % len(MARKERS)],
                "markerfacecolor": "none" if averaged else LIGHT[colour],
            }

    def __getitem__(self, method: str) -> dict:
        return self._of[method]


def margin_labels(figure: Figure, axes, items: list[tuple[float, str, str]], lo: float, hi: float) -> None:
    """Names right of the axes at the heights of what they name, moved apart just as far as letters need."""
    items = sorted(item for item in items if lo <= item[0] <= hi)
    gap = 15 / (figure.get_figheight() * 72 * 0.8)  # a line of text as a fraction of the axes' height
    wanted = [(y - lo) / (hi - lo) for y, _, _ in items]
    for (_, text, colour), height, at in zip(items, wanted, spread(wanted, gap), strict=True):
        line = {"color": colour, "linewidth": 0.7, "clip_on": False, "transform": axes.transAxes}
        axes.plot([1.0, 1.018], [height, at], **line)
        axes.text(1.025, at, text, color=colour, va="center", ha="left", transform=axes.transAxes, fontsize=11.5)


def spot_labels(axes, spots: list[tuple[float, float, str]], points: list[tuple[float, float]]) -> None:
    """Names beside `spots` (x, y, name), on the first of four sides that is free of other names and of `points`; one
    that finds no room is left out, because the pointer still tells it. The first spots choose first."""
    size = 10.5  # of the letters, points
    width, height = (axes.get_position().size * axes.figure.get_size_inches()) * 72  # of the axes, points
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left) * width, (y - low) / (high - low) * height

    taken = [(h - 3, v - 3, h + 3, v + 3) for h, v in (place(x, y) for x, y in points)]
    for x, y, name in spots:
        at = place(x, y)
        wide, tall = 0.56 * size * len(name), 1.25 * size
        for dx, dy in ((7, 5), (-7 - wide, 5), (7, -5 - tall), (-7 - wide, -5 - tall)):
            box = at[0] + dx, at[1] + dy, at[0] + dx + wide, at[1] + dy + tall
            inside = box[0] >= 0 and box[2] <= width * 1.05 and box[1] >= 0
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                style = {"textcoords": "offset points", "fontsize": size, "color": LIGHT["ink"], "va": "bottom"}
                axes.annotate(name, (x, y), (dx, dy), **style)
                taken.append(box)
                break


def spread(heights: list[float], gap: float) -> list[float]:
    """Rising heights in 0…1, moved as little as needed so that neighbours are at least `gap` apart."""
    blocks: list[list[float]] = []  # [sum of wanted positions of the first entry, members]
    for height in heights:
        blocks.append([height, 1])
        while len(blocks) > 1 and _start(blocks[-2]) + blocks[-2][1] * gap > _start(blocks[-1]):
            total, members = blocks.pop()
            blocks[-1][0] += total - members * blocks[-1][1] * gap
            blocks[-1][1] += members
    moved = [_start(block) + number * gap for block in blocks for number in range(int(block[1]))]
    over = max(0.0, (moved[-1] if moved else 0.0) - 1.02)
    return [height - over for height in moved]


def _start(block: list[float]) -> float:
    return block[0] / block[1]
