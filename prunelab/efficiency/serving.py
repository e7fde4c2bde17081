"""One model on every runtime, each beside the eager dense model, alternating pass by pass.

The efficiency of a variant is that of eager torch. This says what else could be had: from the same weights on another
runtime. A runtime that is not here, or not for this model, stays in the list with the reason.
"""

import time

import torch

from prunelab import stats
from prunelab.efficiency import latency, memory, runtimes
from prunelab.errors import InputError, in_one_line
from prunelab.models import caches, packed
from prunelab.models.workers import threads
from prunelab.quantised import opening

MASKED = "masked only: its zeros are stored small, but no dense kernel skips them"


def measure(folder, dense, names: list[str], seconds: float, efficiency, session: dict, seed: int) -> dict:
    """`{"remark", "runtimes": {name: figures}}` of the model in `folder` beside the one in `dense`.

    seconds: the most that a runtime is timed. efficiency: that section of the settings (work, threads, how narrow an
    interval is enough). session: efficiency.json of the dense model, whose A/A test says what is no difference.
    Figures of a runtime: `available`, `reason` or: decode and prefill times in ms with ratios to eager dense and their
    intervals, `decode_verdict`, `logits_from_eager` (norm of the difference relative to the norm, of this model on a
    prompt), `top1_agreement_eager`, `preparation_s` (with compiling), `rounds`.
    """
    with threads(efficiency.threads):
        return _measure(folder, dense, names, seconds, efficiency, session, seed)


def _measure(folder, dense, names: list[str], seconds: float, efficiency, session: dict, seed: int) -> dict:
    work = latency.Work(efficiency.prompt_tokens[0], efficiency.batch_sizes[0], efficiency.output_tokens)
    model, plain = (memory.on_device(opening.load(path)) for path in (folder, dense))
    ids = latency.prompts(plain, work, seed)
    within = efficiency.within_percent / 100
    figures = {name: _on(name, model, plain, ids, work, seconds, within, session, seed) for name in ("eager", *names)}
    masked = packed.is_packed(folder)
    return {"remark": MASKED if masked else None, **work._asdict(), "runtimes": figures}


def _on(
    name: str, model, dense, ids, work: latency.Work, seconds: float, within: float, session: dict, seed: int
) -> dict:
    about = {"meaning": runtimes.MEANING[name]}
    start = time.perf_counter()
    try:
        served = runtimes.prepare(model, name)
        latency.serve(served, ids, work.output_tokens)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix("not available here: ")  # a row says both already
        return {**about, "available": False, "reason": reason}
    except RuntimeError as error:  # torch.compile's errors, and operations that a kernel has not
        found = in_one_line(error, 120)
        return {**about, "available": False, "reason": f"{type(model).__name__} does not run on it ({found})"}
    preparation_s = time.perf_counter() - start
    # 16-bit kernels are to be held against a dense model that also has 16 bits.
    dense = dense if dense.dtype == served.dtype else _as(dense, served.dtype)
    arms = {"variant": served, "dense": dense}
    warm = latency.warm_up(arms, ids, work.output_tokens, seconds / 2)
    timing = latency.summary(latency.interleave(arms, ids, work, seconds, seed, within), seed)
    found = {key: timing[key] for key in timing if key.startswith(("prefill", "decode"))}
    for phase in ("prefill", "decode"):
        ratio = tuple(timing[f"{phase}_ratio{end}"] for end in ("", "_lo", "_hi"))
        found[f"{phase}_verdict"] = stats.verdict(ratio, session[f"{phase}_smallest_effect"])
    return {
        **about,
        "available": True,
        "reason": None,
        "dtype": str(served.dtype).removeprefix("torch."),
        "preparation_s": preparation_s,
        **_fidelity(served, model, ids),
        **found,
        "rounds": timing["blocks"],
        "dropped_rounds": timing["dropped_blocks"],
        "quiet": timing["quiet"],
        "warm_up": warm,
    }


@torch.inference_mode()
def _fidelity(served, model, ids) -> dict:
    """How far the runtime's predictions on a prompt are from those of eager torch with the same weights."""
    # On the CPU, where ONNX Runtime leaves them.
    found, wanted = (caches.step(one, ids)[0].logits.float().cpu() for one in (served, model))
    apart = float((found - wanted).norm() / wanted.norm())
    agreement = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
    return {"logits_from_eager": apart, "top1_agreement_eager": agreement}


def _as(model, dtype: torch.dtype):
    import copy

    return copy.deepcopy(model).to(dtype)
