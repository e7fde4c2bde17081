"""Prune a model on disk by scores: rank, mask, write packed. Works on tensors alone; no model is built.

From here to the line that zeroes a weight: `prune` → `_masks` → `masks.remove`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import safe_open

from prunelab import masks, scores, variants
from prunelab.checkpoint import PackedWriter, Tensors, copy_companions
from prunelab.errors import InputError
from prunelab.files import read_json, whole_directory, write_json
from prunelab.methods import METHODS


class Plan(NamedTuple):
    """All that decides a pruned variant besides the model: each field is logged in sparsity.json."""

    variant: variants.Variant
    allocation: str
    scope: str  # blocks | attention | mlp
    checkpoint: str  # last | best
    seed: int


def prune(dense, out, plan: Plan) -> dict:
    """Write the variant of `plan` of the model in folder `dense` into folder `out`; returns what sparsity.json says.

    Raises InputError for what the model does not have (history, best checkpoint), before anything is written.
    """
    dense = Path(dense)
    method = METHODS[plan.variant.method]
    if problem := variants.contradiction(plan.variant.rate, plan.allocation):
        raise InputError(f"{plan.variant.id}: {problem}")
    scope = tensors_in_scope(dense, plan.scope)
    weights = Tensors(dense if plan.checkpoint == "last" else _existing(dense / "best", "the best checkpoint"))
    kept = _Clone(dense, weights) if method.keep == "average" else weights
    history = _History(dense) if method.score == "history" else None

    layers = []
    with whole_directory(out) as partial:
        writer = PackedWriter(partial)
        masked = _masks(plan, scope, lambda tensor: _layer(tensor, weights, history, plan.seed))
        keep_of = {}
        in_sigmas = []  # every score in standard deviations of its tensor
        for tensor, values, keep in masked:
            keep_of[tensor["name"]] = keep
            zeros = int(keep.numel() - keep.sum())
            normal = values.flatten() / values.std()
            prune_rate = None if method.score == "random" or not keep.any() else float(normal[keep.flatten()].min())
            layers.append({**tensor, "zeros": zeros, "sparsity": zeros / keep.numel(), "prune_rate": prune_rate})
            in_sigmas.append(normal)
        for name in weights.names():
            writer.add(name, kept[name], keep_of.get(name))
        writer.close()
        copy_companions(dense, partial)
        record = _record(plan, method, layers, writer, Tensors(dense).nbytes, history)
        if method.score != "random" and record["prune_rate"] is None:
            record["prune_rate"] = prune_rate_for(torch.cat(in_sigmas), sum(layer["zeros"] for layer in layers))
        write_json(partial / "sparsity.json", record)
    return record


def tensors_in_scope(dense, scope: str) -> list[dict]:
    """The entries of the model's prunable.json that `scope` covers."""
    tensors = read_json(Path(dense) / "prunable.json")
    chosen = [tensor for tensor in tensors if scope in ("blocks", tensor["role"])]
    if not chosen:
        raise InputError(f"prune.scope: {scope}: none of the {len(tensors)} prunable tensors of {dense} belongs to it")
    return chosen


def _layer(tensor: dict, weights: Tensors, history, seed: int) -> scores.Layer:
    name = tensor["name"]
    return scores.Layer(name, weights[name], tensor["transposed"], seed, history[name] if history else None)


def _masks(plan: Plan, scope: list[dict], layer_of) -> Iterator[tuple[dict, torch.Tensor, torch.Tensor]]:
    """Yield (tensor's entry, its scores, its keep-mask), both in its shape."""
    method = METHODS[plan.variant.method]
    rate = variants.parse_rate(plan.variant.rate)
    score = scores.SCORES[method.score]

    def scored(tensor) -> torch.Tensor:
        return score(layer_of(tensor))

    if plan.allocation in ("global", "sigma"):
        all_scores = {tensor["name"]: scored(tensor) for tensor in scope}
        keeps = _jointly(all_scores, plan.allocation, rate)
        for tensor in scope:
            yield tensor, all_scores[tensor["name"]], keeps[tensor["name"]]
        return
    for tensor in scope:
        values = scored(tensor)
        rows = values.T if tensor["transposed"] else values  # (out, in)
        if rate.n_of_m:
            try:
                keep = masks.lowest_n_of_m(rows, *rate.n_of_m)
            except ValueError as error:
                raise InputError(f"{plan.variant.id}: {tensor['name']}: {error}") from None
        elif method.group == "row":
            keep = masks.lowest_per_row(rows, rate.sparsity)
        else:
            keep = masks.lowest(rows, rate.sparsity)
        yield tensor, values, keep.T if tensor["transposed"] else keep


def _jointly(all_scores: dict[str, torch.Tensor], allocation: str, rate: variants.Rate) -> dict[str, torch.Tensor]:
    """Keep-masks from one ranking over all tensors; `sigma` divides by each tensor's own standard deviation first.

    The paper's rule, |w| < PruneRate x sigma(|w|), is that ranking cut at PruneRate; a target sparsity cuts it at an
    exact count instead, which is what bisecting PruneRate converges to.
    """
    flat = [values.flatten() for values in all_scores.values()]
    if allocation == "sigma":
        flat = [values / values.std() for values in flat]
    ranking = torch.cat(flat)
    if rate.prune_rate is None:
        keep = masks.lowest(ranking, rate.sparsity)
    else:
        sigma = 1.0 if allocation == "sigma" else ranking.std()
        keep = masks.below(ranking, rate.prune_rate * sigma)
    parts = keep.split([values.numel() for values in flat])
    return {name: part.view(values.shape) for (name, values), part in zip(all_scores.items(), parts, strict=True)}


def prune_rate_for(in_sigmas: torch.Tensor, removed: int) -> float | None:
    """The PruneRate whose per-tensor threshold removes `removed` weights in all, exactly (1e-4 by bisection would do).

    Args:
        in_sigmas: (N,) scores, each in standard deviations of its own tensor's scores.
    """
    if removed >= len(in_sigmas):
        return None
    return float(np.partition(in_sigmas.numpy(), removed)[removed])  # the lowest that such a threshold keeps


class _History:
    """Imp of every tracked tensor, and the options it was made with."""

    def __init__(self, dense: Path):
        path = _existing(dense / "history" / "importance.safetensors", "a weight history")
        self._file = safe_open(path, "pt")
        self.options = self._file.metadata()["options"]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)


class _Clone:
    """The averaged clone in the model's dtype; what was not trained comes from the model itself."""

    def __init__(self, dense: Path, weights: Tensors):
        self._file = safe_open(_existing(dense / "history" / "average.safetensors", "an averaged clone"), "pt")
        self._averaged, self._weights = set(self._file.keys()), weights

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._averaged:
            return self._weights[name]
        return self._file.get_tensor(name).to(self._weights[name].dtype)


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise InputError(f"{path}: missing; {what} exists only for a model trained here (train.epochs >= 1)")
    return path


def _record(plan: Plan, method, layers: list[dict], writer: PackedWriter, dense_bytes: int, history) -> dict:
    removed = sum(layer["zeros"] for layer in layers)
    in_scope = sum(torch.Size(layer["shape"]).numel() for layer in layers)
    rate = variants.parse_rate(plan.variant.rate)
    return {
        "variant": plan.variant.id,
        "method": plan.variant.method,
        "score": method.score,
        "keep": method.keep,
        "allocation": plan.allocation,
        "scope": plan.scope,
        "checkpoint": plan.checkpoint,
        "seed": plan.seed,
        "rate": plan.variant.rate,
        "target_sparsity": rate.sparsity,
        "sparsity_pruned": removed / in_scope,
        "sparsity_all": removed / writer.parameters,
        "prune_rate": rate.prune_rate,
        "parameters": writer.parameters,
        "nonzero_parameters": writer.nonzeros,
        "scope_parameters": in_scope,
        "dense_bytes": dense_bytes,
        "packed_bytes": writer.nbytes,
        "history": json.loads(history.options) if history else None,
        "calibration": None,
        "layers": layers,
    }
