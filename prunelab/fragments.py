"""Pieces of a report as plain data: tables, claims, pictures to be drawn, galleries.

Who has something to tell says it in these, and prunelab/report gives it its look; so a task adds sections without
knowing the page, and its numbers, signs and intervals look like all others.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Column(NamedTuple):
    name: str
    unit: str = ""
    words: bool = False  # left-aligned, sorted as text


class Cell(NamedTuple):
    text: str
    value: float | str | None = None  # what it sorts by; None stands last
    mark: str = ""  # a CSS class
    hint: str = ""  # shown under the pointer


class Table(NamedTuple):
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]  # (CSS class of the row, its cells)


class Claim(NamedTuple):
    question: str
    status: str  # holds | holds in part | does not hold | open
    answer: str  # names of variants in backticks
    figures: tuple[tuple[str, str, int], ...] = ()  # (rate, difference with its interval, sign where it is certain)


class Picture(NamedTuple):
    """A chart. draw(drawing) → a matplotlib figure, in the colours and letters of the report's module `drawing`."""

    draw: Callable[[Any], Any]
    label: str  # for those who cannot see it
    caption: str


class Tile(NamedTuple):
    """A small picture with what stands under it: (name, text, CSS class) a line."""

    jpeg: bytes
    title: str
    lines: list[tuple[str, str, str]]


class Section(NamedTuple):
    """A heading and what stands under it, in this order: words (backticks are code), tables, claims, charts, tiles."""

    id: str
    title: str
    parts: list[str | Table | Picture | list[Claim] | list[Tile]]


UNKNOWN = Cell("–")


def minus(text: str) -> str:
    """A minus is a minus and not a hyphen."""
    return text.replace("-", "−")


def number(value, form: str = ".4f", scale: float = 1, mark: str = "") -> Cell:
    """A number in `form`; unknown is a dash, and a minus is a minus and not a hyphen."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNKNOWN
    return Cell(minus(format(value * scale, form)), value * scale, mark)


def bounded(triple, form: str = "+.2f", mark: str = "") -> Cell:
    """A number with its 95 % interval; (mean, lo, hi), where unknown ends leave the mean alone."""
    cell = number(triple[0], form, mark=mark)
    if cell is UNKNOWN or any(end is None or math.isnan(end) for end in triple[1:3]):
        return cell
    return cell._replace(text=f"{cell.text} [{minus(format(triple[1], form))}, {minus(format(triple[2], form))}]")


def shared(share: float | None, error: float | None) -> Cell:
    """A share in percent with its standard error: `51.2 ± 5.6`."""
    cell = number(share, ".1f", 100)
    return cell if cell is UNKNOWN or error is None else cell._replace(text=f"{cell.text} ± {100 * error:.1f}")


def words(text, mark: str = "", hint: str = "") -> Cell:
    return Cell(str(text), str(text), mark, hint) if text not in (None, "") else UNKNOWN


def ends(row: dict, key: str) -> tuple:
    """(mean, lo, hi) of a figure that a row holds with its interval."""
    return row.get(key), row.get(f"{key}_lo"), row.get(f"{key}_hi")


def interval(triple, form: str = "+.1f", unit: str = "") -> str:
    """`(1.0, 0.5, 1.5)` → "+1.0 [+0.5, +1.5]"; without a known interval the mean alone."""
    mean, lo, hi = triple[:3]
    known = lo == lo and hi == hi
    return minus(f"{mean:{form}}{unit}" + (f" [{lo:{form}}, {hi:{form}}]" if known else " (no interval)"))


def rate_name(rate: str) -> str:
    """`60` → 60 %, `2of4` → 2:4, `sigma112` → PruneRate 1.12."""
    if rate.startswith("sigma"):
        return f"PruneRate {int(rate[5:]) / 100:g}"
    return rate.replace("of", ":") if "of" in rate else f"{rate} %"


def rate_names(rates: list[str], among: list[str] = ()) -> str:
    """`["20", "40", "2of4"]` → "20, 40 % and 2:4"; three or more that follow each other in `among` → "20 to 60 %"."""
    runs: list[list[str]] = []
    for rate in rates:
        follows = runs and runs[-1][-1] in among and among.index(runs[-1][-1]) + 1 < len(among)
        if follows and among[among.index(runs[-1][-1]) + 1] == rate and rate.isdigit() == runs[-1][-1].isdigit():
            runs[-1].append(rate)
        else:
            runs.append([rate])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 3 else run)]
    last = max((number for number, part in enumerate(parts) if part[0].isdigit() and "of" not in part), default=-1)
    names = [  # "20, 40 %", not "20 %, 40 %"
        f"{part} %" if number == last else part if part[0].isdigit() and "of" not in part else rate_name(part)
        for number, part in enumerate(parts)
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
