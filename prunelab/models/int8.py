"""The dense model in dynamic int8, the practitioner's usual alternative to pruning, in memory and on disk.

torchao's `Int8DynamicActivationInt8Weight`: weights int8 with one scale an output row, activations quantised a token at
a time. (Torch's own `quantize_dynamic` has one scale for all activations of a layer, which outliers ruin: it costs
SmolLM2-135M 1.3 nats where this costs 0.05.) Quantised are the linear layers of the decoder blocks, the same tensors
that pruning is about; embeddings and head stay as they are.

On disk: the dense folder's companions, `int8.json`, and `packed-int8.safetensors` with everything that the model holds,
by the module's names: `<weight>.qdata` (int8) and `<weight>.scale` (one an output row) in place of each quantised
weight, a tied tensor once.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from prunelab.disk.files import read_json, whole_directory, write_json
from prunelab.errors import InputError, in_one_line
from prunelab.models import models
from prunelab.models.packed import INT8_MARK, copy_companions
from prunelab.models.tensors import Tensors, identity

FILE = "packed-int8.safetensors"
FORMAT = "prunelab-int8-1"
PROBE_TOKENS = 8  # of the pass that shows whether a model runs in int8


def missing() -> str | None:
    """Why this machine cannot run int8, or None."""
    from importlib.util import find_spec

    return None if find_spec("torchao") else "torchao is not installed: pip install -e '.[int8]'"


def quantise(model) -> list[str]:
    """Quantise, in place, the linear layers of the blocks; returns the names of their weights.

    GPT-2's `Conv1D` becomes a `Linear` first. Raises InputError without torchao, and for a model that does more with a
    weight than to multiply by it: it would fail in its first pass.
    """
    names = _linears(model)
    if not names:
        raise _refusal(model, "its blocks have no linear layers")
    for name in names:
        _quantise_layer(model.get_submodule(name))
    try:
        _probe(model)
    except (NotImplementedError, RuntimeError, TypeError, AttributeError) as error:  # what tensors of int8 can't do
        found = in_one_line(error, 120)
        raise _refusal(model, f"it uses a weight otherwise than to multiply by it ({found})") from error
    return [f"{name}.weight" for name in names]


def _refusal(model, why: str) -> InputError:
    return InputError(f"int8: {type(model).__name__} cannot run in int8: {why}; take int8 out of prune.further")


@torch.inference_mode()
def _probe(model) -> torch.Tensor:
    """Logits (1, PROBE_TOKENS, vocabulary) of the first tokens of the vocabulary."""
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    return model(input_ids=ids, use_cache=False).logits


def save(model, source, out, name: str) -> dict:
    """Quantise `model`, which was loaded from folder `source`, and write it into folder `out`; what int8.json says.

    Raises InputError for a model that cannot run in int8, and where the folder would be another model.
    """
    with whole_directory(out) as partial:
        return write(model, source, partial, name, identity(source))


def write(model, source, folder, name: str, dense_sha256: str) -> dict:
    """As `save`, into the existing `folder`; dense_sha256: the identity of the dense model that it was made of."""
    folder = Path(folder)
    quantised = set(quantise(model))
    tensors, seen = {}, set()
    for tensor, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:  # tied: one tensor under two names
            continue
        seen.add(id(value))
        if tensor in quantised:
            tensors[f"{tensor}.qdata"], tensors[f"{tensor}.scale"] = value.qdata, value.scale.contiguous()
        else:
            tensors[tensor] = value.detach().contiguous()
    copy_companions(source, folder)
    save_file(tensors, folder / FILE, {"format": "pt"})
    facts = {"variant": name, "format": FORMAT, "layers": len(quantised), "bytes": (folder / FILE).stat().st_size}
    facts["dense_sha256"] = dense_sha256
    write_json(folder / INT8_MARK, facts)
    if wrong := _different(model, load(folder)):
        raise _refusal(model, f"its folder holds another {wrong}")
    return facts


def _different(model, loaded) -> str | None:
    """The first tensor of `model` that `loaded` holds with other values, after one pass of what was loaded."""
    found = loaded.state_dict()
    for name, value in model.state_dict().items():
        parts = ("qdata", "scale") if hasattr(value, "qdata") else ("data",)
        if not all(torch.equal(getattr(value, part), getattr(found[name], part, torch.empty(0))) for part in parts):
            return name
    _probe(loaded)
    return None


def load(folder):
    """The model that `save` wrote, in eval mode on the CPU; no more than one layer is ever held unquantised."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from prunelab.models import loading

    folder = Path(folder)
    if (found := read_json(folder / INT8_MARK).get("format")) != FORMAT:
        raise InputError(f"{folder / INT8_MARK}: format {found!r}, this version reads {FORMAT}")
    tensors = Tensors(folder, FILE)
    dtype = next(tensors[f"{name.removesuffix('.qdata')}.scale"].dtype for name in tensors.names() if ".qdata" in name)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(loading.config_of(folder), dtype=dtype)
        _linears(model)
    for tensor in tensors.names():
        name, _, part = tensor.rpartition(".")
        if part == "scale" and f"{name}.qdata" in tensors:
            continue
        if part == "qdata":
            layer, scale = model.get_submodule(name.rpartition(".")[0]), tensors[f"{name}.scale"]
            weight = tensors[tensor].float() * scale.float()
            layer.weight = nn.Parameter(weight.to(scale.dtype), requires_grad=False)
            _quantise_layer(layer)
            layer.weight.qdata.copy_(tensors[tensor])  # exactly, whatever rounding the way back did
            layer.weight.scale.copy_(scale)
            continue
        owner = model.get_submodule(name)
        if part in owner._buffers:
            owner._buffers[part] = tensors[tensor]
        else:
            owner._parameters[part] = nn.Parameter(tensors[tensor], requires_grad=False)
    if any(parameter.is_meta for parameter in model.parameters()):  # else nothing is tied, whatever the config says
        model.tie_weights()
    if left := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise InputError(f"{folder / FILE}: tensor {left[0]} is missing; run the stage int8 again")
    return model.eval()


def _linears(model) -> list[str]:
    """Names of the linear layers of the blocks, each of which is a `Linear` afterwards."""
    names = [tensor["name"].removesuffix(".weight") for tensor in models.prunable_tensors(model)]
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _plain(layer))
    return names


def _plain(conv) -> nn.Linear:
    """A Conv1D (in, out) as a Linear."""
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta", dtype=conv.weight.dtype)
    linear.weight = nn.Parameter(conv.weight.detach().T.contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    return linear


def _quantise_layer(layer: nn.Linear) -> None:
    if reason := missing():
        raise InputError(f"int8: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(nn.ModuleList([layer]), Int8DynamicActivationInt8WeightConfig())
