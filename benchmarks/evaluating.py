"""How fast is the quality stage's scoring, and how much memory does it take, beside lm-eval's own perplexity run?

    python -m benchmarks.evaluating --model models/dense --text data/fetched/text/test.txt --context 1024

Both score the same windows of the same text with the same loaded model in the same dtype; lm-eval through its
`loglikelihood_rolling`, the call behind its perplexity tasks, once with one window a batch (its default) and once with
as many as ours has in flight. The arms alternate, A B C C B A …; printed are tokens/s, the median over rounds of the
ratio to the *faster* of lm-eval's two (target: 1.5), and the losses (lm-eval also scores the first token of a window,
behind a start token, so they differ a little). Then each arm runs once more in a fresh process for its peak resident
memory beyond the loaded model (target: below lm-eval's). The load of the machine is printed, because it decides: ours
scores windows on threads that do not wait for each other, which matters the more the busier the machine is. The last
line is JSON.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=4, help="windows held at once (ours, and lm-eval's batch)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--only", choices=("ours", "lm-eval-1", "lm-eval-batch"), help="one arm, once, for its memory")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(memory_of(arguments)))
        return

    arms, tokens = prepare(arguments)
    losses = {name: arm() for name, arm in arms.items()}  # also warms up
    seconds = {name: [] for name in arms}
    for number in range(arguments.rounds):
        for name in list(arms) if number % 2 else reversed(arms):
            begin = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - begin)
        print(f"round {number + 1}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    ratios = {
        name: statistics.median(b / a for a, b in zip(seconds["ours"], seconds[name], strict=True))
        for name in arms
        if name != "ours"
    }
    memory = {name: fresh_process(name) for name in arms}
    for name in arms:
        rate = tokens / statistics.median(seconds[name])
        used = memory[name]["beyond_model_bytes"] / 2**20
        print(f"{name:14} {rate:9.0f} tokens/s   loss {losses[name]:.5f}   {used:7.0f} MiB beyond the model")
    result = {
        "context": arguments.context,
        "windows": arguments.windows,
        "dtype": memory["ours"]["dtype"],
        "ratio": min(ratios.values()),
        "ratios": ratios,
        "seconds": seconds,
        "memory": memory,
        "memory_ratio": memory["ours"]["beyond_model_bytes"]
        / min(used["beyond_model_bytes"] for name, used in memory.items() if name != "ours"),
        "load_average": os.getloadavg()[0],
    }
    print(f"ratio {result['ratio']:.2f} (target 1.5), memory {result['memory_ratio']:.2f} of lm-eval's (target < 1)")
    print(json.dumps(result))


def prepare(arguments):
    """(name → function that scores all windows and returns nats a token, scored tokens)."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from prunelab import checkpoint, quality, windows

    model = quality.ready(checkpoint.load(arguments.model), quality.precision(arguments.precision))
    for weight in model.parameters():
        weight.detach().sum()  # they are mapped from the file, and read at first use
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text = arguments.text.read_text(encoding="utf-8")
    cut = windows.cut(*windows.tokenise(tokenizer, text), arguments.context, arguments.windows)
    # lm-eval takes text and scores it from a first token of its choice: each of our windows is one such text.
    texts = [text.encode()[start:stop].decode() for start, stop in cut.spans.tolist()]

    def ours() -> float:
        batch = arguments.in_flight * arguments.context
        return float(quality.score(model, cut.tokens, "ours", batch_tokens=batch).loss.mean())

    def theirs(batch: int):
        runner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=arguments.context)
        requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
        count = sum(len(runner.tok_encode(text)) for text in texts)

        def run() -> float:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                return -sum(runner.loglikelihood_rolling(requests, disable_tqdm=True)) / count

        return run

    arms = {"ours": ours, "lm-eval-1": theirs(1), "lm-eval-batch": theirs(arguments.in_flight)}
    return arms, int(np.prod(cut.tokens.shape))


def memory_of(arguments) -> dict:
    """Peak resident bytes of this process while one arm runs, and what of it came on top of the loaded model."""
    from prunelab import memory, quality

    arms, _ = prepare(arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading; Linux only
    before = memory.peak_resident_bytes()
    arms[arguments.only]()
    peak = memory.peak_resident_bytes()
    return {"peak_bytes": peak, "beyond_model_bytes": peak - before, "dtype": quality.precision(arguments.precision)}


def fresh_process(arm: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.evaluating", *sys.argv[1:], "--only", arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
