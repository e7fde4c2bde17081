"""A quantised model on disk: the dense folder's companions, `quantised.json`, and `model.safetensors`.

The safetensors hold, by the weights' names in the dense model, a tied table once:

    <weight>        its levels, row-major and flat: int8, or int4 two a byte, the lower half first, 8 added to each
    <weight>.scale  bf16: (out, 1, 1) for int8; (out, groups, 2) for int4, scale and offset
    <weight>.bits   where a mask lies on it: numpy's packbits of the row-major keep-mask; <weight> then holds the levels
                    of what is kept and nothing else
    anything else   as it is

No machine's kernels decide what is stored; layers are packed for them as they are read. `<weight>` is flat so that
who loads the folder without its quantiser (prunelab.hf) gets an error about shapes, not a model of random weights.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.models.packed import copy_companions
from prunelab.models.tensors import WEIGHTS, Tensors
from prunelab.quantised import quantising
from prunelab.quantised.grid import GROUPS, Grid
from prunelab.quantised.layers import QuantisedEmbedding, QuantisedLinear

MARK = "quantised.json"
FORMAT = "prunelab-quantised-1"
METHOD = "prunelab"  # the quantiser's name in transformers


def is_quantised(folder) -> bool:
    return (Path(folder) / MARK).exists()


def write(
    model,
    source,
    folder,
    name: str,
    dense_sha256: str,
    precision: str = "int8",
    group: int = 32,
    head: str = "int8",
    masks: dict[str, torch.Tensor] | None = None,
    rounding: quantising.Rounding | None = None,
) -> dict:
    """Quantise `model`, which was loaded from folder `source`, in place and write it into the existing `folder`.

    Args:
        name: of the variant; dense_sha256: the identity of the dense model that it was made of.
        precision, group, head, rounding: as of `quantising.quantise`.
        masks: keep-masks by the names of weights, bool, in the dense tensors' shape (packed.masks_of): what they
            removed is stored as a bit.

    Returns what quantised.json says. Raises InputError for a model that cannot be quantised.
    """
    folder, dtype = Path(folder), str(model.dtype).removeprefix("torch.")
    transposed = {tensor["name"] for tensor in models.prunable_tensors(model) if tensor["transposed"]}
    names = quantising.quantise(model, precision, group, head, rounding)
    tensors, zeros = {}, 0
    layers = _layers(model, names)
    for weight, layer in layers.items():
        levels, keep = layer.levels(), (masks or {}).get(weight)
        if keep is not None:
            keep = keep.T if weight in transposed else keep
            if layer.grid.values(levels, layer.steps())[~keep].any():
                raise ValueError(f"{weight}: a weight that the mask removed is not zero in the model")
            tensors[f"{weight}.bits"] = torch.from_numpy(np.packbits(keep.contiguous().numpy()))
            levels = levels[keep]
        zeros += layer.zeros()
        tensors[weight] = _flat(levels, layer.grid)
        tensors[f"{weight}.scale"] = layer.steps().contiguous()
    rest, seen = {}, set()
    for tensor, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:  # tied: one tensor under two names
            seen.add(id(value))
            rest[tensor] = value.detach().contiguous()
    copy_companions(source, folder)
    save_file(tensors | rest, folder / WEIGHTS, {"format": "pt"})
    facts = {
        "variant": name,
        "format": FORMAT,
        "precision": precision,
        "group": group if precision == "int4" else None,
        "head": head if precision == "int4" else precision,
        "rounding": "nearest" if rounding is None else "gptq",
        "dtype": dtype,
        "layers": len(names),
        "masked": sum(weight in names for weight in masks or {}),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "parameters": sum(one.in_features * one.out_features for one in layers.values()) + _numbers(model),
        "quantised_parameters": sum(one.in_features * one.out_features for one in layers.values()),
        "zeros": zeros,
        "moved_percent": _moved_percent(layers),
        "tied": _is_tied(model),
        "dense_sha256": dense_sha256,
    }
    write_json(folder / MARK, facts)
    config = read_json(folder / "config.json")
    said = {"quant_method": METHOD} | {key: facts[key] for key in ("precision", "group", "head", "tied")}
    write_json(folder / "config.json", config | {"dtype": dtype, "quantization_config": said})
    if wrong := _different(model, load(folder)):
        raise quantising.refusal(model, precision, f"its folder holds another {wrong}")
    return facts


def _layers(model, names: list[str]) -> dict[str, QuantisedLinear]:
    """The quantised layers by the names of their weights."""
    found = {name: model.get_submodule(name.removesuffix(".weight")) for name in names}
    return {name: one.table if isinstance(one, QuantisedEmbedding) else one for name, one in found.items()}


def _moved_percent(layers: dict[str, QuantisedLinear]) -> float:
    """By how much rounding moved the weights of the blocks, root of mean square, percent of the weights' own."""
    apart, whole = (sum(column) for column in zip(*(one.moved for one in layers.values() if one.moved), strict=True))
    return 100 * (apart / whole) ** 0.5 if whole else 0.0


def _is_tied(model) -> bool:
    """Whether embedding and head are one table, quantised or left as it was."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, QuantisedEmbedding):
        return embedding.table is head
    return getattr(head, "weight", None) is embedding.weight


def _numbers(model) -> int:
    """Parameters that are not quantised."""
    return sum(parameter.numel() for parameter in model.parameters())


def _flat(levels: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Levels of any shape as they are stored: int8, or uint8 with two of int4 a byte."""
    levels = levels.flatten()
    if grid.precision == "int8":
        return levels.contiguous()
    halves = torch.nn.functional.pad(levels, (0, len(levels) % 2)).add_(8).view(torch.uint8).view(-1, 2)
    return halves[:, 0] | halves[:, 1] << 4


def _levels(flat: torch.Tensor, count: int, grid: Grid) -> torch.Tensor:
    """int8 (count,) of what `_flat` made."""
    if grid.precision == "int8":
        return flat
    levels = torch.empty(len(flat), 2, dtype=torch.uint8)
    torch.bitwise_and(flat, 15, out=levels[:, 0])
    torch.bitwise_right_shift(flat, 4, out=levels[:, 1])
    return levels.view(torch.int8).flatten()[:count].sub_(8)


def _different(model, loaded) -> str | None:
    """The first tensor of `model` that `loaded` holds with other values, after one pass of what was loaded."""
    found, own = dict(loaded.named_modules()), dict(model.named_modules())
    for name, layer in own.items():
        if isinstance(layer, QuantisedLinear) and not (
            torch.equal(layer.qdata, found[name].qdata) and torch.equal(layer.scale, found[name].scale)
        ):
            return f"{name}.weight"
    state = loaded.state_dict()
    for name, value in model.state_dict().items():
        if not torch.equal(value, state[name]):
            return name
    quantising.probe(loaded, "quantised")
    return None


def load(folder):
    """The model that `write` wrote, in eval mode on the CPU; no more than a layer is ever held in another form.

    Raises InputError for a folder that does not hold what its config says.
    """
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    from prunelab.models import loading

    folder = Path(folder)
    facts = facts_of(folder)
    with init_empty_weights(include_buffers=False):
        model = loading.of_config(loading.config_of(folder), dtype=getattr(torch, facts["dtype"]))
    layers = prepare(model, facts["precision"], facts["group"], facts["head"], facts["tied"])
    tensors = Tensors(folder)
    fill_layers(layers, tensors, folder)
    _fill_rest(model, layers, tensors, folder)
    if any(parameter.is_meta for parameter in model.parameters()):  # else nothing is tied, whatever the config says
        model.tie_weights(recompute_mapping=False)
    if left := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise InputError(f"{folder}: tensor {left[0]} is missing in {WEIGHTS}; make the variant again")
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.requires_grad_(False).eval()


def dequantised(folder, quantised=None):
    """The model in `folder` with the values that its levels stand for, as an ordinary one in the same dtype.

    quantised: what `load` gave of it, where that is at hand.
    """
    from prunelab.models import loading

    model, config = quantised or load(folder), loading.config_of(folder)
    facts = facts_of(folder)
    del config.quantization_config
    with torch.device("meta"):
        skeleton = loading.of_config(config, dtype=model.dtype)
    transposed = {tensor["name"] for tensor in models.prunable_tensors(skeleton) if tensor["transposed"]}
    names = prepare(skeleton, facts["precision"], facts["group"], facts["head"], facts["tied"])
    state = dict(model.state_dict())
    for name, layer in _layers(model, list(names)).items():
        values = layer.grid.values(layer.levels(), layer.steps()).to(model.dtype)
        state[name] = (values.T if name in transposed else values).contiguous()
    return loading.of_state(config, state, model.dtype, folder)


def facts_of(folder) -> dict:
    """What quantised.json says. Raises InputError for a format that this version does not read."""
    facts = read_json(Path(folder) / MARK)
    if (found := facts.get("format")) != FORMAT:
        raise InputError(f"{Path(folder) / MARK}: format {found!r}, this version reads {FORMAT}")
    return facts


def prepare(model, precision: str, group: int | None, head: str, tied: bool) -> dict[str, QuantisedLinear]:
    """Put quantised layers into `model`, which may be on the meta device; empty, by the names of their weights."""
    blocks, of_head = quantising.grids(precision, group or GROUPS[0], head)
    return {name: place.layer for name, place in quantising.replace(model, blocks, of_head, tied).items()}


def fill_layers(layers: dict[str, QuantisedLinear], tensors: Tensors, folder) -> None:
    """Read `layers`, by the names of their weights. Raises InputError for what is missing or of another size."""
    # The largest first: while it is turned into the kernels' form there is little else in memory.
    for weight in sorted(layers, key=lambda name: -layers[name].in_features * layers[name].out_features):
        for part in (weight, f"{weight}.scale"):
            if part not in tensors:
                raise InputError(f"{folder}: tensor {part} is missing in {WEIGHTS}; make the variant again")
        _fill_layer(layers[weight], tensors, weight, folder)


def _fill_rest(model, layers: dict[str, QuantisedLinear], tensors: Tensors, folder) -> None:
    """Read what is not quantised. Raises InputError for what has no place in `model`, or another shape."""
    own = {f"{weight}{part}" for weight in layers for part in ("", ".scale", ".bits")}
    for tensor in [name for name in tensors.names() if name not in own]:
        path, _, leaf = tensor.rpartition(".")
        try:
            owner = model.get_submodule(path)
            place = owner._buffers if leaf in owner._buffers else owner._parameters
            shape = place[leaf].shape
        except (AttributeError, KeyError):
            raise InputError(f"{folder}: {type(model).__name__} has no place for {tensor} of {WEIGHTS}") from None
        value = tensors[tensor].clone()  # not the mapped file
        if value.shape != shape:
            raise InputError(f"{folder}: {tensor} has shape {list(value.shape)}, config.json says {list(shape)}")
        place[leaf] = nn.Parameter(value, requires_grad=False) if place is owner._parameters else value


def _fill_layer(layer: QuantisedLinear, tensors: Tensors, weight: str, folder) -> None:
    size = layer.out_features * layer.in_features
    flat, steps = tensors[weight], tensors[f"{weight}.scale"]
    keep = None
    if f"{weight}.bits" in tensors:
        keep = torch.from_numpy(np.unpackbits(tensors[f"{weight}.bits"].numpy(), count=size).view(bool))
    count = size if keep is None else int(keep.sum())
    expected = count if layer.grid.precision == "int8" else -(-count // 2)
    shape = layer.grid.steps_shape(layer.out_features, layer.in_features)
    if flat.shape != (expected,) or steps.shape != shape:
        raise InputError(
            f"{folder}: {weight} holds {list(flat.shape)} and scales {list(steps.shape)}, config.json says "
            f"[{expected}] and {list(shape)}"
        )
    levels = _levels(flat, count, layer.grid)
    if keep is not None:
        kept, levels = levels, torch.zeros(size, dtype=torch.int8)
        levels[keep] = kept
    layer.hold(levels.view(layer.out_features, layer.in_features), steps)
