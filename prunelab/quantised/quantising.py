"""Quantise a model in memory: the linear layers of its blocks, its head and its embedding, weights alone.

GPT-2's `Conv1D` becomes a linear layer first. An embedding that is more than a table (Gemma's scales what it looks up)
stays as it is, and so does a head that is tied to it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from prunelab.errors import InputError, in_one_line
from prunelab.models import models
from prunelab.quantised.grid import GROUPS, PRECISIONS, Grid
from prunelab.quantised.layers import QuantisedEmbedding, QuantisedLinear

PROBE_TOKENS = 8  # of the pass that shows whether a model runs
PART = 1 << 20  # weights rounded at a time

# (name of a weight, its rows (out, in), its grid) → levels and steps, as of Grid
Rounding = Callable[[str, torch.Tensor, Grid], tuple[torch.Tensor, torch.Tensor]]


def quantise(model, precision: str, group: int = 32, head: str = "int8", rounding: Rounding | None = None) -> list[str]:
    """Quantise `model` in place; returns the names of the weights that are, as the module names them.

    Args:
        precision: int8, or int4 with one scale for `group` inputs of a row.
        head: of the head, and of an embedding that is tied to it, where the blocks are int4; an untied embedding is
            int8.
        rounding: of the blocks' weights (gptq.py); None rounds each to the nearest level.

    Raises InputError for a model that does more with a weight than to multiply by it: it would fail in its first pass.
    """
    blocks, of_head = grids(precision, group, head)
    places = replace(model, blocks, of_head)
    for name, place in places.items():
        choose = rounding if rounding is not None and place.in_block else nearest
        with torch.no_grad():
            levels, steps = choose(name, place.weight.detach(), place.layer.grid)
            place.layer.hold(levels, steps)
            place.layer.moved = _moved(place, levels, steps)
        places[name] = None  # so that the weight goes
    probe(model, precision)
    return list(places)


def grids(precision: str, group: int, head: str) -> tuple[Grid, Grid]:
    """The grids of the blocks and of the head. Raises InputError for what there is no kernel for."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}")
    if group not in GROUPS:
        raise InputError(f"quantise.group: {group!r}; the kernels take groups of {', '.join(map(str, GROUPS))} inputs")
    if head not in PRECISIONS:
        raise InputError(f"quantise.head: {head!r} is none of {', '.join(PRECISIONS)}")
    return Grid(precision, group), Grid(head if precision == "int4" else precision, group)


class Place(NamedTuple):
    """A quantised layer in its model, and what it is to hold."""

    layer: QuantisedLinear
    weight: torch.Tensor  # (out, in), as it was
    in_block: bool


def replace(model, blocks: Grid, of_head: Grid, tied: bool | None = None) -> dict[str, Place]:
    """Put quantised layers, which hold nothing yet, into `model`; returns them by the names of their weights.

    tied: whether embedding and head are one table; None: as they are in `model`. Raises InputError.
    """
    _refuse_fused(model, blocks)
    places = {}
    for tensor in models.prunable_tensors(model):
        name = tensor["name"].removesuffix(".weight")
        module = model.get_submodule(name)
        if type(module).forward is not nn.Linear.forward and not tensor["transposed"]:
            raise refusal(
                model, blocks.precision, f"{name} is a {type(module).__name__}, which is more than a linear layer"
            )
        weight = module.weight.T if tensor["transposed"] else module.weight
        layer = _layer(weight, module.bias, blocks)
        model.set_submodule(name, layer)
        places[tensor["name"]] = Place(layer, weight, True)
    if not places:
        raise refusal(model, blocks.precision, "its blocks have no linear layers")
    places |= _replace_ends(model, blocks, of_head, tied)
    if not any(True for _ in model.parameters()):  # OLMo's norms have none; of the first the library asks the device
        none = torch.empty(0, dtype=next(iter(places.values())).layer.dtype)
        model.register_parameter("nothing", nn.Parameter(none, requires_grad=False))
    return places


def _refuse_fused(model, blocks: Grid) -> None:
    """Raises InputError where most of a block would stay as it is: experts that lie in one tensor."""
    stack, modules = models.decoder_blocks(model)
    for path, module in modules.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not isinstance(module, nn.Conv1d):
                name = f"{stack}.{path}.{leaf}"
                raise refusal(model, blocks.precision, f"{name} holds several matrices in one tensor (experts)")


def _replace_ends(model, blocks: Grid, of_head: Grid, tied: bool | None) -> dict[str, Place]:
    """`replace` for the embedding and the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight if tied is None else tied
    table = type(embedding) is nn.Embedding
    places = {}
    if type(head) is nn.Linear and (table or not tied):
        layer = _layer(head.weight, head.bias, of_head)
        name = _put(model, head, layer)
        if tied:
            name = _put(model, embedding, QuantisedEmbedding(layer, tied=True))
        places[f"{name}.weight"] = Place(layer, head.weight, False)
    if table and not tied:
        layer = _layer(embedding.weight, None, Grid("int8", blocks.group))
        name = _put(model, embedding, QuantisedEmbedding(layer, tied=False))
        places[f"{name}.weight"] = Place(layer, embedding.weight, False)
    if places:  # what the library would tie is gone
        ties = model.all_tied_weights_keys.items()
        model.all_tied_weights_keys = {one: other for one, other in ties if _has(model, one) and _has(model, other)}
    return places


def _layer(weight: torch.Tensor, bias: nn.Parameter | None, grid: Grid) -> QuantisedLinear:
    return QuantisedLinear(weight.shape[1], weight.shape[0], grid, weight.dtype, bias)


def _has(model, name: str) -> bool:
    path, _, leaf = name.rpartition(".")
    return leaf in model.get_submodule(path)._parameters


def _put(model, old: nn.Module, new: nn.Module) -> str:
    """Replace a module wherever it stands in `model`; returns its first name."""
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in names:
        model.set_submodule(name, new)
    return names[0]


def nearest(name: str, weight: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to the nearest level: levels and steps, as of `Grid`, of `weight` (out, in)."""
    levels, steps = torch.empty(weight.shape, dtype=torch.int8), []
    rows = max(1, PART // weight.shape[1])
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        steps.append(grid.steps(part))
        levels[start : start + rows] = grid.levels(part, steps[-1])
    return levels, torch.cat(steps)


def _moved(place: Place, levels: torch.Tensor, steps: torch.Tensor) -> tuple[float, float] | None:
    """(squares of what rounding moved the weights by, squares of the weights), sums over a layer of the blocks."""
    if not place.in_block:
        return None
    weight = place.weight.float()
    apart = place.layer.grid.values(levels, steps).sub_(weight)
    return float(apart.square_().sum()), float(weight.square().sum())


def refusal(model, precision: str, why: str) -> InputError:
    kind = type(model).__name__
    return InputError(f"{precision}: {kind} cannot be quantised: {why}; take {precision} out of prune.further")


@torch.inference_mode()
def probe(model, precision: str) -> torch.Tensor:
    """Logits (1, PROBE_TOKENS, vocabulary) of the first tokens of the vocabulary. Raises InputError."""
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    try:
        return model(input_ids=ids, use_cache=False).logits
    except (NotImplementedError, RuntimeError, TypeError, AttributeError) as error:  # what quantised layers have not
        found = in_one_line(error, 120)
        raise refusal(model, precision, f"it uses a weight otherwise than to multiply by it ({found})") from error
