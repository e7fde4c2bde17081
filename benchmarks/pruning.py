"""What does pruning a real model cost, beside the bare computing that its method cannot do without?

    python -m benchmarks.pruning --model models/s1/dense --text data/fetched/text/train.txt

Four questions, each as a ratio of things measured in turn in one run, so that a slow minute hits both:

    wanda, sparsegpt   pruning as published (calibrate, decide, write), to two bare forward passes of the same samples
                       (in the fastest mode this machine has: whole model in memory, batched, no output layer)
    sweep              the stage calibrate and the stages prune of 3 score methods x 5 rates as processes, with their
                       start and writing, to the same stages for a single variant (`propagate: dense`)
    solve              SparseGPT for each shape of layer, to its matrix products alone: Hessian, factorisation, updates

Targets: 1.2, 2.2, 2 and 2. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("wanda", "sparsegpt", "solve", "sweep")
TARGETS = {"wanda": 1.2, "sparsegpt": 2.2, "solve": 2.0, "sweep": 2.0}
SWEEP = {"methods": ["magnitude", "wanda", "ria"], "rates": [30, 40, 50, 60, 70]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a dense model, as the stage train leaves it")
    parser.add_argument("--text", type=Path, required=True, help="text to calibrate on")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4, help="samples a forward pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()

    import torch

    from prunelab.models import models

    tokens = tokenised(arguments)
    print(f"{arguments.samples} x {arguments.length} tokens, {torch.get_num_threads()} threads, "
          f"{'bf16' if models.computes_bf16() else 'fp32'}", flush=True)  # fmt: skip
    parts = arguments.only or PARTS
    found = {}
    with tempfile.TemporaryDirectory(prefix="pruning-") as scratch:
        scratch = Path(scratch)
        if {"wanda", "sparsegpt"} & set(parts):
            found |= passes(arguments, tokens, [part for part in parts if part in ("wanda", "sparsegpt")], scratch)
        if "solve" in parts:
            found["solve"] = solving(arguments, tokens)
        if "sweep" in parts:
            found["sweep"] = sweep(arguments, scratch)
    for part, result in found.items():
        print(f"{part:10} {result['ratio']:.2f} (target {TARGETS[part]})")
    print(json.dumps({"samples": arguments.samples, "length": arguments.length, **found}))


def tokenised(arguments):
    """(samples, length) int64 seeded crops of the text."""
    import torch
    from transformers import AutoTokenizer

    from prunelab.tasks.language import crops

    text = arguments.text.read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(arguments.model)(text, add_special_tokens=False, verbose=False)["input_ids"]
    return crops.draw(torch.tensor(ids), arguments.samples, arguments.length, seed=0)


def timed(arms: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of every arm in every round; the order turns round, so that a drift hits all alike."""
    seconds = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms) if number % 2 == 0 else reversed(arms):
            begin = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - begin)
            print(f"  round {number + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def ratio_of(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def passes(arguments, tokens, methods: list[str], scratch: Path) -> dict:
    """Pruning as published, to two bare forward passes."""
    import torch

    from prunelab.calibration import calibration
    from prunelab.calibration.blocks import BlockModel
    from prunelab.models import checkpoint, models
    from prunelab.pruning import pruning, streaming
    from prunelab.recipes import variants

    dtype = torch.bfloat16 if models.computes_bf16() else torch.float32
    bare = checkpoint.load(arguments.model, dtype).base_model
    (scratch / "calibration").mkdir()
    calibration.write(
        scratch / "calibration", {"input_ids": tokens}, {"source": "text", "seed": 0, "propagate": "pruned"}
    )

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(2):
            for part in tokens.split(arguments.batch):
                bare(input_ids=part, use_cache=False)

    def prune(method: str) -> None:
        plan = pruning.Plan(variants.parse(f"{method}-50"), "uniform", "blocks", "last", seed=0)
        decide = streaming.decide_by_blocks(plan, BlockModel(arguments.model), {"input_ids": tokens}, arguments.batch)
        seen = calibration.Calibration(scratch / "calibration")
        pruning.prune(arguments.model, scratch / "variant", plan, seen, decide)

    arms = {"two forward passes": forward} | {method: lambda method=method: prune(method) for method in methods}
    seconds = timed(arms, arguments.rounds)
    base = seconds["two forward passes"]
    return {name: {"ratio": ratio_of(seconds[name], base), "seconds": seconds[name], "bare": base} for name in methods}


def solving(arguments, tokens) -> dict:
    """SparseGPT of each distinct shape of layer in the model, to its matrix products alone in the same precisions."""
    import torch

    from prunelab.calibration.observer import InputSums
    from prunelab.pruning import sparsegpt
    from prunelab.pruning.pruning import tensors_in_scope

    scope = tensors_in_scope(arguments.model, "blocks")
    shapes = {tuple(t["shape"][::-1] if t["transposed"] else t["shape"]) for t in scope}
    generator = torch.Generator().manual_seed(0)
    total = {"solve": [0.0] * arguments.rounds, "products": [0.0] * arguments.rounds}
    for out, inputs in sorted(shapes):
        rows = torch.randn(tokens.numel(), inputs, generator=generator)
        weight = torch.randn(out, inputs, generator=generator)

        def solve(rows=rows, weight=weight) -> None:
            sums = InputSums(rows.shape[1], rows.device, hessian=True)
            sums.add(rows)
            sparsegpt.solve(weight, sparsegpt.factorise(sums.hessian()), sparsity=0.5)

        def products(rows=rows, weight=weight) -> None:
            """The Hessian's product, one factorisation and one triangular inverse, and what each block passes on."""
            hessian = (rows.T @ rows).double()
            hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
            lower = torch.linalg.cholesky(hessian)
            upper = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False).T
            work = weight.double().T.contiguous()
            for start in range(0, len(work), sparsegpt.BLOCK):
                stop = start + sparsegpt.BLOCK
                work[stop:].addmm_(upper[start:stop, stop:].T, work[start:stop], alpha=-1e-9)

        solve(), products()  # warm up
        print(f"  {out} x {inputs}")
        for name, values in timed({"solve": solve, "products": products}, arguments.rounds).items():
            total[name] = [a + b for a, b in zip(total[name], values, strict=True)]
    return {"ratio": ratio_of(total["solve"], total["products"]), "seconds": total["solve"], "bare": total["products"]}


def sweep(arguments, scratch: Path) -> dict:
    """Stages as processes: one calibration and 15 variants, to one calibration and one variant."""
    from ruamel.yaml import YAML

    from prunelab.study import studies

    yaml = YAML()
    settings = yaml.load(studies.merge("smollm2").text)
    settings["prune"]["methods"], settings["prune"]["rates"] = SWEEP["methods"], SWEEP["rates"]
    settings["calibrate"] |= {"samples": arguments.samples, "length": arguments.length}
    settings["calibrate"] |= {"batch_tokens": arguments.batch * arguments.length, "propagate": "dense"}
    yaml.dump(settings, scratch / "params.yaml")
    (scratch / "data" / "text").mkdir(parents=True)
    (scratch / "data" / "text" / "train.txt").symlink_to(arguments.text.resolve())
    dense, root = str(arguments.model.resolve()), str(Path(__file__).resolve().parents[1])

    def stage(name: str, *words: str) -> None:
        command = [sys.executable, "-m", f"stages.{name}", *words, "--dense", dense]
        command += ["--energy", f"{name}.json"]
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr}")

    def study(variants: list[str]) -> None:
        stage("calibrate", "--data", "data", "--out", "calibration")
        for variant in variants:
            stage("prune", variant, "--calibration", "calibration", "--data", "data", "--out", "variant")

    every = [f"{method}-{rate}" for method in SWEEP["methods"] for rate in SWEEP["rates"]]
    seconds = timed({"one": lambda: study(["wanda-50"]), "sweep": lambda: study(every)}, max(1, arguments.rounds - 1))
    return {"ratio": ratio_of(seconds["sweep"], seconds["one"]), "seconds": seconds["sweep"], "bare": seconds["one"]}


if __name__ == "__main__":
    main()
