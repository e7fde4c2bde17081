"""Drawn product cards: pictures with a text whose price is a known function of both, so that errors have a floor.

A card shows a shape (4) of a colour (6) and size (3), no to five stars, and a letter printed on a tag; its condition
and how many are in the pack stand in the text alone. Its price is

    BASE x the factor of each of these x noise,   log noise ~ normal(0, NOISE), cut at CUT standard deviations,

rounded to whole units: 10 to 999, so three digits (`{price:03}`). Every property is drawn evenly and apart from the
others. So what a guesser can know at best is exact: the median of the price over all that it doesn't see (of everything
but noise for one who sees both, which is the noise floor of the mean absolute error).

Nothing here depends on fonts of the machine: letters and stars are drawn by hand.
"""

import functools
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from prunelab.tasks.price.bringing.tables import Raw

BASE, NOISE, CUT = 14.0, 0.08, 3.0
FACTORS: dict[str, dict[str, dict]] = {
    "picture": {
        "shape": {"disc": 1.0, "square": 1.3, "triangle": 2.0, "cross": 3.4},
        "colour": {"grey": 1.0, "green": 1.05, "blue": 1.1, "red": 1.16, "violet": 1.22, "gold": 1.3},
        "size": {"small": 1.0, "medium": 1.3, "large": 1.9},
        "stars": {0: 1.0, 1: 1.03, 2: 1.06, 3: 1.09, 4: 1.12, 5: 1.15},
        "letter": {"A": 1.0, "E": 1.05, "T": 1.1},
    },
    "text": {
        "condition": {"used": 1.0, "good": 1.2, "new": 1.5},
        "pack": {1: 1.0, 3: 1.5, 12: 3.4},
    },
}
COLUMNS = [*FACTORS["picture"], *FACTORS["text"], "price", "picture"]
# What a guesser sees, and which properties that are.
SEES = {"both": ("picture", "text"), "picture": ("picture",), "text": ("text",), "nothing": ()}

COLOURS = {
    "grey": (128, 128, 128), "green": (40, 150, 60), "blue": (40, 80, 200), "red": (205, 40, 40),
    "violet": (140, 50, 170), "gold": (225, 180, 30),
}  # fmt: skip
INK, PAPER, STAR = (20, 20, 20), (255, 255, 255), (235, 110, 20)
RADII = {"small": 8.0, "medium": 12.0, "large": 17.0}  # of a card of 64 pixels, as all lengths here
LETTERS = {
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "E": ("11111", "10000", "10000", "11110", "10000", "10000", "11111"),
    "T": ("11111", "00100", "00100", "00100", "00100", "00100", "00100"),
}


class Card(NamedTuple):
    number: int  # from 1
    columns: dict  # property → value
    price: int
    jitter: tuple[float, ...]  # where it is drawn and how bright, which means nothing: dx, dy, radius, paper, colour


def card(seed: int, number: int) -> Card:
    """Card `number` of a seed; the same whichever others are drawn."""
    dice = random.Random(f"{seed}/{number}")
    columns = {name: dice.choice(list(values)) for part in FACTORS.values() for name, values in part.items()}
    noise = math.inf
    while abs(noise) > CUT:
        noise = dice.gauss(0.0, 1.0)
    price = round(BASE * _factor(columns, SEES["both"]) * math.exp(NOISE * noise))
    jitter = tuple(dice.uniform(-1.0, 1.0) for _ in range(5))
    return Card(number, columns, price, jitter)


def rows(cards) -> Iterator[Raw]:
    """The cards that the section `price.cards` of the settings asks for, as rows with their pictures (PNG)."""
    import io

    for number in range(1, cards.count + 1):
        one = card(cards.seed, number)
        file = io.BytesIO()
        draw(one, cards.pixels).save(file, format="PNG")
        yield Raw(f"card {number}", number, {**one.columns, "price": one.price, "picture": {"bytes": file.getvalue()}})


def oracle(columns: dict, sees: str = "both") -> float:
    """The best guess, by mean absolute error, of a card's price for one who sees only that: a key of SEES.

    It is the median over everything else. `columns` may hold more than the card's properties, numbers also as texts.
    """
    return BASE * _factor(columns, SEES[sees]) * _median_of_unseen(sees)


def errors(prices: list[float], columns: list[dict]) -> dict[str, float]:
    """The mean absolute error of each oracle on these cards, and of the mean of all prices that there may be."""
    found = {
        sees: sum(abs(price - oracle(one, sees)) for price, one in zip(prices, columns, strict=True)) / len(prices)
        for sees in SEES
    }
    return found | {"mean": sum(abs(price - mean_price()) for price in prices) / len(prices)}


@functools.cache
def mean_price() -> float:
    """The mean of all prices that a card may have."""
    factors = _unseen("nothing")
    return BASE * float(factors.mean())


def _factor(columns: dict, parts: tuple[str, ...]) -> float:
    """The product of the factors of the properties of `parts`."""
    product = 1.0
    for part in parts:
        for name, values in FACTORS[part].items():
            known = {str(value): factor for value, factor in values.items()}
            product *= known[str(columns[name])]
    return product


@functools.cache
def _median_of_unseen(sees: str) -> float:
    import numpy as np

    return float(np.median(_unseen(sees)))


def _unseen(sees: str):
    """Every product of factors and noise that one who sees `sees` doesn't know, all equally likely: (n,)."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    steps = 401  # quantiles of the noise between its cuts; odd, so that its median is one of them
    levels = ndtr(-CUT) + (np.arange(steps) + 0.5) / steps * (1 - 2 * ndtr(-CUT))
    products = np.exp(NOISE * ndtri(levels))
    for part in FACTORS.keys() - set(SEES[sees]):
        for values in FACTORS[part].values():
            products = np.outer(products, list(values.values())).ravel()
    return products


def draw(one: Card, pixels: int):
    """The picture of a card: an RGB image of `pixels` x `pixels`."""
    from PIL import Image, ImageDraw

    scale = pixels / 64
    dx, dy, wider, brighter, paler = one.jitter
    paper = round(242 + 10 * brighter)
    image = Image.new("RGB", (pixels, pixels), (paper, paper, paper))
    pen = ImageDraw.Draw(image)
    colour = tuple(min(255, max(0, round(level + 10 * paler))) for level in COLOURS[one.columns["colour"]])
    _shape(pen, one.columns["shape"], 24 + 2 * dx, 26 + 2 * dy, RADII[one.columns["size"]] + wider, colour, scale)
    _tag(pen, one.columns["letter"], scale)
    for place in range(one.columns["stars"]):
        _star(pen, 7 + 10 * place, 57, 4.5, scale)
    return image


def _shape(pen, shape: str, x: float, y: float, radius: float, colour, scale: float) -> None:
    r, thick = radius, radius * 0.38
    if shape == "disc":
        pen.ellipse([(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale], fill=colour, outline=INK)
        return
    corners = {
        "square": [(-0.88 * r, -0.88 * r), (0.88 * r, -0.88 * r), (0.88 * r, 0.88 * r), (-0.88 * r, 0.88 * r)],
        "triangle": [(0, -r), (r, 0.8 * r), (-r, 0.8 * r)],
        "cross": [
            (-thick, -r), (thick, -r), (thick, -thick), (r, -thick), (r, thick), (thick, thick), (thick, r),
            (-thick, r), (-thick, thick), (-r, thick), (-r, -thick), (-thick, -thick),
        ],
    }[shape]  # fmt: skip
    pen.polygon([((x + a) * scale, (y + b) * scale) for a, b in corners], fill=colour, outline=INK)


def _tag(pen, letter: str, scale: float) -> None:
    """A white tag in the upper right corner, with its letter in blocks of two pixels."""
    left, top, block = 48, 3, 2
    pen.rectangle([left * scale, top * scale, (left + 14) * scale - 1, (top + 18) * scale - 1], fill=PAPER, outline=INK)
    for row, line in enumerate(LETTERS[letter]):
        for column, ink in enumerate(line):
            if ink == "1":
                x, y = left + 2 + block * column, top + 2 + block * row
                pen.rectangle([x * scale, y * scale, (x + block) * scale - 1, (y + block) * scale - 1], fill=INK)


def _star(pen, x: float, y: float, radius: float, scale: float) -> None:
    """A star of five points around (x, y)."""
    points = []
    for corner in range(10):
        length = radius if corner % 2 == 0 else radius * 0.45
        turn = math.pi * (corner / 5 - 0.5)
        points.append(((x + length * math.cos(turn)) * scale, (y + length * math.sin(turn)) * scale))
    pen.polygon(points, fill=STAR)
