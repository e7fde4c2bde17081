"""A session of measuring: one model beside its dense model, everything that depends on the machine, in a fixed order.

    serve the model once, read peak memory   (nothing else is loaded yet)
    load dense · start the power meter       (at the same time: the meter mostly waits for another process)
    idle power · warm up and time, alternating pass by pass, each work of the sweep · windows of energy · idle power

Dense beside a second copy of itself is the A/A test of the session. What its interval cannot tell from nothing, no
variant of the session may claim: its `smallest_effect` enters every verdict. Whether a measurement is reliable is told
by its own interval alone: a noisy moment at the beginning says nothing of what was timed later.

A machine without energy counters meters in the A/A test only; its variants take the watts over (see joules.py).
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from prunelab import stats
from prunelab.efficiency import device, disturbance, joules, latency, memory, vision
from prunelab.energy import energy
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.models.workers import threads
from prunelab.quantised import files as quantised


def measure(
    folder: Path, dense: Path, wanted, power, seed: int, session: dict | None, prompt: Callable | None = None
) -> tuple[dict, list[dict]]:
    """(figures of efficiency.json, raw readings) of the model in `folder` beside the one in `dense`.

    wanted, power: the sections `efficiency` and `energy` of the settings. session: the efficiency.json of the A/A test;
    None makes this the A/A test. prompt: what a task's model is served, `prompt(tokens, batch)` → a dict of tensors
    that holds `input_ids` (batch, tokens); None: random tokens. Call it in a fresh process.
    """
    with threads(wanted.threads):
        return _measure(folder, dense, wanted, power, seed, session, prompt)


def _measure(folder: Path, dense: Path, wanted, power, seed: int, session: dict | None, prompt) -> tuple:
    works = latency.sweep(wanted.prompt_tokens, wanted.batch_sizes, wanted.output_tokens)
    # Whoever serves the model needs what makes its prompts too (a processor, say), so its memory counts.
    given = dict.fromkeys(works) if prompt is None else latency.prompted(works, prompt)
    works = list(given)
    further = memory.peaks_of_forks(folder, works[0], seed, given[works[0]])  # while nothing is held here
    variant, peaks = memory.peak_of_serving(folder, works[0], seed, given[works[0]])

    meter = None
    if session is None or not session["energy_estimated"]:
        from prunelab.energy import wattmeter  # only now: it brings pandas, which is not the model's memory

        meter = wattmeter.Starting(power.country)
    models = {"variant": variant, "dense": memory.on_device(checkpoint.load(dense))}
    inputs = {work: memory.inputs_of(models["dense"], work, seed, given[work]) for work in works}
    alone = works[0]._replace(batch=1)
    single = None if prompt is None else prompt(alone.prompt_tokens, 1)
    figures = {
        "runtime": "eager" + (f", {quantised.facts_of(folder)['precision']}" if quantised.is_quantised(folder) else ""),
        "dtype": str(variant.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **memory.parameter_counts(variant),
        "dense_bytes": stored_bytes(dense),
        "packed_bytes": stored_bytes(folder),
        "macs_per_token": memory.macs_per_token(variant, memory.inputs_of(variant, alone, seed, single)),
        "kv_cache_bytes_per_token": memory.kv_cache_bytes_per_token(variant, inputs[works[0]]),
        **memory.with_interval(peaks, further),
    }
    meter = meter.ready() if meter else None
    before, steal, began = device.state(), device.steal_seconds(), time.perf_counter()
    idle = [joules.idle(meter, joules.readable(power.idle_seconds, meter.provenance))] if meter else []
    timings: list[dict] = []
    rows = [{"kind": "memory", "position": place, "peak_bytes": peak} for place, peak in enumerate(further)]
    for work in works:
        # The headline gets half of the time, the others share the rest.
        share = 1.0 if len(works) == 1 else 0.5 if work == works[0] else 0.5 / (len(works) - 1)
        warm = latency.warm_up(models, inputs[work], work.output_tokens, share * wanted.seconds / 2)
        start = time.perf_counter()
        readings = latency.interleave(
            models, inputs[work], work, share * wanted.seconds, seed, wanted.within_percent / 100
        )
        about = {"warm_up": warm, "timed_s": time.perf_counter() - start, "disturbance": disturbance.shares(readings)}
        timings.append(latency.summary(readings, seed) | about)
        rows += [{"kind": "time", **row} for row in readings]
    figures |= timing_figures(timings, session, wanted.within_percent)
    figures |= vision.figures(variant, inputs[works[0]])
    if meter:
        long = joules.readable(power.window_seconds, meter.provenance)
        windows = joules.interleave(
            meter, models, inputs[works[0]], works[0], power.seconds, long, timings[0]["dense"], seed
        )
        idle.append(joules.idle(meter, joules.readable(power.idle_seconds, meter.provenance)))
        rows += [{"kind": "energy", **row} for row in windows]
        rows += [{"kind": "idle", "position": place, **window._asdict()} for place, window in enumerate(idle)]
        figures |= metered_figures(timings[0], windows, idle, meter.provenance, power, session)
    else:
        figures |= estimated_figures(timings[0], power, session)
    if steal is not None:
        steal = (device.steal_seconds() - steal) / (time.perf_counter() - began) / device.usable_cores()
    return figures | {"steal_share": steal, "state_before": before, "state_after": device.state()}, rows


def stored_bytes(folder: Path) -> int:
    """Bytes of the tensor files of the model in `folder`, packed or plain."""
    return sum(path.stat().st_size for path in stored_files(folder))


def stored_files(folder: Path) -> list[Path]:
    """The tensor files of the model in `folder`, packed or plain."""
    patterns = ("packed-*.safetensors", "model*.safetensors")
    return [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]


def timing_figures(timings: list[dict], session: dict | None, within_percent: float) -> dict:
    """The headline's figures, every work of the sweep under `works`, their verdicts, and whether to believe them.

    `*_smallest_effect`: fraction of the dense time that the session's A/A test cannot tell from nothing. `unreliable`:
    the headline's decode interval stayed wider than within_percent, or hardly a block of it was undisturbed; how wide
    it is decides, where it lies never does. Raises InputError when the session measured another sweep.
    """
    tests = {_place(work): work for work in (timings if session is None else session["works"])}
    works, reasons = [], []
    for timing in timings:
        test = tests.get(_place(timing))
        if test is None:
            raise InputError(
                f"the A/A test has no work of {timing['prompt_tokens']} prompt tokens and batch {timing['batch']}; "
                "measure the dense model again (dvc repro efficiency-dense)"
            )
        work = {name: value for name, value in timing.items() if name != "dense"}
        for phase in joules.PHASES:
            work[f"{phase}_smallest_effect"] = smallest = stats.smallest_effect(_ratio(test, phase))
            work[f"{phase}_verdict"] = stats.verdict(_ratio(timing, phase), smallest)
        works.append(work)
    width, seen = 100 * latency.width(timings[0]), disturbance.told(timings[0]["disturbance"])
    if not width <= within_percent:
        reasons.append(
            f"after {timings[0]['timed_s']:.1f} s the interval of decode is {width:.1f} % wide, the limit is "
            f"{within_percent:g} %: {seen}"
        )
    elif not timings[0]["quiet"]:
        reasons.append(f"nearly every block was disturbed by other processes, so none could be dropped: {seen}")
    headline = {name: value for name, value in works[0].items() if name not in ("blocks", "dropped_blocks", "quiet")}
    counted = {"rounds": works[0]["blocks"], "dropped_rounds": works[0]["dropped_blocks"]}
    return {**headline, **counted, "unreliable": bool(reasons), "unreliable_because": reasons, "works": works}


def metered_figures(timing: dict, windows: list[dict], idle: list, provenance: dict, power, session) -> dict:
    """Energy of a session with a meter: from its windows where they are counters', else from its watts and the time."""
    about = joules.session_power(windows, idle, provenance, device.usable_cores())
    if energy.is_estimated(provenance):
        figures = joules.estimate(timing, about)
    else:
        figures = joules.summary(windows, joules.watts(idle), provenance)
    return _energy(figures, about, provenance, power, session)


def estimated_figures(timing: dict, power, session: dict) -> dict:
    """Energy of a variant whose session has no counters: the A/A test's watts × the variant's time. Raises InputError
    where that A/A test is one of an older version, without such watts."""
    about = session["power"]
    if about.get("token_w") is None:
        raise InputError(
            "the A/A test holds no watts for estimated energy (power.token_w), so it is of an older version; "
            "measure the dense model again (dvc repro efficiency-dense)"
        )
    return _energy(joules.estimate(timing, about), about, session["energy_provenance"], power, session)


def _energy(figures: dict, about: dict, provenance: dict, power, session: dict | None) -> dict:
    """Energy per token with its verdict, grams, litres, where it comes from, and `power`."""
    smallest = stats.smallest_effect(_ratio(figures if session is None else session, "decode_j"))
    return {
        **figures,
        "decode_j_smallest_effect": smallest,
        "decode_j_verdict": stats.verdict(_ratio(figures, "decode_j"), smallest, "less", "more"),
        "energy_provenance": provenance,
        "energy_estimated": energy.is_estimated(provenance),
        "gco2_per_million_tokens": energy.grams(figures["decode_j_per_token"] * 1e6, power.grams_per_kwh),
        "grams_per_kwh": power.grams_per_kwh,
        "grams_source": power.grams_source,
        "litres_per_million_tokens": energy.litres(figures["decode_j_per_token"] * 1e6, power.litres_per_kwh),
        "litres_per_kwh": power.litres_per_kwh,
        "litres_source": power.litres_source,
        "power": about,
    }


def _place(work: dict) -> tuple:
    return tuple(work[name] for name in latency.Work._fields)


def _ratio(figures: dict, name: str) -> stats.Interval:
    return figures[f"{name}_ratio"], figures[f"{name}_ratio_lo"], figures[f"{name}_ratio_hi"]
