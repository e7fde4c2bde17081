"""Calibrate and prune block by block: whatever the model's size, one block and the hidden states are in memory.

Two ways from block to block: `observe` runs the dense model once and leaves statistics that serve every method and
rate; `decide_by_blocks` prunes as published: block b is observed, pruned, run again, and b+1 sees what came out of it.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from prunelab.calibration import calibration, gradients
from prunelab.calibration.blocks import BlockModel, progress, run, workers_for
from prunelab.calibration.observer import watching
from prunelab.disk.files import write_json
from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.models.tensors import identity
from prunelab.pruning import decisions, scores
from prunelab.pruning.decisions import Decision
from prunelab.pruning.pruning import tensors_in_scope
from prunelab.recipes.methods import METHODS


def calibrate(settings, dense, data, out, seed: int) -> dict:
    """Draw the samples of `settings.calibrate` and take the statistics that the study's methods read; returns facts.

    `dense` is the dense model's folder, `data` what the stage fetch wrote, `out` an existing empty folder.
    Raises InputError for a text that is too short and for samples longer than the model's context.
    """
    wanted = settings.calibrate
    model = block_model(settings, dense)
    limit = models.context_length(model.config)
    if limit and wanted.length > limit:
        raise InputError(f"calibrate.length: {wanted.length} exceeds the model's {limit} positions")
    text, source = calibration.text_of(data)
    tokens = loading.tokenizer_of(dense, dense)(text, add_special_tokens=False, verbose=False)["input_ids"]
    samples = calibration.draw(torch.tensor(tokens), wanted.samples, wanted.length, seed)
    needed = calibration.needed(settings)
    facts = {
        "dense_sha256": identity(dense),
        "checkpoint": settings.prune.checkpoint,
        "source": source,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": seed,
        "propagate": wanted.propagate,
        "precision": str(model.dtype).removeprefix("torch."),
        "statistics": sorted(needed),
    }
    names = {tensor["name"] for tensor in tensors_in_scope(dense, settings.prune.scope)}
    disk = out if wanted.hidden_states == "disk" else None
    if needed & {"norms", "hessians"}:
        observe(model, names, samples, batch_of(wanted), "hessians" in needed, out, disk)
    if "gradients" in needed:
        gradients.write(model, names, samples, out, disk)
    return calibration.write(out, samples, facts)


def block_model(settings, dense) -> BlockModel:
    """The dense model of a study, with the weights that it prunes."""
    best = Path(dense) / "best" if settings.prune.checkpoint == "best" else None
    return BlockModel(dense, best, settings.calibrate.precision)


def batch_of(wanted) -> int:
    """How many samples run at a time, of the settings `calibrate`."""
    return max(1, wanted.batch_tokens // wanted.length)


@torch.no_grad()
def observe(model: BlockModel, names: set[str], samples: torch.Tensor, batch: int, hessians: bool, out, disk=None):
    """Write the input norms, and with `hessians` the Hessians, of the weights `names` of the dense model into `out`.

    Args:
        samples: (samples, length) int64; `batch` of them run at a time.
        disk: folder for the hidden states; None keeps them in memory.

    Raises InputError for a layer whose inputs are all zero or not finite.
    """
    out = Path(out)
    norms, leaders = {}, {}
    states = model.enter(samples, batch, disk)
    for index in progress(model, "calibrating"):
        watched = _chosen(model, index, names)
        with model.loaded(index), watching(watched, hessians, workers_for(model, states)) as observer:
            run(model, index, states, observer, keep=True)
        norms |= {name: observer.squared_norm(name, len(samples)).cpu() for name in watched}
        if hessians and watched:
            leaders |= {name: observer.leader(name) for name in watched}
            shard = {name: observer.hessian(name).float().cpu() for name in watched if leaders[name] == name}
            save_file(shard, out / f"hessians-{index:05d}.safetensors")
    states.close()
    save_file(norms, out / calibration.NORMS)
    if hessians:
        write_json(out / calibration.LEADERS, leaders)


def decide_for(settings, plan, dense, seen: calibration.Calibration, disk) -> Callable:
    """`decide_by_blocks` as the settings of a study ask for it; `disk`: folder for hidden states that go there."""
    wanted = settings.calibrate
    disk = disk if wanted.hidden_states == "disk" else None
    return decide_by_blocks(plan, block_model(settings, dense), seen.samples(), batch_of(wanted), disk)


def decide_by_blocks(plan, model: BlockModel, samples: torch.Tensor, batch: int, disk=None) -> Callable:
    """What `pruning.prune` takes as `decide`: decisions block by block, each seeing the pruned ones before it.

    Args as of `observe`; the method must be one that looks at input norms or Hessians.
    """
    method = METHODS[plan.variant.method]

    @torch.no_grad()
    def decide(scope: list[dict], weights, shares: dict[str, float] | None) -> Iterator[Decision]:
        solver = decisions.Solver(plan, shares)
        states = model.enter(samples, batch, disk)
        for index in progress(model, plan.variant.id):
            of_block = [tensor for tensor in scope if tensor["block"] == index]
            with model.loaded(index):
                linears = _chosen(model, index, {tensor["name"] for tensor in of_block})
                if linears:
                    with watching(linears, method.needs == "hessians", workers_for(model, states)) as observer:
                        run(model, index, states, observer, keep=False)
                for tensor in of_block:
                    weight = weights[tensor["name"]].to(model.device)
                    if method.needs == "hessians":
                        decision = solver.decide(tensor, weight, observer)
                    else:
                        decision = _decide_by_score(plan, tensor, weight, observer, len(samples), shares)
                    pruned = (weight if decision.weight is None else decision.weight) * decision.keep
                    linears[tensor["name"]].weight = nn.Parameter(pruned.to(model.dtype), requires_grad=False)
                    yield decision
                if index + 1 < len(model.blocks):
                    run(model, index, states)
        states.close()

    return decide


def _decide_by_score(plan, tensor: dict, weight: torch.Tensor, observer, samples: int, shares) -> Decision:
    norm = observer.squared_norm(tensor["name"], samples)
    layer = scores.Layer(tensor["name"], weight, tensor["transposed"], plan.seed, statistic=norm)
    values = scores.SCORES[METHODS[plan.variant.method].score](layer)
    return Decision(tensor, decisions.keep_mask(plan, tensor, values, shares), values)


def _chosen(model: BlockModel, index: int, names: set[str]) -> dict[str, nn.Module]:
    return {name: module for name, module in model.linears(index).items() if name in names}
