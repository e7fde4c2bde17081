"""Scores: one number a weight; the lowest are removed.

Every function takes a `Layer` and returns scores of the weight's shape, fp32. Adding one: a function, a row in SCORES.
"""

import hashlib
from typing import NamedTuple

import torch

from prunelab.errors import InputError


class Layer(NamedTuple):
    """What a score may look at: one prunable tensor and what is known about it."""

    name: str
    weight: torch.Tensor  # (out, in), or (in, out) where `transposed`
    transposed: bool = False
    seed: int = 0
    history: torch.Tensor | None = None  # Imp of tracker.py, the weight's shape
    statistics: dict | None = None  # of calibration.py


def random(layer: Layer) -> torch.Tensor:
    """Uniform scores from the seed and the tensor's name, so that one tensor's do not depend on another's."""
    digest = hashlib.sha256(f"{layer.seed}/{layer.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(layer.weight.shape, generator=generator)


def magnitude(layer: Layer) -> torch.Tensor:
    """|W|."""
    return layer.weight.abs().float()


def history(layer: Layer) -> torch.Tensor:
    """|Imp|: the time-weighted mean magnitude over training (arXiv 2502.17071)."""
    if layer.history is None:
        raise InputError(f"{layer.name}: has no weight history; only a model trained here with train.tracker has one")
    return layer.history.abs()


SCORES = {"random": random, "magnitude": magnitude, "history": history}
