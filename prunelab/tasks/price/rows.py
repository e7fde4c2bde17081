"""Rows of picture, text and price: what tables hold becomes what a model is asked, row by row or not at all.

A row that cannot be used (no price, a price that is none, an empty column of a template, no picture) is a `Problem`
with its place and reason; whether problems end the stage or are left out is for `preparing`.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.data import reading
from prunelab.errors import InputError
from prunelab.study.pricing import ROW
from prunelab.tasks.price import templates
from prunelab.tasks.price.bringing import numbers
from prunelab.tasks.price.bringing.tables import Raw

PARTS = ("train", "validation", "test")
FOLDER = "price"  # below the folder of the stage fetch
ADDRESSES = ("http://", "https://")


class Row(NamedTuple):
    id: str  # its table and number: "rows.csv#7"
    where: str  # the same for people: "rows.csv, line 8"
    item: str  # what it is a row of; its own id where no column says
    picture: Path | str | bytes  # a file, an address, or the picture itself
    price: float
    columns: dict[str, Any]  # those that the settings name
    prompt: str  # with templates.PLACE where the picture stands
    answer: str


class Problem(NamedTuple):
    where: str
    reason: str


def read(raws: Iterable[Raw], name: str, place: Path | None, anywhere: bool, price) -> Iterator[Row | Problem]:
    """What the rows of the table `name` become, as the settings `price` say.

    place: the folder of the table, where its pictures are looked for; None where they are in the rows themselves.
    anywhere: whether a path may lead out of it, as on the user's own disk.
    """
    used = price.used()
    for raw in raws:
        values = {ROW: raw.number, **raw.values}
        identifier = f"{name}#{raw.number}"
        try:
            cost = price_of(values, price)
            kept = {
                key: _plain(value)
                for key, value in raw.values.items()
                if key != price.columns.price and (key in used or place is None) and _is_scalar(value)
            }
            yield Row(
                id=identifier,
                where=raw.where,
                item=templates.shown(values, price.columns.item) if price.columns.item else identifier,
                picture=_picture(values, price.columns.picture, place, anywhere),
                price=cost,
                columns=kept,
                prompt=templates.prompt(price.prompt, values),
                answer=templates.answer(price.answer, values, cost, price.decimals),
            )
        except ValueError as error:
            yield Problem(raw.where, str(error))


def price_of(values: dict[str, Any], price) -> float:
    """A row's price. Raises ValueError where it has none that a model could learn: missing, no number, 0, negative."""
    name = price.columns.price
    value = values.get(name)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"column {name!r}: expected a price, found none")
    if isinstance(value, str):
        try:
            value = numbers.of_data(value, price.currency, price.decimal)
        except ValueError as error:
            raise ValueError(f"column {name!r}: expected a price, found that {error}") from None
    elif isinstance(value, bool) or not hasattr(value, "__float__"):
        raise ValueError(f"column {name!r}: expected a price, found {reading.kind(value)}")
    cost = float(value)
    if not 0 < cost < float("inf"):
        raise ValueError(f"column {name!r}: expected a price above 0, found {cost:g}")
    if float(f"{cost:.{price.decimals}f}") == 0:
        raise ValueError(f"column {name!r}: {cost:g} is 0 with {price.decimals} decimals; raise price.decimals")
    return cost


def of_part(data: Path, part: str) -> list[dict]:
    """The rows of `part` (one of PARTS) that the stage fetch wrote into the folder `data`.

    Each is a dict of id, item, where, picture (its path below data/price), sha256 (of the picture), price, columns,
    prompt, answer. Raises InputError where they are not there.
    """
    return of_folder(Path(data) / FOLDER, part)


def of_folder(folder: Path, part: str) -> list[dict]:
    """As `of_part`, of the folder with these files itself."""
    path = Path(folder) / f"{part}.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro fetch)")
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _is_scalar(value) -> bool:
    return not isinstance(value, bytes | dict | list)


def _plain(value):
    """A value as JSON has it: dates and decimals of Parquet as text, no number as nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _picture(values: dict[str, Any], column: str, place: Path | None, anywhere: bool) -> Path | str | bytes:
    """Where a row's picture is. Raises ValueError where it has none, or one out of the source."""
    if "{" in column:
        named: Any = templates.fill(column, values)
    else:
        named = values.get(column)
        if isinstance(named, dict):  # as the hub's data sets store pictures: {"bytes": …, "path": …}
            named = named.get("bytes") or named.get("path")
        if isinstance(named, bytes):
            return named
        if isinstance(named, str):
            named = named.strip()
    if named is None or named == "":
        raise ValueError(f"column {column!r}: expected a picture, found none")
    if not isinstance(named, str):
        raise ValueError(
            f"column {column!r}: expected a picture's file, address or bytes, found {type(named).__name__}"
        )
    if named.lower().startswith(ADDRESSES):
        return named
    if place is None:
        raise ValueError(
            f"picture {named!r}: cards are drawn, not read from a file; set price.columns.picture: picture"
        )
    path = Path(os.path.normpath(place / named))
    # Not resolved: the hub's cache is made of links that lead out of it.
    if not anywhere and not path.is_relative_to(os.path.normpath(place)):
        raise ValueError(f"picture {named!r}: expected a file inside the source, found one outside")
    return path
