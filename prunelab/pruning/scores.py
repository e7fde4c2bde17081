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
    history: torch.Tensor | None = None  # Imp of tracker.py, or another reading, the weight's shape
    statistic: torch.Tensor | None = None  # what calibration.py saw: squared input norms (in,), or |W·G|


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


def history_threshold(layer: Layer) -> torch.Tensor:
    """|W| in standard deviations of the layer's history, the mean of its *signed* weights with weights sqrt(e).

    Cut at t, over all layers, it is the rule of the first author's earlier code: |w| < t·σ(mean) goes, the final |w|
    decides. Within a layer that is the order of magnitude; what the history decides is how much each layer loses.
    A layer without any spread has the threshold 0, so all of it stays.
    """
    if layer.history is None:
        raise InputError(f"{layer.name}: has no history of signed weights; train with train.tracker.signed_sqrt: true")
    sigma = layer.history.std()
    return magnitude(layer) / sigma if sigma > 0 else torch.full(layer.weight.shape, torch.inf)


def wanda(layer: Layer) -> torch.Tensor:
    """|W_ij|·‖X_j‖₂ (arXiv 2306.11695)."""
    return magnitude(layer) * _along_inputs(layer, layer.statistic.sqrt())


def ria(layer: Layer) -> torch.Tensor:
    """Relative importance and activations (ICLR 2024): (|W|/Σ of its row + |W|/Σ of its column)·‖X_j‖₂^0.5."""
    weight = magnitude(layer)
    # A row or column of zeros has nothing to lose; dividing by 1 keeps its scores 0.
    relative = sum(weight / (total := weight.sum(dim, keepdim=True)).where(total > 0, 1) for dim in (0, 1))
    return relative * _along_inputs(layer, layer.statistic.sqrt().sqrt())


def taylor(layer: Layer) -> torch.Tensor:
    """|W·∂L/∂W|, summed over the calibration samples: the first-order change of the loss if the weight goes."""
    return layer.statistic.float()


def _along_inputs(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """`values` (in,) so that they multiply the weight's input dimension."""
    return values[:, None] if layer.transposed else values


SCORES = {
    "random": random, "magnitude": magnitude, "history": history, "history-threshold": history_threshold,
    "wanda": wanda, "ria": ria, "taylor": taylor,
}  # fmt: skip
