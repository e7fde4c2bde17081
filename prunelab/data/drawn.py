"""Texts that are written here, by a seed: what no package has, free of any licence but this project's own.

Arithmetic: sums that are right, as lines and as questions, with small numbers more often than large ones. A model that
has learnt to reckon finds the digits after the equals sign likely; one that has lost it does not.
"""

import hashlib
import random
from collections.abc import Callable

from prunelab.data.documents import Document

LICENCE = "Apache-2.0"  # of this project
BYTES = 65_536  # of a drawn text at least
NAMES = ("Ann", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack")
THINGS = ("apples", "books", "coins", "eggs", "letters", "marbles", "pencils", "plates", "stamps", "tickets")


def documents(source) -> tuple[list[Document], dict]:
    """The one document of a source of `kind: drawn`, and what a manifest says of it.

    source: `name`, one of TEXTS, and `seed`.
    """
    text = TEXTS[source.name](source.seed)
    data = text.encode()
    facts = {"kind": source.kind, "name": source.name, "seed": source.seed, "licence": LICENCE}
    facts |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return [Document(f"{source.name} drawn by seed {source.seed}", text)], facts


def arithmetic(seed: int) -> str:
    """Lines of right sums, BYTES long and a little more; the same for a seed on every machine."""
    generator, lines, size = random.Random(seed), [], 0
    while size < BYTES:
        lines.append(generator.choice(FORMS)(generator))
        size += len(lines[-1]) + 1
    return "\n".join(lines)


def _number(generator: random.Random) -> int:
    """1 to 9999: each number of digits from one to four equally often."""
    digits = generator.randint(1, 4)
    return generator.randint(10 ** (digits - 1), 10**digits - 1)


def _sum(generator: random.Random) -> str:
    one, other = _number(generator), _number(generator)
    return f"{one} + {other} = {one + other}"


def _difference(generator: random.Random) -> str:
    less, more = sorted((_number(generator), _number(generator)))
    return f"{more} - {less} = {more - less}"


def _product(generator: random.Random) -> str:
    one, other = generator.randint(2, 12), generator.randint(2, 99)
    return f"{one} * {other} = {one * other}, so {one * other} / {one} = {other}"


def _question(generator: random.Random) -> str:
    less, more = sorted((_number(generator), _number(generator)))
    word, answer = generator.choice((("plus", more + less), ("minus", more - less)))
    return f"Question: What is {more} {word} {less}? Answer: {answer}"


def _story(generator: random.Random) -> str:
    name, things = generator.choice(NAMES), generator.choice(THINGS)
    had, gets = generator.randint(2, 60), generator.randint(2, 40)
    if had > gets and generator.random() < 0.5:
        return f"{name} has {had} {things} and gives {gets} of them away. Now {name} has {had - gets} {things}."
    return f"{name} has {had} {things} and gets {gets} more. Now {name} has {had + gets} {things}."


def _sequence(generator: random.Random) -> str:
    start, step = generator.randint(1, 50), generator.randint(2, 12)
    return ", ".join(str(start + step * place) for place in range(6))


def _percent(generator: random.Random) -> str:
    percent, hundreds = generator.choice((5, 10, 20, 25, 50, 75)), generator.randint(1, 40)
    whole = 100 * hundreds
    return f"{percent} % of {whole} is {percent * hundreds}"


FORMS = (_sum, _difference, _product, _question, _story, _sequence, _percent)
TEXTS: dict[str, Callable[[int], str]] = {"arithmetic": arithmetic}
