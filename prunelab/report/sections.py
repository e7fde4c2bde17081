"""A task's sections as HTML: the page's own macros, letters and colours around what prunelab/fragments.py holds."""

import base64
from typing import NamedTuple

from markupsafe import Markup

from prunelab.fragments import Picture, Section, Table, Tile
from prunelab.report import drawing


class Drawn(NamedTuple):
    id: str
    title: str
    html: Markup


class _Chart(NamedTuple):
    svg: Markup
    caption: str


class _Image(NamedTuple):
    source: str  # a data URI
    title: str
    lines: list[tuple[str, str, str]]


def drawn(environment, sections: list[Section], worse: int) -> list[Drawn]:
    """Each section as the template section.html.j2 of the page's `environment` draws it.

    worse: the sign of a difference in the task's headline figure that is for the worse.
    """
    template = environment.get_template("section.html.j2")
    return [
        Drawn(
            section.id,
            section.title,
            Markup(template.render(section=section, worse=worse, parts=[_part(part) for part in section.parts])),
        )
        for section in sections
    ]


def _part(part) -> tuple:
    """(what it is to the template, what is drawn)."""
    if isinstance(part, str):
        return "words", part
    if isinstance(part, Table):
        return "table", part
    if isinstance(part, Picture):
        return "chart", _Chart(Markup(drawing.inline(part.draw(drawing), part.label)), part.caption)
    if part and isinstance(part[0], Tile):
        return "tiles", [_Image(_uri(tile.jpeg), tile.title, tile.lines) for tile in part]
    return "claims", part


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
