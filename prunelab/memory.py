"""Memory and work of a model that really runs: peak memory while serving, what it holds, cache and MACs per token.

    python -m prunelab.memory models/wanda-50        one fresh process: load, serve, print the peak as JSON

The peak counts the whole process (Python, libraries, loading, serving), as whoever deploys it has to. So it must be
read before anything else is loaded: the efficiency stage serves its variant first of all. Linux tells the peak of
*this* program as VmHWM; `ru_maxrss` would pass on the peak of whatever process started it.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

import torch

from prunelab import errors, latency


def peak_resident_bytes() -> int:
    """Largest resident memory of this program since it started."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of_serving(folder, work: latency.Work, seed: int):
    """Load the model in `folder` and serve it once: (model, {"peak_memory_bytes", "peak_reserved_bytes"}).

    On a GPU the peaks are those of its memory, allocated and reserved; on a CPU the first is resident memory and
    the second None. Call it in a fresh process, before other models are loaded.
    """
    from prunelab import checkpoint

    model = on_device(checkpoint.load(folder))
    latency.serve(model, latency.prompts(model, work, seed), work.output_tokens)
    if model.device.type != "cuda":
        return model, {"peak_memory_bytes": peak_resident_bytes(), "peak_reserved_bytes": None}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return model, {"peak_memory_bytes": allocated, "peak_reserved_bytes": reserved}


def on_device(model):
    """The model on the device that measures: a GPU where there is one."""
    return model.to("cuda") if torch.cuda.is_available() else model


def parameter_counts(model) -> dict:
    """`parameters` and `nonzero_parameters` (a tied tensor counts once) and the bytes they are held in."""
    tensors = list(model.parameters())
    # A quantised weight is a tensor that holds two: its integers, and their scales.
    held = [[tensor.qdata, tensor.scale] if hasattr(tensor, "qdata") else [tensor] for tensor in tensors]
    return {
        "parameters": sum(tensor.numel() for tensor in tensors),
        "nonzero_parameters": sum(int(parts[0].count_nonzero()) for parts in held),
        "parameter_bytes": sum(part.nbytes for parts in held for part in parts),
    }


@torch.inference_mode()
def kv_cache_bytes_per_token(model, ids: torch.Tensor) -> float | None:
    """Bytes the cache grows by for each token of one sequence, counted on the cache that ids (batch, tokens) leaves.

    None for a model whose cache does not consist of keys and values (a state-space model's does not grow).
    """
    _, cache = latency.prefill(model, ids)
    layers = getattr(cache, "layers", [])
    if not layers or not all(torch.is_tensor(getattr(layer, "keys", None)) for layer in layers):
        return None
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) / ids.numel()


@torch.inference_mode()
def macs_per_token(model, ids: torch.Tensor) -> int:
    """Multiply-accumulates of decoding one token after ids (1, tokens), counted from the shapes that really run.

    A masked weight is multiplied like any other, so a mask saves none; a removed neuron does.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def fused_attention(query_shape, key_shape, value_shape, *options, **named):
        return sdpa_flop_count(query_shape, key_shape, value_shape)

    def integer_product(left_shape, right_shape, *options, **named):
        return 2 * left_shape[0] * left_shape[1] * right_shape[1]

    # The fused attention of CPUs and products of integers are missing from torch's own table (2.13).
    missing = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused_attention}
    missing |= {torch.ops.aten._int_mm: integer_product}
    token, cache = latency.prefill(model, ids)
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        latency.decode_one_token(model, token, cache)
    return counter.get_total_flops() // 2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m prunelab.memory", description="Peak memory of serving a model.")
    parser.add_argument("model", type=Path, help="folder of a model, plain or packed")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args(argv)
    work = latency.Work(arguments.prompt_tokens, arguments.batch, arguments.output_tokens)
    print(json.dumps(peak_of_serving(arguments.model, work, seed=0)[1]))


if __name__ == "__main__":
    errors.exit_cleanly(main)
