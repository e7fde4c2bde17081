"""Which rows are for training, which for validation and test: by item, drawn with a seed."""

import hashlib
import math

from prunelab.errors import InputError
from prunelab.tasks.price.rows import PARTS


def split(items: list[str], validation_percent: int, test_percent: int, seed: int) -> dict[str, str]:
    """The part of each item; all rows of an item, and so all its pictures, stand on one side.

    Items are ordered by a hash of seed and name, so neither the order of a table nor its further rows decide where an
    item stands among the others. Raises InputError where a part would have no item.
    """
    unique = sorted(set(items), key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).digest())
    test = math.floor(len(unique) * test_percent / 100 + 0.5)
    validation = math.floor(len(unique) * validation_percent / 100 + 0.5)
    counts = {"test": test, "validation": validation, "train": len(unique) - test - validation}
    if empty := [part for part in PARTS if counts[part] < 1]:
        raise InputError(
            f"price.split: {len(unique)} items leave none for {empty[0]} with validation_percent {validation_percent} "
            f"and test_percent {test_percent}; give more rows or another split"
        )
    parts = [part for part, count in counts.items() for _ in range(count)]
    return dict(zip(unique, parts, strict=True))


def fingerprint(parts: dict[str, str]) -> str:
    """The sha256 of who stands where: a line `part item` each, sorted."""
    lines = sorted(f"{part} {item}\n" for item, part in parts.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def doubled(rows: list[dict]) -> dict:
    """Pictures that stand on more than one side of the split: how many, the rows they belong to, and some of them.

    Rows are dicts with `part`, `sha256` (of the picture) and `where`. A model is tested on what it learnt by heart
    there.
    """
    sides: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        sides.setdefault(row["sha256"], {}).setdefault(row["part"], []).append(row["where"])
    both = {sha256: found for sha256, found in sides.items() if len(found) > 1}
    return {
        "pictures": len(both),
        "rows": sum(len(where) for found in both.values() for where in found.values()),
        "examples": [{"sha256": sha256} | found for sha256, found in list(both.items())[:20]],
    }
