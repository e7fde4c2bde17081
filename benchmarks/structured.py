"""Does removing structure make a real model faster? `depth` and `mlp-width` beside dense, eager against eager.

    python -m benchmarks.structured data/fetched/model                        # SmolLM2: depth-25 and mlp-width-30
    python -m benchmarks.structured models/s1/dense --variants depth-25 --seconds 60

Each variant is timed beside the dense model, alternating pass by pass, after dense beside a second copy of itself (the
A/A test, the smallest effect that this session can tell) and beside a mask of the same rate, which must show nothing.
Ratios are dense over variant: how many times faster it decodes, with the 95 % interval. Figures to reach on SmolLM2:
depth-25 at least 1.2, mlp-width-30 at least 1.1, intervals that exclude 1; the mask "no difference".
Speed does not depend on which neurons or blocks go, so they are chosen by weights alone. The last line is JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from prunelab import stats
from prunelab.disk import turns
from prunelab.efficiency import latency
from prunelab.models import checkpoint, models
from prunelab.recipes import variants
from prunelab.structure import removal

WEIGHTS_ALONE = {"depth": "depth-random", "mlp-width": "mlp-width-norms"}


def masked(dense: Path, rate: float):
    """The dense model with the smallest `rate` of each prunable tensor at zero."""
    model = checkpoint.load(dense)
    with torch.no_grad():
        for tensor in models.prunable_tensors(model):
            weight = model.get_parameter(tensor["name"])
            border = weight.abs().flatten().kthvalue(max(1, int(rate * weight.numel()))).values
            weight.masked_fill_(weight.abs() <= border, 0)
    return model


def smaller(dense: Path, identifier: str, folder: Path, round_to: int) -> dict:
    """Write the structured variant into `folder`; returns its sparsity.json."""
    variant = variants.parse(identifier)
    named = variants.make(WEIGHTS_ALONE.get(variant.method, variant.method), variant.rate)
    return removal.remove(dense, folder, removal.Plan(named, round_to, "last", 0))


def timed(model, dense, work: latency.Work, seconds: float) -> dict:
    """latency's figures of `model` beside `dense`."""
    arms = {"variant": model, "dense": dense}
    ids = latency.prompts(dense, work, 0)
    latency.warm_up(arms, ids, work.output_tokens, seconds / 2)
    return latency.summary(latency.interleave(arms, ids, work, seconds, 0), 0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__.partition("\n")[0])
    parser.add_argument("dense", type=Path, help="folder of a plain model")
    parser.add_argument("--variants", nargs="+", default=["depth-25", "mlp-width-30"])
    parser.add_argument("--seconds", type=float, default=60, help="of timing a model")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--round-to", type=int, default=8)
    arguments = parser.parse_args(argv)
    work = latency.Work(arguments.prompt_tokens, 1, arguments.output_tokens)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, turns.measuring():
        dense = checkpoint.load(arguments.dense)
        test = timed(checkpoint.load(arguments.dense), dense, work, arguments.seconds)
        smallest = stats.smallest_effect(_decode(test))
        print(f"A/A: decode {test['decode_ms_per_token']:.2f} ms; effects below {100 * smallest:.1f} % are nothing")
        cases = [("mask-30", lambda: (masked(arguments.dense, 0.30), None))]
        for identifier in arguments.variants:
            folder = Path(scratch) / identifier
            cases.append((identifier, lambda i=identifier, f=folder: _made(arguments, i, f)))
        for identifier, make in cases:
            model, record = make()
            figures = timed(model, dense, work, arguments.seconds)
            ratio, lo, hi = _decode(figures)
            row = {
                "variant": identifier,
                "removed": record["sparsity_pruned"] if record else None,
                "stored_share": record["packed_bytes"] / record["dense_bytes"] if record else None,
                "times_faster": 1 / ratio,
                "times_faster_lo": 1 / hi,
                "times_faster_hi": 1 / lo,
                "verdict": stats.verdict((ratio, lo, hi), smallest),
                "blocks": figures["blocks"],
                "dropped_blocks": figures["dropped_blocks"],
                "quiet": figures["quiet"],
            }
            rows.append(row)
            size = f", file {100 * row['stored_share']:.1f} % of dense" if record else ""
            print(
                f"{identifier}: decodes {row['times_faster']:.3f} x as fast ({row['times_faster_lo']:.3f} … "
                f"{row['times_faster_hi']:.3f}): {row['verdict']}{size}; {row['dropped_blocks']} blocks dropped",
                flush=True,
            )
    print(json.dumps({"smallest_effect": smallest, "threads": torch.get_num_threads(), "rows": rows}))


def _made(arguments, identifier: str, folder: Path):
    record = smaller(arguments.dense, identifier, folder, arguments.round_to)
    return checkpoint.load(folder), record


def _decode(figures: dict) -> stats.Interval:
    return figures["decode_ratio"], figures["decode_ratio_lo"], figures["decode_ratio_hi"]


if __name__ == "__main__":
    main()
