"""Memory and work of a model that really runs: peak memory while serving, what it holds, cache and MACs per token.

    python -m prunelab.efficiency.memory models/wanda-50        one fresh process: load, serve, print the peak as JSON

The peak counts the whole process (Python, libraries, loading, serving), as whoever deploys it has to. So it must be
read before anything else is loaded: the efficiency stage serves its variant first of all. Linux tells the peak of
*this* program as VmHWM; `ru_maxrss` would pass on the peak of whatever process started it.
"""

import argparse
import contextlib
import functools
import importlib
import json
import os
import resource
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prunelab import errors, stats
from prunelab.efficiency import latency
from prunelab.models import caches, workers
from prunelab.quantised.layers import QuantisedLinear, quantised_layers

PROCESSES = 3  # beside the one that is measured: how much the peak differs from one to the next


def peak_resident_bytes() -> int:
    """Largest resident memory of this program since it started."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of_serving(folder, work: latency.Work, seed: int, inputs: dict | None = None):
    """Load the model in `folder` and serve it once: (model, {"peak_memory_bytes", "peak_reserved_bytes"}).

    inputs: what it is served (latency.prompted); None: random tokens.
    On a GPU the peaks are those of its memory, allocated and reserved; on a CPU the first is resident memory and
    the second None. Call it in a fresh process, before other models are loaded.
    """
    from prunelab.quantised import opening

    model = on_device(opening.load(folder))
    latency.serve(model, inputs_of(model, work, seed, inputs), work.output_tokens)
    if model.device.type != "cuda":
        return model, {"peak_memory_bytes": peak_resident_bytes(), "peak_reserved_bytes": None}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return model, {"peak_memory_bytes": allocated, "peak_reserved_bytes": reserved}


def inputs_of(model, work: latency.Work, seed: int, inputs: dict | None) -> latency.Inputs:
    """What `model` is served: a task's `inputs`, or random tokens where it has none."""
    return latency.prompts(model, work, seed) if inputs is None else latency.placed(model, inputs, work)


def peaks_of_forks(folder, work: latency.Work, seed: int, inputs: dict | None = None) -> list[int]:
    """`peak_memory_bytes` of PROCESSES forks of this process that each load the model in `folder` and serve it once.

    None on a GPU, whose allocations are counted and do not vary, and where forking is not safe. On one thread: those
    of this process do not live on in a fork, which would wait for them, and the spread is all that is asked for.
    Raises InputError.
    """
    if torch.cuda.is_available() or sys.platform != "linux":
        return []

    from prunelab.models import loading

    config = type(loading.config_of(folder))
    with contextlib.suppress(ImportError):  # what every fork would import again otherwise, which takes seconds
        importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))

    def peak() -> int:
        with workers.threads(1):
            return peak_of_serving(folder, work, seed, inputs)[1]["peak_memory_bytes"]

    return [_in_a_fork(peak) for _ in range(PROCESSES)]


def with_interval(peaks: dict, further: list[int]) -> dict:
    """`peaks` of peak_of_serving with the 95 % interval of `peak_memory_bytes`: Student's t from the spread of further
    processes, put around it. Where it is counted exactly (a GPU's), it is its own interval."""
    peak = peaks["peak_memory_bytes"]
    if not further:
        exact = peak if torch.cuda.is_available() else None
        return peaks | {"peak_memory_bytes_lo": exact, "peak_memory_bytes_hi": exact}
    mean, lo, hi = stats.seed_interval(further)
    return peaks | {"peak_memory_bytes_lo": peak + lo - mean, "peak_memory_bytes_hi": peak + hi - mean}


def _in_a_fork(action) -> int:
    """What `action()` returns in a process that begins where this one stands. Raises InputError where it does."""
    read, write = os.pipe()
    if not (child := os.fork()):
        said = {"error": "ended without a word"}
        try:
            said = {"value": action()}
        except Exception as error:  # told by the parent
            said = {"error": f"{'' if isinstance(error, errors.InputError) else type(error).__name__ + ': '}{error}"}
        finally:  # never back into the caller's code
            os.write(write, json.dumps(said).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = json.loads(file.read() or b'{"error": "a process that served the model was killed; is memory short?"}')
    os.waitpid(child, 0)
    if "error" in said:
        raise errors.InputError(said["error"])
    return said["value"]


def on_device(model):
    """The model on the device that measures: a GPU where there is one."""
    return model.to("cuda") if torch.cuda.is_available() else model


def parameter_counts(model) -> dict:
    """`parameters` and `nonzero_parameters` (a tied tensor counts once) and the bytes they are held in.

    A quantised weight is a parameter like any other, held as its levels and their scales.
    """
    tensors, layers = list(model.parameters()), list(quantised_layers(model).values())
    zeros = [tensor.numel() - int(tensor.count_nonzero()) for tensor in tensors] + [one.zeros() for one in layers]
    count = sum(tensor.numel() for tensor in tensors) + sum(one.in_features * one.out_features for one in layers)
    held = (*tensors, *(part for one in layers for part in (one.qdata, one.scale)))
    return {
        "parameters": count,
        "nonzero_parameters": count - sum(zeros),
        "parameter_bytes": sum(tensor.nbytes for tensor in held),
    }


@torch.inference_mode()
def kv_cache_bytes_per_token(model, inputs: latency.Inputs) -> float | None:
    """Bytes the cache grows by for each token of one sequence, counted on the cache that a prompt leaves.

    A layer with a window grows until it is full, and counts as long as it does. None for a model whose cache does not
    consist of keys and values (a state-space model's does not grow).
    """
    _, cache = latency.prefill(model, inputs)
    layers = caches.growing(cache)
    if layers is None:
        return None
    batch = len(latency.parts(inputs)[0])
    return sum((layer.keys.nbytes + layer.values.nbytes) / (batch * layer.keys.shape[2]) for layer in layers)


@torch.inference_mode()
def macs_per_token(model, inputs: latency.Inputs) -> int | None:
    """Multiply-accumulates of decoding one token after a prompt (batch 1), counted from the shapes that really run.

    A masked weight is multiplied like any other, so a mask saves none; a removed neuron does. None where something
    ran that nobody counts: a state-space model multiplies its state element by element, a kernel may be unknown.
    """
    from torch.utils.flop_counter import FlopCounterMode

    token, cache = latency.prefill(model, inputs)
    if model._is_stateful or not (torch.is_tensor(cache) or caches.growing(cache)):
        return None
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    with _Called(model) as called, _Seen() as seen, counter:
        latency.decode_one_token(model, token, cache)
    if any(_multiplies(operator) and operator not in counter.flop_registry for operator in seen.operators):
        return None
    counts = {name: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    if any(counts.get(name, 0) < least for name, least in called.least.items()):
        return None
    # Kernels of quantised layers also multiply the zeros that fill their rows up, which is no work of the model's.
    return counts["Global"] + sum(exact - counts.get(name, 0) for name, exact in called.exact.items())


def _formulas() -> dict:
    """Operations (two a multiply-accumulate) of operators that torch's own table (2.13) does not have, or has wrong."""

    def fused_attention(query_shape, key_shape, value_shape, *options, **named):
        """Not torch's own, which in 2.11 refuses query heads that share keys and values."""
        batch, heads, queries, width = query_shape
        return 2 * batch * heads * queries * key_shape[-2] * (width + value_shape[-1])

    def integer_product(left_shape, right_shape, *options, **named):
        return 2 * left_shape[0] * left_shape[1] * right_shape[1]

    def of_packed_rows(left_shape, right_shape, *options, **named):
        """Rows (tokens, in) by a weight (out, …), however its rows are packed."""
        return 2 * left_shape[0] * left_shape[1] * right_shape[0]

    def grouped_product(left_shape, right_shape, *options, **named):
        """Each row of the left (rows, in) by the matrix of its group in the right (groups, in, out)."""
        groups = left_shape[0] if len(left_shape) == len(right_shape) == 3 else 1
        return 2 * groups * left_shape[-2] * left_shape[-1] * right_shape[-1]

    formulas = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused_attention,
        torch.ops.aten._scaled_dot_product_flash_attention: fused_attention,  # this and the next two of GPUs
        torch.ops.aten._scaled_dot_product_efficient_attention: fused_attention,
        torch.ops.aten._scaled_dot_product_cudnn_attention: fused_attention,
        torch.ops.aten._int_mm: integer_product,
        torch.ops.aten._weight_int8pack_mm: of_packed_rows,
        torch.ops.aten._weight_int4pack_mm_for_cpu: of_packed_rows,
        torch.ops.aten._grouped_mm: grouped_product,  # fused experts
    }
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):  # the library's own, where torch's is of no use
        formulas[torch.ops.transformers.grouped_mm_fallback] = grouped_product
    return formulas


class _Seen(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self):
        super().__init__()
        self.operators: set = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators.add(function.overloadpacket)
        return function(*args, **kwargs or {})


def _multiplies(operator) -> bool:
    """Whether an operator's name says that it sums products; one that torch does not bring itself may do anything."""
    space, _, name = str(operator).partition(".")
    if space not in ("aten", "prim", "prims"):
        return True
    words = name.strip("_").split("_")
    return any(
        word.endswith(("mm", "mv", "matmul", "conv1d", "conv2d", "conv3d", "dot"))
        or word in ("linear", "attention", "convolution", "bilinear", "lstm", "gru", "rnn", "ger", "addr")
        for word in words
    )


class _Called:
    """The modules of a model that are called and hold matrices, with the least that each of them must multiply.

    By the names that the counter gives them: a matrix once, of a stack of them (experts) one. Lookups multiply nothing.
    `exact`: what quantised layers multiply.
    """

    def __init__(self, model):
        self.least: dict[str, int] = {}
        self.exact: dict[str, int] = {}
        self._model, self._hooks = model, []

    def __enter__(self):
        for name, module in self._model.named_modules():
            if isinstance(module, QuantisedLinear):
                self._hooks.append(module.register_forward_hook(functools.partial(self._add, name)))
                continue
            matrices = [
                one for one in module.parameters(recurse=False) if one.dim() in (2, 3) and one.is_floating_point()
            ]
            if matrices and not isinstance(module, torch.nn.Embedding):
                least = sum(one.numel() // (len(one) if one.dim() == 3 else 1) for one in matrices)
                place = f"{type(self._model).__name__}.{name}"
                note = lambda *_, place=place, least=least: self.least.update({place: least})  # noqa: E731
                self._hooks.append(module.register_forward_hook(note))
        return self

    def _add(self, name: str, layer: QuantisedLinear, args, output) -> None:
        place = f"{type(self._model).__name__}.{name}"
        self.exact[place] = self.exact.get(place, 0) + args[0].numel() * layer.out_features

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prunelab.efficiency.memory", description="Peak memory of serving a model."
    )
    parser.add_argument("model", type=Path, help="folder of a model, plain or packed")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args(argv)
    work = latency.Work(arguments.prompt_tokens, arguments.batch, arguments.output_tokens)
    print(json.dumps(peak_of_serving(arguments.model, work, seed=0)[1]))


if __name__ == "__main__":
    errors.exit_cleanly(main)
