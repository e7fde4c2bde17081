"""What a model of prices is asked: held-out rows, the same with another picture, the same without words.

Two controls stand beside every model's own answers. With *shuffled pictures* each row shows the picture of another
item: a model that looks gets worse. With *blank text* every column of the prompt is empty, only its frame and the
picture are left: a model that reads gets worse.
"""

import hashlib
import json
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunelab.errors import InputError
from prunelab.quality.windows import spread
from prunelab.tasks.price.judging.figures import Truth
from prunelab.tasks.price.rows import FOLDER, of_part
from prunelab.tasks.price.templates import PLACE

SEED = 5  # of the derangement
EXAMPLES = 8  # rows whose pictures the report shows


class HeldOut(NamedTuple):
    """The rows that no model was trained on, and what they are judged by."""

    rows: list[dict]
    folder: Path  # that pictures are relative to
    truth: Truth
    sha256: str  # of the rows, which hold the hashes of their pictures


def held_out(data, most: int | None) -> HeldOut:
    """The test rows in the folder that fetch wrote, at most about `most` of them: whole items, evenly spaced.

    Raises InputError where files are missing.
    """
    folder = Path(data) / FOLDER
    rows, train = (of_part(data, part) for part in ("test", "train"))
    if not rows or not train:
        raise InputError(f"{folder}: expected rows of train and test, found none; fetch again (dvc repro -f fetch)")
    items = list(dict.fromkeys(row["item"] for row in rows))
    wanted = len(items) if most is None else max(1, len(items) * most // len(rows))
    kept = {items[place] for place in spread(len(items), wanted)}
    rows = [row for row in rows if row["item"] in kept]
    mean = float(np.mean([row["price"] for row in train]))
    truth = Truth.of([row["price"] for row in rows], [row["item"] for row in rows], mean)
    sha256 = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return HeldOut(rows, folder, truth, sha256)


def with_other_pictures(rows: list[dict]) -> list[dict]:
    """The rows, each with a picture of another item: items are deranged by SEED, an item's pictures are taken in turn.

    With a single item there is no other, and its pictures stay.
    """
    of_item: dict = {}
    for row in rows:
        of_item.setdefault(row["item"], []).append(row["picture"])
    items = list(of_item)
    other = dict(zip(items, (items[place] for place in derangement(len(items))), strict=True))
    seen: dict = dict.fromkeys(items, 0)
    changed = []
    for row in rows:
        pictures = of_item[other[row["item"]]]
        changed.append(row | {"picture": pictures[seen[row["item"]] % len(pictures)]})
        seen[row["item"]] += 1
    return changed


def derangement(count: int) -> np.ndarray:
    """A permutation of 0 … count - 1 by SEED that leaves none in its place: one long cycle (Sattolo's algorithm)."""
    order, generator = np.arange(count), np.random.default_rng(SEED)
    for last in range(count - 1, 0, -1):
        other = int(generator.integers(last))
        order[[last, other]] = order[[other, last]]
    return order


def without_words(rows: list[dict], template: str) -> list[dict]:
    """The rows with a prompt that keeps the picture and the frame of `template` (`price.prompt`), and no column."""
    written = []
    for literal, name, _, _ in string.Formatter().parse(template):
        written.append(literal + (PLACE if f"{{{name}}}" == PLACE else ""))
    return [row | {"prompt": "".join(written)} for row in rows]


def examples(truth: Truth) -> np.ndarray:
    """Up to EXAMPLES rows to be shown, from the lowest price to the highest, each of another item."""
    first = np.unique(truth.items, return_index=True)[1]
    ranked = first[np.argsort(truth.price[first], kind="stable")]
    return ranked[np.linspace(0, len(ranked) - 1, min(EXAMPLES, len(ranked))).round().astype(int)]
