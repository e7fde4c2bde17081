"""Can the timers be believed? An A/A test, then planted slow-downs that must be found, and none that must not.

    python -m benchmarks.measuring                       # 30 s a measurement, 20 of each kind: 21 minutes
    python -m benchmarks.measuring --seconds 3 --repeats 20
    python -m benchmarks.measuring --rows 12                     # instead: how many rows of a study come out reliable,
    python -m benchmarks.measuring --rows 12 --beside-a-spinner  # and how many beside a process that spins 2 s of 10

The planted variant is the dense model that waits after each forward pass until its own time has grown by the planted
share; what comes after a wait is a little slower too, so a planted 5 % reads 6 to 8. Prints: the smallest effect of the
A/A test, how many of the planted were found, how many of nothing (and how often the interval held that nothing), and
what part of the blocks was dropped. The machine should be idle; its load and the host's steal time are printed, because
on a shared one they are the result. The last line is JSON.

Rows are timed as a study times them, to the width and for the seconds of params.yaml: the first is the A/A test, of the
others every second one waits 5 %.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab import stats
from prunelab.disk import turns
from prunelab.efficiency import device, disturbance, latency
from prunelab.study import params

MODEL = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64, "vocab_size": 84}  # the default study's


def build():
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **MODEL, bos_token_id=None, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()


def slow_down(model, share: float) -> None:
    """Let every forward pass take 1 + share of its time."""
    started = []

    def begin(module, arguments):
        started.append(time.perf_counter())

    def wait(module, arguments, output):
        now = time.perf_counter()
        until = now + share * (now - started.pop())
        while time.perf_counter() < until:  # sleep() overshoots by more than is planted
            pass

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(wait)


SPIN = """import time
while True:
    end = time.monotonic() + 2
    while time.monotonic() < end: pass
    time.sleep(8)
"""


@contextlib.contextmanager
def spinner(wanted: bool):
    """A process that spins 2 s of every 10 while the block lasts."""
    process = subprocess.Popen([sys.executable, "-c", SPIN]) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def measure(variant, dense, work: latency.Work, seconds: float, seed: int, within: float | None = None) -> dict:
    models = {"variant": variant, "dense": dense}
    ids = latency.prompts(dense, work, seed)
    with turns.measuring():  # one measurement at a time, so that a study's stages may go in between
        latency.warm_up(models, ids, work.output_tokens, seconds / 2)
        start = time.perf_counter()
        rows = latency.interleave(models, ids, work, seconds, seed, within)
        timed_s = time.perf_counter() - start
    return latency.summary(rows, seed) | {"timed_s": timed_s, "disturbance": disturbance.shares(rows)}


def study_rows(count: int, beside_a_spinner: bool) -> None:
    """Time `count` rows as a study does and print which are reliable."""
    wanted = params.load().efficiency
    torch.set_num_threads(wanted.threads or torch.get_num_threads())
    work = latency.sweep(wanted.prompt_tokens, wanted.batch_sizes, wanted.output_tokens)[0]
    reliable, seconds = 0, []
    with spinner(beside_a_spinner):
        for row in range(count):
            variant, dense = build(), build()
            share = 0.05 if row % 2 else 0.0
            slow_down(variant, share)
            slow_down(dense, 0.0)
            figures = measure(variant, dense, work, wanted.seconds, row, wanted.within_percent / 100)
            narrow = latency.width(figures) <= wanted.within_percent / 100 and figures["quiet"]
            reliable += narrow
            seconds.append(figures["timed_s"])
            print(
                f"planted {share:3.0%}  {show(figures)}  {figures['decode_ms_per_token']:.2f} ms, "
                f"{figures['blocks']} blocks in {seconds[-1]:.1f} s, {'reliable' if narrow else 'unreliable'}: "
                f"{disturbance.told(figures['disturbance'])}",
                flush=True,
            )
    print(f"{reliable} of {count} rows reliable, {sum(seconds) / count:.1f} s of timing a row")
    print(json.dumps({"rows": count, "reliable": reliable, "timed_s": seconds, "spinner": beside_a_spinner}))


def interval(figures: dict) -> stats.Interval:
    return figures["decode_ratio"], figures["decode_ratio_lo"], figures["decode_ratio_hi"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="of a measurement")
    parser.add_argument("--repeats", type=int, default=20, help="measurements of each planted share")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05], help="planted slow-downs")
    parser.add_argument("--threads", type=int, default=1, help="as in the default study")
    parser.add_argument("--rows", type=int, help="time so many rows as a study does, instead of planting and finding")
    parser.add_argument("--beside-a-spinner", action="store_true", help="a process that spins 2 s of every 10 (--rows)")
    arguments = parser.parse_args()
    if arguments.rows:
        study_rows(arguments.rows, arguments.beside_a_spinner)
        return
    torch.set_num_threads(arguments.threads)
    work = latency.Work(prompt_tokens=32, batch=1, output_tokens=24)
    began, stolen = time.perf_counter(), device.steal_seconds()
    test = measure(build(), build(), work, arguments.seconds, seed=1000)
    smallest = stats.smallest_effect(interval(test))
    print(f"threads {torch.get_num_threads()}, load {device.state()['load_average']}, {arguments.seconds:g} s each")
    print(f"A/A  {test['decode_ms_per_token']:.3f} ms a token, ratio {show(test)}: smallest effect {smallest:.1%}")
    results = {"seconds": arguments.seconds, "smallest_effect": smallest, "planted": {}}
    for share in arguments.shares:
        results["planted"][str(share)] = planted(share, work, arguments, smallest)
    took = time.perf_counter() - began
    stolen = None if stolen is None else (device.steal_seconds() - stolen) / (took * device.usable_cores())
    taken = "" if stolen is None else f", {stolen:.1%} of the cores taken by the host"
    print(f"load at the end {device.state()['load_average']}{taken}")
    print(json.dumps(results | {"steal_share": stolen}))


def planted(share: float, work: latency.Work, arguments, smallest: float) -> dict:
    """Measurements of one planted share: how many were found, covered, and how many blocks were dropped."""
    found = holds_one = dropped = blocks = 0
    for repeat in range(arguments.repeats):
        variant, dense = build(), build()
        slow_down(variant, share)
        slow_down(dense, 0.0)  # the hooks themselves cost 1 or 2 %, which is not what is planted
        figures = measure(variant, dense, work, arguments.seconds, seed=repeat)
        verdict = stats.verdict(interval(figures), smallest)
        found += verdict == "slower" if share else verdict != "no difference"
        holds_one += figures["decode_ratio_lo"] <= 1 <= figures["decode_ratio_hi"]
        dropped += figures["dropped_blocks"]
        blocks += figures["dropped_blocks"] + figures["blocks"]
        print(f"planted {share:4.0%}  {show(figures)}  {verdict}", flush=True)
    print(
        f"planted {share:4.0%}: a difference found {found} of {arguments.repeats} times; interval held 1 {holds_one} "
        f"times; {dropped} of {blocks} blocks dropped",
        flush=True,
    )
    return {"found": found, "interval_held_1": holds_one, "of": arguments.repeats, "dropped": dropped, "blocks": blocks}


def show(figures: dict) -> str:
    ratio, lo, hi = interval(figures)
    return f"{ratio:.3f} [{lo:.3f}, {hi:.3f}]"


if __name__ == "__main__":
    main()
