"""From how many tokens on is a dense product faster than the kernels for int8 and int4? Found: kernels.TOKENS.

    python -m benchmarks.crossover                    # layers of SmolLM2-135M
    python -m benchmarks.crossover --shapes 4096x4096 --threads 1

For each layer (outputs x inputs) and number of tokens: the kernel's time over that of the dense product, the layer made
dense included, which are taken in turn; the median of all rounds. Below one the kernel is faster. TOKENS is, for
each precision, the largest of these numbers up to which that holds for every layer and number of threads.
The last line is JSON.
"""

import argparse
import json
import time

import numpy as np
import torch

from prunelab.quantised import kernels
from prunelab.quantised.grid import PRECISIONS, Grid
from prunelab.quantised.layers import QuantisedLinear
from prunelab.quantised.quantising import nearest

TOKENS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
COPIES = 8  # of a layer, used in turn: more than a processor's cache keeps, as in a model


def ratio(layers: list[QuantisedLinear], tokens: int, dtype: torch.dtype, rounds: int) -> float:
    """The kernel's time over the dense product's."""
    x = torch.randn(tokens, layers[0].in_features).to(dtype)
    paths = {"kernel": tokens * layers[0].in_features, "dense": 0}
    found = {name: [] for name in paths}
    for number in range(rounds + 1):  # the first warms up
        for name, few in paths.items():
            for layer in layers:
                layer._few = few
            start = time.perf_counter()
            for layer in layers:
                layer(x)
            if number:
                found[name].append(time.perf_counter() - start)
    return float(np.median(np.array(found["kernel"]) / np.array(found["dense"])))


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossover", description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=["576x576", "1536x576", "576x1536"], help="outputs x inputs")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args(argv)
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for shape in arguments.shapes:
            outputs, inputs = map(int, shape.split("x"))
            for precision in PRECISIONS:
                grid, layers = Grid(precision), []
                for _ in range(COPIES):
                    layers.append(QuantisedLinear(inputs, outputs, grid, torch.float32))
                    layers[-1].hold(*nearest("", torch.randn(outputs, inputs), grid))
                ratios = {tokens: ratio(layers, tokens, torch.float32, arguments.rounds) for tokens in TOKENS}
                rows.append({"threads": threads, "shape": shape, "precision": precision, "ratios": ratios})
                told = "  ".join(f"{tokens}: {value:.2f}" for tokens, value in ratios.items())
                print(f"{threads} threads, {shape}, {precision}: {told}", flush=True)
    faster = {
        precision: [n for n in TOKENS if all(row["ratios"][n] < 1 for row in rows if row["precision"] == precision)]
        for precision in PRECISIONS
    }
    print(json.dumps({"wide": kernels.WIDE, "kernel_is_faster_at": faster, "rows": rows}))


if __name__ == "__main__":
    main()
