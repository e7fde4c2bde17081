"""What a setting may hold, whatever its section: bounded numbers, names that exist, distinct entries, known keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from prunelab.errors import nearest
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS, STRUCTURES
from prunelab.study import tasks

# Whole numbers end at a billion (tokens at a thousand times that): far above any use, and sums of them fit in 64 bits.
# Strict, because pydantic takes `true` for 1 and "3" for 3 otherwise.
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Whole = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Length = Annotated[int, Field(ge=2, le=10**9, strict=True)]
Tokens = Annotated[int, Field(ge=1, le=10**12, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]  # what numpy, and with it the trainer, takes
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Seconds = Annotated[Number, Field(gt=0, le=86_400)]  # of one measurement: a day at most
Percent = Annotated[int, Field(ge=0, le=90, strict=True)]


def distinct(entries: list) -> list:
    """The entries. ValueError when one of them stands there twice."""
    doubled = {str(entry) for entry in entries if [str(other) for other in entries].count(str(entry)) > 1}
    if doubled:
        raise ValueError(f"{', '.join(sorted(doubled))} stands there twice; every entry once")
    return entries


def known_method(name: str) -> str:
    """An entry of prune.methods. ValueError when there is no such method."""
    base, _ = variants.split_method(name)
    if base in STRUCTURES:
        raise ValueError(f"{name} makes the model smaller and belongs into prune.further, as {name}-<percent>")
    if base not in METHODS:
        raise ValueError(f"there is no method {name!r}{nearest(base, METHODS)}; allowed: {', '.join(METHODS)}")
    return name


def known_rate(token) -> int | str:
    """An entry of prune.rates. ValueError (InputError is one) when it is none."""
    variants.parse_rate(token)
    return token


def known_recipe(identifier: str) -> str:
    """An entry of prune.further. ValueError (InputError is one), which names the nearest, when it is none."""
    variant = variants.parse(identifier)
    if variant.id == variants.DENSE:
        raise ValueError("'dense' is there in every study; leave it out")
    if variant.prunes == "structure" and variants.parse_rate(variant.rate).sparsity is None:
        raise ValueError(f"{identifier!r}: structure goes by percent, such as {variant.method}-25")
    return identifier


def known_task(name: str) -> str:
    """The setting `task`. ValueError when there is no such task."""
    if name not in tasks.NAMES:
        raise ValueError(f"there is no task {name!r}{nearest(name, tasks.NAMES)}; allowed: {', '.join(tasks.NAMES)}")
    return name


class Section(BaseModel):
    """A block of params.yaml: unknown keys are refused, missing ones are named, nothing has a hidden default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
