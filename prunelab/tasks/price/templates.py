"""What a model is asked and what it should answer: templates over a row's columns, and how its price is read back.

A column stands in braces, `{rooms}`; `{picture}` is where the picture stands in a prompt, `{price}` the price in an
answer, with `decimals` digits behind its point, and `{row}` the number of the row in its table, from 1. `{price:03}`
has at least three digits before the point (`045`), which is easier to learn letter by letter.
"""

import string
from collections.abc import Mapping
from typing import Any

from prunelab.study.pricing import PICTURE, PRICE
from prunelab.tasks.price.bringing import numbers

PLACE = f"{{{PICTURE}}}"  # what stands for the picture in a filled prompt


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with the values of its columns, the picture's place left as PLACE.

    Raises ValueError for a column that the row has not, or that is empty: a picture without its text teaches nothing.
    """
    written = []
    for literal, name, form, _ in string.Formatter().parse(template):
        written.append(literal)
        if name == PICTURE:
            written.append(PLACE)
        elif name is not None:
            text = shown(values, name)
            if PLACE in text:
                raise ValueError(f"column {name!r} holds {PLACE} itself; where the picture stands, the prompt says")
            written.append(_padded(text, int(form)) if form else text)
    return "".join(written)


def prompt(template: str, values: Mapping[str, Any]) -> str:
    """What the model is asked, with PLACE where the picture stands. Raises ValueError as `fill` does."""
    return fill(template, values)


def answer(template: str, values: Mapping[str, Any], price: float, decimals: int) -> str:
    """What the model should answer. Raises ValueError as `fill` does."""
    return fill(template, {**values, PRICE: f"{price:.{decimals}f}"})


def price_in(text: str, template: str, currency: str, decimals: int) -> float | None:
    """The price in an answer `text` that a model wrote after `template`; None where there is none.

    It is the number behind the words that stand before `{price}` in the template, where they come first in the text;
    at the beginning of the text where no words do. How numbers are written: `numbers`.
    """
    words = next(literal for literal, name, _, _ in string.Formatter().parse(template) if name == PRICE).strip()
    place = text.find(words)
    return None if place < 0 else numbers.in_answer(text[place + len(words) :], currency, decimals)


def shown(values: Mapping[str, Any], name: str) -> str:
    """The value of a column as it stands in a text. Raises ValueError where there is none."""
    if name not in values:
        raise ValueError(f"column {name!r} is missing")
    value = values[name]
    if isinstance(value, float):
        if value != value:
            raise ValueError(f"column {name!r} is empty")
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if not isinstance(value, str | int | bool) and value is not None:
        raise ValueError(f"column {name!r}: expected a text or a number, found {type(value).__name__}")
    text = "" if value is None else " ".join(str(value).split())  # a line end would end the prompt of many a model
    if not text:
        raise ValueError(f"column {name!r} is empty")
    return text


def _padded(text: str, digits: int) -> str:
    whole, point, cents = text.partition(".")
    return whole.zfill(digits) + point + cents
