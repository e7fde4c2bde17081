"""What fewer bits buy a dense model, beside removed blocks and both together: bytes, loss, speed against eager fp32.

    python -m benchmarks.rivals data/fetched/model --text data/fetched/text/test.txt
    python -m benchmarks.rivals models/s1/dense --rows int8 int4 --threads 1 --rounds 20

Rows: bf16; int8; int4 with head and embedding in int8; int4-head, all of it in int4; depth-25 (a quarter of the blocks
removed, in fp32) and depth-25-int4. In a round every row, in an order drawn anew, decodes behind a short prompt at
batch 1, its weights at another place in memory than before; rounds of prefills of 128 tokens are their own. Ratios are
fp32 over the row, how many times faster, with their 95 % intervals over rounds. Bytes: of the file, and of what the
model holds in memory; loss: nats a token over 6 windows of 1,024 tokens of the text. The last line is JSON.

Figures to reach on SmolLM2-135M with two cores that have AVX-512 and bf16, decode with one and two threads: int8 1.8
and 2.4, int4 2.5 and 3.1, depth-25-int4 3.3 and 4.2; prefill 0.95 in every row; int8 at most 0.27 of fp32's bytes on
disk and in memory; int4 0.19 on disk (int4-head 0.17) and 0.23 in memory; the loss of int8 within 0.5 % of fp32's.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import structured
from prunelab import stats
from prunelab.disk import turns
from prunelab.disk.files import read_text
from prunelab.efficiency import latency
from prunelab.models import checkpoint, loading
from prunelab.models.models import computes_bf16
from prunelab.quantised import decoding, files, kernels
from prunelab.quantised.layers import held_bytes

DEPTH = "depth-25"
# How each is quantised: precision, head; None: not at all.
ROWS = {
    "bf16": None,
    "int8": ("int8", "int8"),
    "int4": ("int4", "int8"),
    "int4-head": ("int4", "int4"),
    DEPTH: None,
    f"{DEPTH}-int4": ("int4", "int8"),
}
DECODE, PREFILL = latency.Work(8, 1, 9), latency.Work(128, 1, 2)
WINDOWS, CONTEXT = 6, 1024


def made(dense: Path, name: str, scratch: Path):
    """(the model of a row, bytes of its file)."""
    source = dense
    if name.startswith(DEPTH):
        source = scratch / DEPTH
        if not source.exists():
            structured.smaller(dense, DEPTH, source, round_to=8)
    model = checkpoint.load(source, torch.bfloat16 if name == "bf16" else None)
    if ROWS[name] is None:
        return model, sum(parameter.nbytes for parameter in model.parameters())
    precision, head = ROWS[name]
    folder = scratch / name
    folder.mkdir()
    facts = files.write(model, source, folder, name, "", precision, 32, head)
    return files.load(folder), facts["bytes"]


def rounds_of(models: dict, work: latency.Work, rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Each model's (rounds, 2) of prefill ms and decode ms a token."""
    generator = np.random.default_rng(seed)
    ids = latency.prompts(models["fp32"], work, seed)
    readings = {name: [] for name in models}
    for number in range(rounds + 1):  # the first warms up
        latency.move(models, generator)
        for name in generator.permutation(list(models)):
            latency.serve(models[name], ids[:, :8], 2)  # to fill the caches
            found = latency.serve(models[name], ids, work.output_tokens)
            if number:
                readings[name].append((found.prefill_ms, found.decode_ms_per_token))
    return {name: np.array(values) for name, values in readings.items()}


def faster(readings: dict[str, np.ndarray], name: str, column: int) -> stats.Interval:
    return stats.paired_ratio(readings["fp32"][:, column], readings[name][:, column])


def losses(models: dict, dense: Path, text: Path) -> dict[str, float]:
    tokens = loading.tokenizer_of(dense, dense)(read_text(text), verbose=False)["input_ids"]
    windows = torch.tensor(tokens[: WINDOWS * CONTEXT]).view(WINDOWS, 1, CONTEXT)
    return {
        name: float(np.mean([decoding.window_loss(model, window) for window in windows]))
        for name, model in models.items()
        if not name.startswith(DEPTH)
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__.partition("\n")[0])
    parser.add_argument("dense", type=Path, help="folder of a plain model in fp32")
    parser.add_argument("--text", type=Path, help="what the loss is taken on; none without it")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2], help="none: no times")
    parser.add_argument("--rounds", type=int, default=12, help="of decoding")
    parser.add_argument("--prefills", type=int, default=6, help="rounds of prefills")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch, turns.measuring():
        models = {"fp32": checkpoint.load(arguments.dense)}
        stored = {"fp32": sum(parameter.nbytes for parameter in models["fp32"].parameters())}
        for name in arguments.rows:
            models[name], stored[name] = made(arguments.dense, name, Path(scratch))
        held = {name: held_bytes(model) for name, model in models.items()}
        rows = {
            name: {"stored_share": stored[name] / stored["fp32"], "held_share": held[name] / held["fp32"]}
            for name in models
        }
        # Emulated bf16 takes ten times as long as fp32 for many tokens, and says nothing of a machine that has it.
        whole = {name: model for name, model in models.items() if name != "bf16" or computes_bf16()}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            decoded = rounds_of(models, DECODE, arguments.rounds, threads)
            for name in arguments.rows:
                rows[name][f"decode_faster_{threads}"] = faster(decoded, name, 1)
                print(f"{threads} threads, {name}: decode {_short(faster(decoded, name, 1))}", flush=True)
            filled = rounds_of(whole, PREFILL, arguments.prefills, threads)
            for name in set(whole) & set(arguments.rows):
                rows[name][f"prefill_faster_{threads}"] = faster(filled, name, 0)
            rows["fp32"][f"decode_ms_{threads}"] = float(np.median(decoded["fp32"][:, 1]))
            rows["fp32"][f"prefill_ms_{threads}"] = float(np.median(filled["fp32"][:, 0]))
        if arguments.text:
            for name, loss in losses(whole, arguments.dense, arguments.text).items():
                rows[name]["loss"] = loss
    for name, row in rows.items():
        print(f"{name:14}", "  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
    print(json.dumps({"wide": kernels.WIDE, "rows": rows}))


def _short(value) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.4f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    main()
