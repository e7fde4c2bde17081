"""Really remove neurons, heads or blocks of a model on disk: rank them, cut, prove the smaller model equal, write it.

From here to the line that removes a weight: `remove` → `compact.width` → `structure.cut_state`.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, safe_open

from prunelab.calibration.samples import Samples, batch_of, split
from prunelab.disk.files import whole_directory, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading, models
from prunelab.models.packed import copy_companions
from prunelab.models.tensors import Tensors, identity
from prunelab.recipes import variants
from prunelab.recipes.methods import STRUCTURES, Structure
from prunelab.structure import compact, importance, structure

BATCH_TOKENS = 4096  # of calibration text at once


class Plan(NamedTuple):
    """All that decides a structured variant besides the model; each field is logged in sparsity.json."""

    variant: variants.Variant
    round_to: int  # the MLP's width becomes a multiple of it
    checkpoint: str  # last | best
    seed: int


def remove(dense, out, plan: Plan, calibration=None) -> dict:
    """Write the variant of `plan` of the model in folder `dense` into folder `out`; returns what sparsity.json says.

    calibration: a `calibration.Calibration`, for methods that look at data. Raises InputError for what the model does
    not have (history, heads of its own, room for the rate), before anything is written.
    """
    dense = Path(dense)
    name, method = plan.variant.id, STRUCTURES[plan.variant.method]
    fraction = variants.parse_rate(plan.variant.rate).sparsity
    if fraction is None:
        raise InputError(f"{name}: {plan.variant.rate} is no rate of a structure; allowed: a whole number of percent")
    model = _load(dense, plan.checkpoint)
    before = {**_counts(model), "dense_bytes": Tensors(dense).nbytes}
    tensors = models.prunable_tensors(model)
    batches = _batches(name, method, calibration)
    if batches is not None:
        calibration.require_same_model(dense, name, plan.checkpoint)
    if method.kind == "depth":
        cut = _fewer_blocks(model, method, fraction, plan, batches)
    else:
        cut = _narrower(model, method, fraction, plan, batches, dense)
    with whole_directory(out) as partial:
        copy_companions(dense, partial)
        apart = compact.write(cut, model, partial, name)
        small = checkpoint.load(partial)
        write_json(partial / "prunable.json", models.prunable_tensors(small))
        layers = _layers(tensors, cut)
        record = {
            "variant": name,
            "method": plan.variant.method,
            "score": method.importance,
            "keep": "final",
            "allocation": "uniform",
            "scope": {"mlp-width": "mlp", "head-width": "attention", "depth": "blocks"}[method.kind],
            "checkpoint": plan.checkpoint,
            "seed": plan.seed,
            "rate": plan.variant.rate,
            "target_sparsity": fraction,
            "sparsity_pruned": sum(layer["zeros"] for layer in layers) / before["prunable"],
            "sparsity_all": 1 - _counts(small)["parameters"] / before["parameters"],
            "prune_rate": None,
            "parameters": _counts(small)["parameters"],
            "nonzero_parameters": sum(int(p.count_nonzero()) for p in small.parameters()),
            "scope_parameters": before["prunable"],
            "dense_bytes": before["dense_bytes"],
            "packed_bytes": Tensors(partial).nbytes,
            "history": _history_options(dense) if method.importance == "history" else None,
            "calibration": calibration.facts if batches is not None else None,
            "structure": {
                "kind": method.kind,
                "round_to": plan.round_to if method.kind == "mlp-width" else None,
                **cut.facts,
                "logits_from_masked": apart,
            },
            "dense_sha256": identity(dense),
            "layers": layers,
        }
        write_json(partial / "sparsity.json", record)
    return record


def _load(dense: Path, which: str):
    model = checkpoint.load(dense)
    if which == "best":
        path = dense / "best" / "model.safetensors"
        if not path.is_file():
            raise InputError(f"{path}: missing; the best checkpoint exists only for a model trained here")
        loading.put(model, load_file(path), path, dense)
    return model


def _batches(name: str, method: Structure, calibration) -> list[Samples] | None:
    """The calibration samples in batches, or None for a method that does not look at data."""
    if not method.needs_data:
        return None
    if calibration is None:
        raise InputError(f"{name}: ranks by {method.importance}, which needs calibration text; give --calibration")
    samples = calibration.samples()
    return split(samples, batch_of(samples, BATCH_TOKENS))


def _fewer_blocks(model, method: Structure, fraction: float, plan: Plan, batches) -> compact.Cut:
    total = len(models.decoder_blocks(model)[1])
    count = int(fraction * total + 0.5)
    if not 0 < count < total:
        raise InputError(
            f"{plan.variant.id}: {fraction:.0%} of {total} blocks rounds to {count}; allowed rates are about "
            f"{', '.join(str(round(100 * n / total)) for n in range(1, min(total, 9)))}{' …' if total > 9 else ''}"
        )
    if method.importance == "random":
        scores = torch.rand(total, generator=torch.Generator().manual_seed(plan.seed))
    else:
        scores = importance.influence(model, batches)
    removed = scores.argsort(stable=True)[:count].tolist()
    cut = compact.depth(model, removed)
    return cut._replace(facts={**cut.facts, "importance": [round(float(s), 6) for s in scores]})


def _narrower(model, method: Structure, fraction: float, plan: Plan, batches, dense: Path) -> compact.Cut:
    sites = structure.mlp_sites(model) if method.kind == "mlp-width" else structure.head_sites(model)
    round_to = plan.round_to if method.kind == "mlp-width" else 1
    count = structure.kept_units(model, sites, fraction, round_to, plan.variant.id)
    inputs = taylor = history = None
    if method.importance in ("flap", "wanda"):
        inputs = importance.watch_inputs(model, sites, batches)
    elif method.importance == "taylor":
        taylor = importance.watch_gradients(model, sites, batches)
    elif method.importance == "history":
        history = load_file(_history(dense))
    evidence = importance.Evidence(inputs, taylor, history, plan.seed)
    kept = []
    for site in sites:
        scores = importance.of_units(model, site, method.importance, evidence)
        # The stable sort removes the earlier of two equals, as masks.remove does.
        kept.append(scores.argsort(stable=True)[site.units - count :].sort().values)
    means = {name: seen.mean for name, seen in inputs.items()} if method.compensates else None
    return compact.width(model, method.kind, sites, kept, means)


def _history(dense: Path) -> Path:
    path = dense / "history" / "importance.safetensors"
    if not path.exists():
        raise InputError(f"{path}: missing; a weight history exists only for a model trained here (train.epochs >= 1)")
    return path


def _history_options(dense: Path) -> dict:
    with safe_open(_history(dense), "pt") as file:
        return json.loads(file.metadata()["options"])


def _counts(model) -> dict:
    """`parameters` (a tied tensor counts once) and `prunable` ones."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prunable": structure.prunable_parameters(model),
    }


def _layers(tensors: list[dict], cut: compact.Cut) -> list[dict]:
    """For every prunable tensor of the dense model: how many of its weights are gone (`zeros`, as for masks)."""
    gone = set(cut.facts.get("blocks_removed", []))
    layers = []
    for tensor in tensors:
        size = torch.Size(tensor["shape"]).numel()
        if "blocks_removed" in cut.facts:
            zeros = size if tensor["block"] in gone else 0
        else:
            zeros = size - cut.state[tensor["name"]].numel()
        layers.append({**tensor, "zeros": zeros, "sparsity": zeros / size, "prune_rate": None})
    return layers
