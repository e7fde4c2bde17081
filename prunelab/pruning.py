"""Prune a model on disk by scores: rank, mask, write packed. Works on tensors alone; no model is built.

From here to the line that zeroes a weight: `prune` → `_masks` → `masks.remove`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
        for tensor, keep, prune_rate in masked:
            keep_of[tensor["name"]] = keep
            zeros = int(keep.numel() - keep.sum())
            layers.append({**tensor, "zeros": zeros, "sparsity": zeros / keep.numel(), "prune_rate": prune_rate})
        for name in weights.names():
            writer.add(name, kept[name], keep_of.get(name))
        writer.close()
        copy_companions(dense, partial)
        record = _record(plan, method, layers, writer, Tensors(dense).nbytes, history)
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


def _masks(plan: Plan, scope: list[dict], layer_of) -> Iterator[tuple[dict, torch.Tensor, float | None]]:
    """Yield (tensor's entry, keep-mask in its shape, the PruneRate its own threshold amounts to)."""
    method = METHODS[plan.variant.method]
    rate = variants.parse_rate(plan.variant.rate)
    score = scores.SCORES[method.score]

    def scored(tensor) -> torch.Tensor:
        return score(layer_of(tensor))

    if plan.allocation in ("global", "sigma"):
        all_scores = {tensor["name"]: scored(tensor) for tensor in scope}
        keeps = _jointly(all_scores, plan.allocation, rate)
        for tensor in scope:
            name = tensor["name"]
            yield tensor, keeps[name], prune_rate_of(all_scores[name], keeps[name], method)
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
        keep = keep.T if tensor["transposed"] else keep
        yield tensor, keep, prune_rate_of(values, keep, method)


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


def prune_rate_of(values: torch.Tensor, keep: torch.Tensor, method) -> float | None:
    """The paper's PruneRate of one tensor: its lowest kept score in standard deviations; None where scores are noise."""
    if method.score == "random" or not keep.any():
        return None
    return float(values[keep].min() / values.std())


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
    import json

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
