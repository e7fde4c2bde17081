"""Other ways to run a model than torch as it is: compiled, 2:4 kernels, ONNX Runtime.

    runtimes.available()                      {"eager": None, "semi-structured": "needs a CUDA GPU …", …}
    model = runtimes.prepare(model, "onnx")   serves like the model itself

What `prepare` returns is called as transformers models are, `model(input_ids=…, past_key_values=…, use_cache=True)`,
and returns `logits` and `past_key_values` (or what else the model keeps: caches.py); it has `config`, `device` and
`get_input_embeddings()`. So whatever times a model can time it on every runtime. `prepare` raises InputError where the
machine or the model cannot.
"""

import copy
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from prunelab.errors import InputError
from prunelab.models import models
from prunelab.quantised.layers import quantised_layers

MEANING = {
    "eager": "torch as it is",
    "compile": "torch.compile (inductor)",
    "semi-structured": "2:4 sparse kernels of CUDA, fp16",
    "onnx": "ONNX Runtime, fp32",
}


def available() -> dict[str, str | None]:
    """Every runtime by name: None where it is here, else the reason why not."""
    compiler = None if torch.cuda.is_available() or _has_compiler() else "torch.compile needs a C++ compiler (g++)"
    return {
        "eager": None,
        "compile": compiler,
        "semi-structured": _without_sparse_kernels(),
        "onnx": _without_onnx(),
    }


def prepare(model, name: str):
    """`model` (eval mode) made to run on the runtime `name`; the model itself stays as it is.

    Compilation happens at the first passes. Raises InputError where the runtime is not here, or not for this model.
    """
    if name not in MEANING:
        raise InputError(f"runtimes.names: there is no {name!r}; allowed: {', '.join(MEANING)}")
    if reason := available()[name]:
        raise InputError(f"{name}: not available here: {reason}")
    return PREPARE[name](model)


def _compiled(model):
    # dynamic: one graph for every length of prompt and cache, instead of one each.
    return torch.compile(_twin(model), dynamic=True)


def _semi_structured(model):
    _require_plain(model, "semi-structured", "2:4 kernels multiply by weights in fp16")
    if where := breaks_2_of_4(model):
        raise InputError(f"semi-structured: {where} is not 2:4 sparse; only <method>-2of4 variants are")
    twin = _twin(model).to("cuda", torch.float16)
    for tensor in models.prunable_tensors(twin):
        layer = twin.get_submodule(tensor["name"].removesuffix(".weight"))
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
    return twin


def _onnx(model):
    from prunelab.models import onnx

    _require_plain(model, "onnx", "its exporter knows no operator for weights that are held so")
    return onnx.session(model)


PREPARE = {
    "eager": lambda model: model,
    "compile": _compiled,
    "semi-structured": _semi_structured,
    "onnx": _onnx,
}


def _require_plain(model, name: str, why: str) -> None:
    """Raises InputError for a quantised model."""
    if found := quantised_layers(model):
        precision = next(iter(found.values())).grid.precision
        raise InputError(f"{name}: this model's layers are in {precision}, and {why}; take the row it was made of")


def _twin(model):
    """A copy that may be changed; a compiled or quantised one must not reach back into the original."""
    return copy.deepcopy(model)


def breaks_2_of_4(model) -> str | None:
    """The first prunable tensor with more than 2 non-zeros among 4 consecutive inputs, or None."""
    for tensor in models.prunable_tensors(model):
        weight = model.get_parameter(tensor["name"]).detach()
        rows = weight.T if tensor["transposed"] else weight
        if tensor["transposed"]:
            return f"{tensor['name']} (a Conv1D, which has no sparse kernel)"
        if rows.shape[1] % 4 or (rows.reshape(-1, 4) != 0).sum(1).gt(2).any():
            return tensor["name"]
    return None


def _has_compiler() -> bool:
    return any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++"))


def _without_sparse_kernels() -> str | None:
    if not torch.cuda.is_available():
        return "2:4 kernels need a CUDA GPU of compute capability 8.0 or more; this machine has no CUDA GPU"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"2:4 kernels need compute capability 8.0 or more; {torch.cuda.get_device_name()} has {major}.{minor}"
    return None


def _without_onnx() -> str | None:
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if not find_spec(package)]
    return f"{', '.join(missing)} not installed: pip install -e '.[onnx]'" if missing else None
