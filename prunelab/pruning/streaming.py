"""Calibrate and prune block by block: whatever the model's size, one block and the hidden states are in memory.

Two ways from block to block: `observe` runs the dense model once and leaves statistics that serve every method and
rate; `decide_by_blocks` prunes as published: block b is observed, pruned, run again, and b+1 sees what came out of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prunelab.calibration import calibration, gradients
from prunelab.calibration.blocks import BlockModel, progress, run, workers_for
from prunelab.calibration.observer import watching
from prunelab.calibration.samples import Samples, batch_of
from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models.composites import LANGUAGE
from prunelab.models.tensors import identity
from prunelab.pruning import decisions, scores
from prunelab.pruning.decisions import Decision
from prunelab.pruning.pruning import tensors_in_scope
from prunelab.recipes.methods import METHODS


def calibrate(settings, dense, samples: Samples, about: dict, out, seed: int) -> dict:
    """Take the statistics that the study's methods read of the dense model over `samples`; returns facts.

    `dense` is the dense model's folder, `out` an existing empty folder, into which the samples go too. about: where
    they are from, as the study's task says it; seed: that drew them.
    """
    wanted, needed = settings.calibrate, calibration.needed(settings)
    towers = {tower: block_model(settings, dense, tower) for tower in in_order(settings.prune.towers)}
    if "gradients" in needed and [*towers] != [LANGUAGE]:
        raise InputError(
            f"prune.towers: {settings.prune.towers}: gradients are taken back through the blocks of the language model "
            "alone; set [language], or leave out the methods that look at them (taylor)"
        )
    facts = {
        "dense_sha256": identity(dense),
        "checkpoint": settings.prune.checkpoint,
        **about,
        "seed": seed,
        "propagate": wanted.propagate,
        "precision": str(next(iter(towers.values())).dtype).removeprefix("torch."),
        "statistics": sorted(needed),
    }
    names = {tensor["name"] for tensor in tensors_in_scope(dense, settings.prune.scope)}
    disk = out if wanted.hidden_states == "disk" else None
    for model in towers.values():
        if needed & {"norms", "hessians"}:
            observe(model, names, samples, batch_of(samples, wanted.batch_tokens), "hessians" in needed, out, disk)
        if "gradients" in needed:
            gradients.write(model, names, samples, out, disk)
    return calibration.write(out, samples, facts)


def block_model(settings, dense, tower: str) -> BlockModel:
    """A tower of the dense model of a study, with the weights that it prunes."""
    best = Path(dense) / "best" if settings.prune.checkpoint == "best" else None
    return BlockModel(dense, best, settings.calibrate.precision, tower=tower)


def in_order(towers: list[str]) -> list[str]:
    """`prune.towers` as a model runs them: what the vision tower says is read by the language model."""
    return sorted(towers, key=lambda tower: tower == LANGUAGE)


@torch.no_grad()
def observe(model: BlockModel, names: set[str], samples: Samples, batch: int, hessians: bool, out, disk=None):
    """Write the input norms, and with `hessians` the Hessians, of the weights `names` of the dense model into `out`.

    What another tower has left there stays.

    Args:
        samples: `batch` of them run at a time.
        disk: folder for the hidden states; None keeps them in memory.

    Raises InputError for a layer whose inputs are all zero or not finite.
    """
    out = Path(out)
    norms = load_file(out / calibration.NORMS) if (out / calibration.NORMS).exists() else {}
    leaders = read_json(out / calibration.LEADERS) if (out / calibration.LEADERS).exists() else {}
    before = len([*out.glob("hessians-*.safetensors")])
    states, count = model.enter(samples, batch, disk), len(samples["input_ids"])
    for index in progress(model, "calibrating"):
        watched = _chosen(model, index, names)
        with model.loaded(index), watching(watched, hessians, workers_for(model, states)) as observer:
            run(model, index, states, observer, keep=True)
        norms |= {name: observer.squared_norm(name, count).cpu() for name in watched}
        if hessians and watched:
            leaders |= {name: observer.leader(name) for name in watched}
            shard = {name: observer.hessian(name).float().cpu() for name in watched if leaders[name] == name}
            save_file(shard, out / f"hessians-{before + index:05d}.safetensors")
    states.close()
    save_file(norms, out / calibration.NORMS)
    if hessians:
        write_json(out / calibration.LEADERS, leaders)


def decide_for(settings, plan, dense, seen: calibration.Calibration, disk) -> Callable:
    """`decide_by_blocks` as the settings of a study ask for it; `disk`: folder for hidden states that go there.

    The language model sees what comes out of the pruned vision tower, where that is pruned too.
    """
    wanted, samples = settings.calibrate, seen.samples()
    disk = disk if wanted.hidden_states == "disk" else None
    batch = batch_of(samples, wanted.batch_tokens)

    def decide(scope: list[dict], weights, shares: dict[str, float] | None) -> Iterator[Decision]:
        pruned: dict[str, torch.Tensor] = {}
        for tower in in_order(settings.prune.towers):
            model = block_model(settings, dense, tower)
            model.pruned = pruned
            for decision in decide_by_blocks(plan, model, samples, batch, disk)(scope, weights, shares):
                if tower != LANGUAGE:
                    name = decision.tensor["name"]
                    weight = weights[name] if decision.weight is None else decision.weight.cpu()
                    pruned[name] = weight * decision.keep.cpu()
                yield decision

    return decide


def decide_by_blocks(plan, model: BlockModel, samples: Samples, batch: int, disk=None) -> Callable:
    """What `pruning.prune` takes as `decide`: decisions block by block, each seeing the pruned ones before it.

    Args as of `observe`; the method must be one that looks at input norms or Hessians.
    """
    method = METHODS[plan.variant.method]

    @torch.no_grad()
    def decide(scope: list[dict], weights, shares: dict[str, float] | None) -> Iterator[Decision]:
        solver = decisions.Solver(plan, shares)
        states, count = model.enter(samples, batch, disk), len(samples["input_ids"])
        for index in progress(model, plan.variant.id):
            linears = _chosen(model, index, {tensor["name"] for tensor in scope})
            of_block = [tensor for tensor in scope if tensor["name"] in linears]
            with model.loaded(index):
                if linears:
                    with watching(linears, method.needs == "hessians", workers_for(model, states)) as observer:
                        run(model, index, states, observer, keep=False)
                for tensor in of_block:
                    weight = weights[tensor["name"]].to(model.device)
                    if method.needs == "hessians":
                        decision = solver.decide(tensor, weight, observer)
                    else:
                        decision = _decide_by_score(plan, tensor, weight, observer, count, shares)
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
