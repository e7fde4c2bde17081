"""The dense model in dynamic int8, the practitioner's usual alternative to pruning, in memory and on disk.

torchao's `Int8DynamicActivationInt8Weight`: weights int8 with one scale an output row, activations quantised a token at
a time. (Torch's own `quantize_dynamic` has one scale for all activations of a layer, which outliers ruin: it costs
SmolLM2-135M 1.3 nats where this costs 0.05.) Quantised are the linear layers of the decoder blocks, the same tensors
that pruning is about; embeddings and head stay as they are.

On disk: the dense folder's companions, `int8.json`, and `packed-int8.safetensors` with `<weight>.qdata` (int8) and
`<weight>.scale` (one an output row) in place of each quantised weight.
"""

import warnings
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from prunelab import models
from prunelab.checkpoint import INT8_MARK, Tensors, copy_companions
from prunelab.errors import InputError
from prunelab.files import read_json, whole_directory, write_json

FILE = "packed-int8.safetensors"
FORMAT = "prunelab-int8-1"


def missing() -> str | None:
    """Why this machine cannot run int8, or None."""
    from importlib.util import find_spec

    return None if find_spec("torchao") else "torchao is not installed: pip install -e '.[int8]'"


def quantise(model) -> list[str]:
    """Quantise, in place, the linear layers of the blocks; returns the names of their weights.

    GPT-2's `Conv1D` becomes a `Linear` first. Raises InputError without torchao.
    """
    names = _linears(model)
    for name in names:
        _quantise_layer(model.get_submodule(name))
    return [f"{name}.weight" for name in names]


def save(dense, out, name: str) -> dict:
    """Write the quantised model of folder `dense` into folder `out`; returns what int8.json says."""
    from prunelab import checkpoint

    model = checkpoint.load(dense)
    quantised = quantise(model)
    tensors = {}
    stored = set(Tensors(dense).names())
    for tensor, value in model.state_dict().items():
        if tensor in quantised:
            tensors[f"{tensor}.qdata"], tensors[f"{tensor}.scale"] = value.qdata, value.scale.contiguous()
        elif tensor in stored:  # a tied head is stored once
            tensors[tensor] = value.contiguous()
    with whole_directory(out) as partial:
        copy_companions(dense, partial)
        save_file(tensors, partial / FILE, {"format": "pt"})
        facts = {"variant": name, "format": FORMAT, "layers": len(quantised), "bytes": (partial / FILE).stat().st_size}
        write_json(partial / INT8_MARK, facts)
    return facts


def load(folder):
    """The model that `save` wrote, in eval mode on the CPU; no more than one layer is ever held unquantised."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    if (found := read_json(folder / INT8_MARK).get("format")) != FORMAT:
        raise InputError(f"{folder / INT8_MARK}: format {found!r}, this version reads {FORMAT}")
    tensors = Tensors(folder, FILE)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        _linears(model)
    for tensor in tensors.names():
        name, _, part = tensor.rpartition(".")
        if part == "scale":
            continue
        if part == "qdata":
            layer = model.get_submodule(name.rpartition(".")[0])
            weight = tensors[tensor].float() * tensors[f"{name}.scale"].float()
            layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
            _quantise_layer(layer)
            layer.weight.qdata.copy_(tensors[tensor])  # exactly, whatever rounding the way back did
            layer.weight.scale.copy_(tensors[f"{name}.scale"])
            continue
        owner = model.get_submodule(name)
        if part in owner._buffers:
            owner._buffers[part] = tensors[tensor]
        else:
            owner._parameters[part] = nn.Parameter(tensors[tensor], requires_grad=False)
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
