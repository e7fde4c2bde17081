"""Prefill and decode times of a model beside its dense model, taking turns.

What is timed (one pass of fixed work; the clock is read only after the device has finished; a prompt is random tokens,
or what a task gives: tokens and what goes with them, such as a picture's pixels):

    |<------ prefill_ms ------>|<--- decode_ms: (output_tokens - 1) steps, each one further token --->|
    prompt → first token (TTFT) token token token …    decode_ms_per_token = the median step (TPOT)

The output length is forced: tokens are chosen greedily and never stop the loop, so every model does the same work.
The median step, not the mean: a step that was interrupted says nothing about the model. Times are those in which the
measuring thread had a core or slept by itself: what it waited for a core that other processes had is taken off (the
kernel counts it) and stands beside, as `waited_ms`. On a machine of its own that is nothing; beside one busy neighbour
it is half of the time, and without it an A/A interval is three times as wide. Tokens per second come from the whole
`decode_ms`.

Two passes, one of each model, go on side by side and take turns of TURN steps (the step after a turn of the other model
brings the weights back into the caches and is not read, so a model that fits there is timed as if it were alone):

    variant |prefill|        |s s s|           |s s s|s s s|
    dense           |prefill|      |s s s|s s s|            …

On a virtual machine a core is faster and slower by 7 % from one half second to the next; what it is now it is for both.
(On such a machine the ratio of two equal models scattered from block to block by 7 % with whole passes and by 2 to 4 %
with turns of two to four steps, in one run of both beside each other.)

A block is two such pairs, A B then B A or B A then A B (drawn by the seed): a steady drift hits both models alike and
cancels in the block's ratio. A block that was disturbed is dropped with both its arms. The rule stands in
disturbance.py, looks at no reading, and is the same for every model.

    | copy weights, ABBA … | copy weights, BAAB … | … at least PARTS times; the bootstrap resamples parts

Two copies of one model differ by 1 to 2 % for as long as they stay where they are in memory, and a bootstrap over
blocks, however many, does not see it (it called 2 of 15 such pairs different). So both models' weights move to another
place for every part, and only parts count as independent. Parts are as short as may be, a block where that lasts
PART_S: in the same time many places tell more than many blocks in few. (Beside a simulated neighbour that comes for
2 s of every 10, parts of one block took 2 to 3 s to a width of 3 %, parts of four blocks 6 s.)

Parts are made until the 95 % interval of the decode ratio is narrow enough. Its width decides, never its value: who
stops when a difference shows will find one between equal models. Width alone is not innocent either, because a spread
that is small by chance both stops early and gives too narrow an interval. So the first look comes after PARTS parts,
each further one after GROWTH times as many, and the interval is computed at LEVEL instead of 95 %, which gives back
what looking takes. In simulations of equal models that need 10 to 40 parts, normal or with heavy tails, 95 to 97 of
100 intervals then held 1 (93 to 96 at a level of 95 %; down to 86 with a look after every part from the third on).
"""

import gc
import inspect
import math
import time
from typing import NamedTuple

import numpy as np
import torch

from prunelab import stats
from prunelab.efficiency import device, disturbance
from prunelab.errors import InputError
from prunelab.models.caches import step
from prunelab.models.models import context_length

MIN_BLOCKS = 3  # measured however small the budget is, each in a part of its own: less has no interval
PARTS = 10  # before the first look at the interval; each has weights in another place
PART_S = 0.1  # seconds that a part lasts, or a tenth of the budget where that is less; at least a block
GROWTH = 1.25  # so many times the parts before the next look
LEVEL = 0.965  # at which an interval is computed that is to hold the truth 95 times of 100, looks included
TURN = 3  # steps, the first of which is not read
STEADY = 0.05  # warm-up ends when medians of successive rounds differ by less
ROUND_PASSES = 3


class Work(NamedTuple):
    """One point of a sweep: `batch` prompts of `prompt_tokens` tokens, each answered with `output_tokens`."""

    prompt_tokens: int
    batch: int
    output_tokens: int


class Pass(NamedTuple):
    prefill_ms: float
    decode_ms_per_token: float  # a step's time: with a batch every step makes `batch` tokens
    decode_ms: float
    waited_ms: float  # for a core, in the whole pass; in none of the others


COMPARED = ("prefill_ms", "decode_ms_per_token")
Inputs = torch.Tensor | dict[str, torch.Tensor]  # a prompt: token ids (batch, tokens), or a dict that holds `input_ids`


def sweep(prompt_tokens: list[int], batch_sizes: list[int], output_tokens: int) -> list[Work]:
    """The works to measure, the headline (first prompt length, first batch size) first."""
    lengths = [Work(length, batch_sizes[0], output_tokens) for length in prompt_tokens]
    batches = [Work(prompt_tokens[0], batch, output_tokens) for batch in batch_sizes[1:]]
    return lengths + batches


def prompted(works: list[Work], prompt) -> dict[Work, dict[str, torch.Tensor]]:
    """The inputs of every work by a task's `prompt(tokens, batch)`, on the CPU.

    A prompt with a picture is as long as it is: a work then says how long, and works that become the same are one.
    """
    made: dict[Work, dict[str, torch.Tensor]] = {}
    for work in works:
        inputs = prompt(work.prompt_tokens, work.batch)
        made.setdefault(work._replace(prompt_tokens=inputs["input_ids"].shape[1]), inputs)
    return made


def placed(model, inputs: dict[str, torch.Tensor], work: Work) -> dict[str, torch.Tensor]:
    """A task's inputs on the device of `model`, numbers that are no indices in its precision.

    InputError: they do not fit into the context.
    """
    _require_room(model, work)
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def prompts(model, work: Work, seed: int) -> torch.Tensor:
    """Random token ids (batch, prompt_tokens) on the model's device. InputError: they do not fit into the context."""
    _require_room(model, work)
    generator = torch.Generator().manual_seed(seed)
    shape = (work.batch, work.prompt_tokens)
    return torch.randint(model.get_input_embeddings().num_embeddings, shape, generator=generator).to(model.device)


def _require_room(model, work: Work) -> None:
    limit, needed = context_length(model.config), work.prompt_tokens + work.output_tokens
    if limit is not None and needed > limit:
        raise InputError(
            f"efficiency: a prompt of {work.prompt_tokens} and {work.output_tokens} output tokens need a context of "
            f"{needed}, this model has {limit}; shorten efficiency.prompt_tokens or efficiency.output_tokens"
        )


def parts(inputs: Inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(token ids, what goes with them at the first step) of a prompt."""
    if torch.is_tensor(inputs):
        return inputs, {}
    return inputs["input_ids"], {name: value for name, value in inputs.items() if name != "input_ids"}


def prefill(model, inputs: Inputs):
    """A prompt → first token (batch, 1), cache. Logits of the last position only, as serving needs them."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    ids, more = parts(inputs)
    out, cache = step(model, ids, **more, **last)
    return out.logits[:, -1].argmax(-1, keepdim=True), cache


def decode_one_token(model, token: torch.Tensor, cache):
    """token (batch, 1) → next token (batch, 1), cache."""
    out, cache = step(model, token, cache)
    return out.logits[:, -1].argmax(-1, keepdim=True), cache


@torch.inference_mode()
def serve(model, inputs: Inputs, output_tokens: int) -> Pass:
    """One timed pass by itself; output_tokens counts the first token, so at least 2."""
    (reading,) = _in_turns([_pass(model, inputs, output_tokens, turn=output_tokens, unread=0)])
    return reading


@torch.inference_mode()
def serve_in_turns(models: list, inputs: Inputs, output_tokens: int) -> list[Pass]:
    """One timed pass of each model, side by side: A B, then B A, A B, … by turns of TURN steps."""
    return _in_turns([_pass(model, inputs, output_tokens, turn=TURN, unread=1) for model in models])


def _in_turns(passes: list) -> list[Pass]:
    """What generators return that all go on in turn, each time in the reverse order."""
    readings: dict[int, Pass] = {}
    order = list(range(len(passes)))
    while len(readings) < len(passes):
        for number in order:
            try:
                next(passes[number])
            except StopIteration as end:
                readings[number] = end.value
        order.reverse()
    return [readings[number] for number in sorted(readings)]


def _pass(model, inputs: Inputs, output_tokens: int, turn: int, unread: int):
    """One pass that yields after its prefill and after each `turn` steps; returns its readings. The first `unread`
    steps of a turn count in none, unless no other is left."""
    with device.waiting() as waited:

        def clock() -> np.ndarray:
            synchronise(model)  # a server sends each token when it is made
            return np.array([time.perf_counter(), waited()])

        begin = clock()
        token, cache = prefill(model, inputs)
        taken = [clock() - begin]  # (seconds, of these waited) of the prefill and of every step
        for step_number in range(output_tokens - 1):
            if step_number % turn == 0:
                yield
                begin = clock()
            token, cache = decode_one_token(model, token, cache)
            end = clock()
            taken.append(end - begin)
            begin = end
    wall, waits = np.array(taken).T * 1e3
    # The kernel may book a wait a moment late, into a step that was shorter than it: nothing is taken off that one.
    own = np.where(waits < wall, wall - waits, wall)
    steps = own[1:]
    read = steps[np.arange(len(steps)) % turn >= unread] if len(steps) > unread else steps
    whole = float(read.mean() * len(steps))
    return Pass(float(own[0]), float(np.median(read)), whole, float(waits.sum()))


def synchronise(model) -> None:
    """Wait until the device has done all that was asked of it; a CPU always has."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def warm_up(models: dict, inputs: Inputs, output_tokens: int, limit_s: float) -> dict:
    """Discarded passes until the medians of successive rounds agree for every model, or limit_s has passed."""
    start, passes, before = time.perf_counter(), 0, None
    while True:
        rounds = [[serve(model, inputs, output_tokens) for model in models.values()] for _ in range(ROUND_PASSES)]
        passes += ROUND_PASSES
        medians = np.median(np.array(rounds), axis=0)[:, : len(COMPARED)]  # (models, readings)
        steady = before is not None and bool((abs(medians / before - 1) < STEADY).all())
        if steady or time.perf_counter() - start > limit_s:
            return {"passes": passes, "steady": steady}
        before = medians


def move(models: dict, generator: np.random.Generator) -> None:
    """Copy every weight on the CPU, in an order drawn by `generator`, so that it lies elsewhere in memory.

    It also makes models alike that were loaded differently: `from_pretrained` maps the file of a plain folder, a packed
    variant is unpacked into memory, and that alone is worth several percent of time.
    """
    found = [model for model in models.values() if isinstance(model, torch.nn.Module)]
    tensors = [tensor for model in found for tensor in (*model.parameters(), *model.buffers())]
    # Quantised and sparse weights are tensors of a kind of their own, made here, so in memory of their own.
    plain = [tensor for tensor in tensors if tensor.device.type == "cpu" and type(tensor.data) is torch.Tensor]
    for number in generator.permutation(len(plain)):
        plain[number].data = plain[number].data.clone()


def interleave(
    models: dict, inputs: Inputs, work: Work, seconds: float, seed: int, within: float | None = None
) -> list[dict]:
    """Blocks of passes until the decode ratio's 95 % interval is at most `within` wide (None: as long as there is
    time), for `seconds` at most and at least MIN_BLOCKS; models: {"variant": model, "dense": model}.

    One row a pass: the work, `part`, `block`, `position` (0..3), `arm`, the readings, and of its block `dropped` and
    what disturbance.since counts.
    """
    generator, places = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    rows: list[dict] = []
    start, block, part, look = time.perf_counter(), 0, -1, PARTS
    begun = -math.inf  # the part
    gc.collect()
    gc.disable()  # a collection in the middle of a pass is nobody's latency
    try:
        while block < MIN_BLOCKS or time.perf_counter() - start < seconds:
            if time.perf_counter() - begun >= min(PART_S, seconds / PARTS):
                if within is not None and (parts := _undisturbed_parts(rows)) >= look:
                    if width(summary(rows, seed)) <= within:
                        break
                    look = math.ceil(GROWTH * parts)
                part, begun = part + 1, time.perf_counter()
                move(models, places)
                for model in models.values():
                    serve(model, inputs, 2)  # to fill the caches
            first, second = ("variant", "dense") if generator.random() < 0.5 else ("dense", "variant")
            before = disturbance.counters()
            passes = []
            for order in ((first, second), (second, first)):
                readings = serve_in_turns([models[arm] for arm in order], inputs, work.output_tokens)
                passes += zip(order, readings, strict=True)
            seen = disturbance.since(before)
            judged = {name: value for name, value in seen.items() if name != "others_s"}
            seen["dropped"] = disturbance.disturbed(sum(reading.waited_ms for _, reading in passes) / 1e3, **judged)
            rows += [
                {
                    **work._asdict(),
                    "part": part,
                    "block": block,
                    "position": position,
                    "arm": arm,
                    **reading._asdict(),
                    **seen,
                }
                for position, (arm, reading) in enumerate(passes)
            ]
            block += 1
    finally:
        gc.enable()
    return rows


def width(figures: dict) -> float:
    """Of the decode ratio's 95 % interval; figures: those of `summary`."""
    return figures["decode_ratio_hi"] - figures["decode_ratio_lo"]


def _undisturbed_parts(rows: list[dict]) -> int:
    return len({row["part"] for row in rows if not row["dropped"]})


def summary(rows: list[dict], seed: int, draws: int = 10_000) -> dict:
    """Figures of one work: per reading the variant's median with its 95 % interval, p10, p90, and the same of the ratio
    to dense.

    Disturbed blocks are left out, unless blocks of fewer than MIN_BLOCKS parts would remain: then all count and `quiet`
    is False. `dense`: medians of the dense model's readings.
    """
    kept = [row for row in rows if not row["dropped"]]
    blocks, quiet = len(rows) // 4, _undisturbed_parts(rows) >= MIN_BLOCKS
    kept = kept if quiet else rows
    parts = np.array([row["part"] for row in kept[0::4]])
    figures = {"blocks": len(kept) // 4, "dropped_blocks": blocks - len(kept) // 4, "quiet": quiet}
    figures = {name: rows[0][name] for name in Work._fields} | figures
    for reading in COMPARED:
        arms = {arm: np.array([row[reading] for row in kept if row["arm"] == arm]) for arm in ("variant", "dense")}
        # two readings an arm and block, in the order of the blocks: a block's ratio is that of its geometric means
        pairs = {arm: np.sqrt(values[0::2] * values[1::2]) for arm, values in arms.items()}
        ratio, lo, hi = stats.paired_ratio(
            pairs["variant"], pairs["dense"], draws, groups=parts, seed=seed, level=LEVEL
        )
        p10, median, p90 = np.quantile(arms["variant"], [0.1, 0.5, 0.9])
        # Not paired, so what comes and goes on the machine is in it; put around the median, which is the figure.
        alone = np.ones(len(parts))
        mean, *ends = stats.paired_ratio(pairs["variant"], alone, draws, groups=parts, seed=seed, level=LEVEL)
        low, high = (float(median * end / mean) for end in ends)
        name = reading.partition("_")[0]
        figures |= {reading: float(median), f"{reading}_p10": float(p10), f"{reading}_p90": float(p90)}
        figures |= {f"{reading}_lo": low, f"{reading}_hi": high}
        figures |= {f"{name}_ratio": ratio, f"{name}_ratio_lo": lo, f"{name}_ratio_hi": hi}
    whole = np.median([row["decode_ms"] for row in kept if row["arm"] == "variant"])
    dense = [[row[name] for name in Pass._fields] for row in kept if row["arm"] == "dense"]
    figures["dense"] = dict(zip(Pass._fields, np.median(dense, axis=0).tolist(), strict=True))
    figures["decode_tokens_per_s"] = float(rows[0]["batch"] * (rows[0]["output_tokens"] - 1) * 1e3 / whole)
    return figures
