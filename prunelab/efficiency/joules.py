"""Joules per prefill token and per decoded token: read from counters, or estimated from time.

With counters: windows of fixed work that alternate with the dense model.

    idle | prefill A  decode A  prefill B  decode B  prefill B  decode B  prefill A  decode A | … | idle
           |<-- one window ->|

A window repeats the same passes as every other of its kind, until the dense model has filled `window_seconds`: meters
tick slowly, so one pass is too short. Gross is what the machine used, net is gross less idle watts times seconds.
Intervals are Student's t over windows, ratios and savings over blocks: there are too few of them to resample.

Without counters a meter's answer is a model of the machine's load, and read in short windows it is mostly noise: equal
models came out between 0.002 and 0.021 J a token. So the windows of the A/A test (the same, of dense) give one figure
for the whole session, watts busy less watts idle, and a token's joules are these watts × its measured time, no more:

    decode_j_per_token = (busy_w - idle_w) × decode_ms_per_token / 1000 / batch,  its interval and ratio: the time's
"""

import copy
import math
import time

import numpy as np
import torch

from prunelab import stats
from prunelab.efficiency import latency
from prunelab.energy import energy
from prunelab.energy.wattmeter import Wattmeter, Window
from prunelab.models import caches

PHASES = ("prefill", "decode")
COMPONENTS = ("cpu", "gpu", "ram")
# The shortest window that says anything, by the meter: the counters of GPUs tick several times a second only, and in
# 0.05 s a busy H200 once used nothing.
LEAST_SECONDS = {"nvml_counter": 1.0, "amdsmi_counter": 1.0}
TELLING = 0.05  # a difference of busy and idle below this share of busy is the meter's noise


def readable(seconds: float, provenance: dict) -> float:
    """Seconds of a window of which `seconds` are wanted: more where a counter of this machine ticks too slowly."""
    return max([seconds, *(LEAST_SECONDS.get(source, 0.0) for source in provenance.values())])


def idle(meter: Wattmeter, seconds: float) -> Window:
    """The machine's energy while this process sleeps."""
    return meter.window(lambda: time.sleep(seconds))


@torch.inference_mode()
def _prefill(model, inputs: latency.Inputs, passes: int) -> None:
    for _ in range(passes):
        latency.prefill(model, inputs)
    latency.synchronise(model)


@torch.inference_mode()
def _decode(model, start, steps: int, passes: int) -> None:
    """`passes` times `steps` tokens after the same prompt, whose cache `start` holds, so that no prefill is billed."""
    token, cache = start
    for _ in range(passes):
        following, working = token, cache if caches.goes_back(cache) else copy.deepcopy(cache)
        for _ in range(steps):
            following, working = latency.decode_one_token(model, following, working)
        if working is cache:
            cache.crop(-steps)
    latency.synchronise(model)


def interleave(
    meter: Wattmeter,
    models: dict,
    inputs: latency.Inputs,
    work: latency.Work,
    seconds: float,
    window_seconds: float,
    typical: dict,
    seed: int,
) -> list[dict]:
    """A B B A blocks of windows for about `seconds`, at least two; one row a window and phase.

    typical: the dense model's `prefill_ms` and `decode_ms` of a pass, from which the passes of a window follow. Rows:
    the work, `phase`, `block`, `position`, `arm`, `passes`, `tokens`, `seconds`, `cpu_j`, `gpu_j`, `ram_j` (gross).
    """
    steps = work.output_tokens - 1
    times = {phase: typical[f"{phase}_ms"] / 1e3 for phase in PHASES}
    passes = {phase: max(1, math.ceil(window_seconds / times[phase])) for phase in PHASES}
    tokens = {"prefill": work.batch * work.prompt_tokens, "decode": work.batch * steps}
    block_seconds = 4 * sum(passes[phase] * times[phase] for phase in PHASES)
    generator, places = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    rows = []
    for block in range(max(2, round(seconds / block_seconds))):
        latency.move(models, places)  # a place in memory must not pass for a saving
        first, second = ("variant", "dense") if generator.random() < 0.5 else ("dense", "variant")
        for position, arm in enumerate((first, second, second, first)):
            model = models[arm]
            with torch.inference_mode():
                start = latency.prefill(model, inputs)
            latency.synchronise(model)
            windows = {
                "prefill": meter.window(lambda model=model: _prefill(model, inputs, passes["prefill"])),
                "decode": meter.window(lambda model=model, start=start: _decode(model, start, steps, passes["decode"])),
            }
            for phase, window in windows.items():
                done = {"passes": passes[phase], "tokens": passes[phase] * tokens[phase]}
                place = {"phase": phase, "block": block, "position": position, "arm": arm}
                rows.append({**work._asdict(), **place, **done, **window._asdict()})
    return rows


def watts(windows: list[Window]) -> dict[str, float | None]:
    """Mean watts per component over windows."""
    seconds = sum(window.seconds for window in windows)
    spent = {part: [getattr(window, f"{part}_j") for window in windows] for part in COMPONENTS}
    return {part: None if None in values else sum(values) / seconds for part, values in spent.items()}


def summary(rows: list[dict], idle_watts: dict, provenance: dict) -> dict:
    """Figures of one session: per phase gross and net J/token of the variant, its ratio to dense, what it saves.

    `<phase>_j_per_token` and its interval sum the headline components (see energy.headline_components); every
    component stands beside. `decode_j_saving_per_token` is dense minus variant. Joules a token, gross unless said.
    """
    headline = energy.headline_components(provenance)
    figures: dict = {}
    for phase in PHASES:
        mine = [row for row in rows if row["phase"] == phase]
        gross = {arm: _per_token(mine, arm, headline) for arm in ("variant", "dense")}
        mean, lo, hi = stats.seed_interval(gross["variant"])
        name = f"{phase}_j_per_token"
        figures |= {name: mean, f"{name}_lo": lo, f"{name}_hi": hi, f"{name}_dense": float(gross["dense"].mean())}
        net = _per_token(mine, "variant", headline, idle_watts)
        figures[f"{phase}_net_j_per_token"] = float(net.mean())
        for part in COMPONENTS:
            known = provenance[part] != "none"
            value = float(_per_token(mine, "variant", [part]).mean()) if known else None
            figures[f"{phase}_{part}_j_per_token"] = value
        # two windows an arm and block, in the order of the blocks
        pairs = {arm: values.reshape(-1, 2).mean(axis=1) for arm, values in gross.items()}
        ratio = stats.seed_interval(np.log(pairs["variant"] / pairs["dense"]))
        names = (f"{phase}_j_ratio", f"{phase}_j_ratio_lo", f"{phase}_j_ratio_hi")
        figures |= dict(zip(names, map(math.exp, ratio), strict=True))
        saving = stats.seed_interval(pairs["dense"] - pairs["variant"])
        names = (f"{phase}_j_saving_per_token", f"{phase}_j_saving_per_token_lo", f"{phase}_j_saving_per_token_hi")
        figures |= dict(zip(names, saving, strict=True))
    return figures


def session_power(windows: list[dict], idle_windows: list[Window], provenance: dict, cores: float) -> dict:
    """What this session's meter said of the machine, in watts; energy.joules prices other stages with it.

    `components` of the headline, `cores`, `watts` per component (`idle_w`, `busy_w`), `idle_drift` (after / before,
    less 1), the number of `windows`, and `token_w`, what an estimated token is billed for each second (None with
    counters): busy less idle watts where `above_idle`. CodeCarbon's constant model knows no idling, nor does its model
    of load see one thread among dozens of cores; busy and idle are then alike, and token_w is all of the busy watts.
    """
    headline = energy.headline_components(provenance)
    idle_w = watts(idle_windows)
    busy_w = watts([Window(*(row[name] for name in Window._fields)) for row in windows])
    first, last = (sum(watts([window])[part] for part in headline) for window in (idle_windows[0], idle_windows[-1]))
    power = {
        "components": headline,
        "cores": cores,
        "watts": {p: {"idle_w": idle_w[p], "busy_w": busy_w[p]} for p in COMPONENTS if busy_w[p] is not None},
        "idle_drift": last / first - 1,
        "windows": len(windows),
        "token_w": None,
        "above_idle": False,
    }
    if energy.is_estimated(provenance):
        busy = sum(busy_w[part] for part in headline)
        above = busy - sum(idle_w[part] for part in headline)
        power["above_idle"] = above > TELLING * busy
        power["token_w"] = above if power["above_idle"] else busy
    return power


def estimate(timing: dict, power: dict) -> dict:
    """The figures of `summary` from times: timing: latency.summary's of the headline; power: session_power's.

    Net is less idle watts; each component stands beside at its busy watts, gross.
    """
    busy = {part: power["watts"].get(part, {}).get("busy_w") for part in COMPONENTS}
    net_w = sum(power["watts"][part]["busy_w"] - power["watts"][part]["idle_w"] for part in power["components"])
    tokens = {"prefill": timing["batch"] * timing["prompt_tokens"], "decode": timing["batch"]}
    figures: dict = {}
    for phase, reading in zip(PHASES, latency.COMPARED, strict=True):
        mine_s, dense_s = (times[reading] / 1e3 / tokens[phase] for times in (timing, timing["dense"]))
        ratio, lo, hi = (timing[f"{phase}_ratio{end}"] for end in ("", "_lo", "_hi"))
        mine_j, dense_j = power["token_w"] * mine_s, power["token_w"] * dense_s
        name = f"{phase}_j_per_token"
        figures |= {name: mine_j, f"{name}_lo": mine_j * lo / ratio, f"{name}_hi": mine_j * hi / ratio}
        figures |= {f"{name}_dense": dense_j, f"{phase}_net_j_per_token": net_w * mine_s}
        for part, gross_w in busy.items():
            figures[f"{phase}_{part}_j_per_token"] = None if gross_w is None else gross_w * mine_s
        figures |= {f"{phase}_j_ratio": ratio, f"{phase}_j_ratio_lo": lo, f"{phase}_j_ratio_hi": hi}
        name = f"{phase}_j_saving_per_token"
        figures |= {name: dense_j * (1 - ratio), f"{name}_lo": dense_j * (1 - hi), f"{name}_hi": dense_j * (1 - lo)}
    return figures


def _per_token(rows: list[dict], arm: str, components: list[str], idle_watts: dict | None = None) -> np.ndarray:
    """Joules a token of each window of an arm, gross, or net of idle_watts."""
    rows = [row for row in rows if row["arm"] == arm]
    values = np.array([sum(row[f"{part}_j"] for part in components) for row in rows])
    if idle_watts is not None:
        values = values - sum(idle_watts[part] for part in components) * np.array([row["seconds"] for row in rows])
    return values / np.array([row["tokens"] for row in rows])
