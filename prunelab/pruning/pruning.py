"""Prune a model on disk: decide tensor by tensor what stays, write packed. Works on tensors alone; no model is built.

From here to the line that zeroes a weight: `prune` → `decisions.by_scores` → `masks.remove`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import safe_open

from prunelab.calibration.calibration import Calibration
from prunelab.disk.files import read_json, whole_directory, write_json
from prunelab.errors import InputError
from prunelab.models.packed import PackedWriter, buffers_of, copy_companions
from prunelab.models.tensors import Tensors, identity
from prunelab.pruning import decisions, scores
from prunelab.pruning.decisions import Plan
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS


def prune(dense, out, plan: Plan, calibration: Calibration | None = None, decide: Callable | None = None) -> dict:
    """Write the variant of `plan` of the model in folder `dense` into folder `out`; returns what sparsity.json says.

    Args:
        calibration: what methods and allocations that look at data read.
        decide: called with (scope, weights, shares) in place of deciding from the dense model alone: yields a
            `decisions.Decision` for every tensor of the scope (streaming.py).

    Raises InputError for what the model does not have (history, best checkpoint), before anything is written.
    """
    dense = Path(dense)
    method = METHODS[plan.variant.method]
    if problem := variants.contradiction(plan.variant.rate, plan.allocation):
        raise InputError(f"{plan.variant.id}: {problem}")
    if calibration is None and (method.needs or plan.allocation == "owl"):
        raise InputError(
            f"{plan.variant.id}: looks at calibration text; give the folder that the stage calibrate wrote"
        )
    used = calibration if method.needs or plan.allocation == "owl" else None
    if used:
        used.require_same_model(dense, plan.variant.id, plan.checkpoint)
    scope = tensors_in_scope(dense, plan.scope)
    weights = Tensors(dense if plan.checkpoint == "last" else _existing(dense / "best", "the best checkpoint"))
    folder = _reading(dense, method.reading)
    kept = _Clone(folder, dense, weights) if method.keep == "average" else weights
    history = _History(folder) if method.looks_at_history else None

    def layer_of(tensor: dict) -> scores.Layer:
        name = tensor["name"]
        return scores.Layer(
            name,
            weights[name],
            tensor["transposed"],
            plan.seed,
            history=history[name] if history else None,
            statistic=calibration.statistic(name, method.needs) if method.needs else None,
        )

    shares = None
    if not method.trains:
        shares = decisions.shares_of(plan, scope, weights, calibration, layer_of, jointly=decide is not None)
    if decide is not None:
        decided = decide(scope, weights, shares)
    elif method.needs == "hessians":
        decided = decisions.by_solving(plan, scope, weights, calibration, shares)
    else:
        decided = decisions.by_scores(plan, scope, layer_of, shares)

    layers = []
    # A score that only looks at weights has a PruneRate: every score in standard deviations of its tensor.
    in_sigmas = [] if method.needs is None and method.score != "random" and not method.trains else None
    with whole_directory(out) as partial:
        writer = PackedWriter(partial, buffers=buffers_of(dense))
        for tensor, keep, values, weight in decided:
            writer.add(tensor["name"], kept[tensor["name"]] if weight is None else weight, keep)
            zeros = int(keep.numel() - keep.sum())
            prune_rate = None
            if in_sigmas is not None:
                in_sigmas.append(values.flatten() / (1.0 if method.in_sigmas else values.std()))
                prune_rate = float(in_sigmas[-1][keep.flatten()].min()) if keep.any() else None
            layers.append({**tensor, "zeros": zeros, "sparsity": zeros / keep.numel(), "prune_rate": prune_rate})
        for name in sorted(set(weights.names()) - {layer["name"] for layer in layers}):
            writer.add(name, kept[name])
        writer.close()
        copy_companions(dense, partial)
        record = _record(plan, method, layers, writer, Tensors(dense).nbytes, history, used)
        # One that was trained along the way comes from no dense model.
        record["dense_sha256"] = None if method.trains else identity(dense)
        if in_sigmas is not None and record["prune_rate"] is None:
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


def prune_rate_for(in_sigmas: torch.Tensor, removed: int) -> float | None:
    """The PruneRate whose per-tensor threshold removes `removed` weights in all, exactly (1e-4 by bisection would do).

    Args:
        in_sigmas: (N,) scores, each in standard deviations of its own tensor's scores.
    """
    if removed >= len(in_sigmas):
        return None
    return float(np.partition(in_sigmas.numpy(), removed)[removed])  # the lowest that such a threshold keeps


def _reading(dense: Path, name: str | None) -> Path:
    """The folder of a reading of the training, by its name; of the tracker's own without. It need not be there."""
    folder = dense / "history"
    if name is None or not folder.is_dir():
        return folder
    if not (folder / name).is_dir():
        raise InputError(
            f"{folder / name}: missing; the training that made {dense} kept no reading {name!r}: train again with "
            "train.tracker.windows or signed_sqrt as docs/methods.md says"
        )
    return folder / name


class _History:
    """Imp of every tracked tensor, and the options it was made with."""

    def __init__(self, folder: Path):
        path = _existing(folder / "importance.safetensors", "a weight history")
        self._file = safe_open(path, "pt")
        self.options = self._file.metadata()["options"]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)


class _Clone:
    """The averaged clone in the model's dtype. Raises InputError where it is not that of all of the model's tensors."""

    def __init__(self, folder: Path, dense: Path, weights: Tensors):
        path = _existing(folder / "average.safetensors", "an averaged clone")
        self._file, self._weights = safe_open(path, "pt"), weights
        if apart := sorted(set(self._file.keys()) ^ set(weights.names())):
            raise InputError(f"{path}: expected an average of every tensor of {dense}, found {apart[0]} in one only")

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name).to(self._weights[name].dtype)


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise InputError(f"{path}: missing; {what} exists only for a model trained here (train.epochs >= 1)")
    return path


def _record(
    plan: Plan, method, layers: list[dict], writer: PackedWriter, dense_bytes: int, history, calibration
) -> dict:
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
        "calibration": calibration.facts if calibration else None,
        "layers": layers,
    }
