"""How fast is the quality stage's scoring, and how much memory does it take, beside lm-eval's own perplexity run?

    python -m benchmarks.evaluating --model models/s1/dense --text data/fetched/text/test.txt --context 1024

Both score the same windows of the same text with the same model; lm-eval through its `loglikelihood_rolling`, the call
behind its perplexity tasks:

    lm-eval         as it comes: one window a batch, in the dtype that the model is stored in
    lm-eval-same    one window a batch, given the model in the dtype that ours computes in
    lm-eval-batch   the same with as many windows a batch as ours has in flight

The arms alternate, A B C C B A …; printed are tokens/s, the median over rounds of the ratio to lm-eval as it comes
(target: 1.5) and to the faster of the two in our dtype, and the losses (lm-eval also scores the first token of a
window, behind a start token, so they differ a little). Then each arm runs once more in a fresh process for its peak
resident memory beyond the loaded model (target: below lm-eval's). The load of the machine is printed, because it
decides: ours scores windows on threads that do not wait for each other, which matters the more the busier the machine
is. The last line is JSON.
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

LM_EVAL = ("lm-eval", "lm-eval-same", "lm-eval-batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=2, help="windows held at once (ours, and lm-eval's batch)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision", choices=("stored", "bfloat16"), default="stored", help="of ours, and of lm-eval's"
    )
    parser.add_argument("--only", choices=("ours", *LM_EVAL), help="one arm, once, for its memory")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(memory_of(arguments)))
        return

    arms, tokens = prepare(arguments, ("ours", *LM_EVAL))
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
        "dtypes": {name: used["dtype"] for name, used in memory.items()},
        "ratio": ratios["lm-eval"],
        "ratio_same_dtype": min(ratios["lm-eval-same"], ratios["lm-eval-batch"]),
        "ratios": ratios,
        "seconds": seconds,
        "memory": memory,
        "memory_ratio": memory["ours"]["beyond_model_bytes"]
        / min(used["beyond_model_bytes"] for name, used in memory.items() if name != "ours"),
        "load_average": os.getloadavg()[0],
    }
    print(
        f"{result['ratio']:.2f} x lm-eval as it comes (target 1.5), {result['ratio_same_dtype']:.2f} x in our dtype; "
        f"memory {result['memory_ratio']:.2f} of the smallest of lm-eval's (target < 1)"
    )
    print(json.dumps(result))


def dtype_of(arm: str, arguments) -> str:
    return "stored" if arm == "lm-eval" else arguments.precision


def prepare(arguments, names):
    """(name → function that scores all windows and returns nats a token, scored tokens) of the arms `names`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from prunelab.models import checkpoint
    from prunelab.quality import quality, windows

    loaded = {}
    for dtype in {dtype_of(name, arguments) for name in names}:
        model = loaded[dtype] = quality.ready(checkpoint.load(arguments.model))
        if dtype == "bfloat16":
            model.bfloat16()
        for weight in model.parameters():
            weight.detach().sum()  # they are mapped from the file, and read at first use
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text = arguments.text.read_text(encoding="utf-8")
    cut = windows.cut(*windows.tokenise(tokenizer, text), arguments.context, arguments.windows)
    # lm-eval takes text and scores it from a first token of its choice: each of our windows is one such text.
    texts = [text.encode()[start:stop].decode() for start, stop in cut.spans.tolist()]

    def ours() -> float:
        batch = arguments.in_flight * arguments.context
        return float(
            quality.score(loaded[dtype_of("ours", arguments)], cut.tokens, "ours", batch_tokens=batch).loss.mean()
        )

    def theirs(name: str):
        model, batch = loaded[dtype_of(name, arguments)], arguments.in_flight if name == "lm-eval-batch" else 1
        runner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=arguments.context)
        requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
        count = sum(len(runner.tok_encode(text)) for text in texts)

        def run() -> float:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                return -sum(runner.loglikelihood_rolling(requests, disable_tqdm=True)) / count

        return run

    arms = {name: ours if name == "ours" else theirs(name) for name in names}
    return arms, int(np.prod(cut.tokens.shape))


def memory_of(arguments) -> dict:
    """Peak resident bytes of this process while one arm runs, and what of it came on top of the loaded model."""
    from prunelab.efficiency import memory

    arms, _ = prepare(arguments, [arguments.only])
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading; Linux only
    before = memory.peak_resident_bytes()
    arms[arguments.only]()
    peak = memory.peak_resident_bytes()
    return {"peak_bytes": peak, "beyond_model_bytes": peak - before, "dtype": dtype_of(arguments.only, arguments)}


def fresh_process(arm: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.evaluating", *sys.argv[1:], "--only", arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
