"""The vision tower's share of a prefill: its own time within passes that are timed as a whole.

    |<------------------ prefill ------------------>|
    embed |<-- vision tower -->| project, blocks, head

Both times are of one pass, so whatever slows the machine is in both. The tower looks at the picture once, at the
prefill; no step of decoding calls it.
"""

import time

import numpy as np
import torch

from prunelab.efficiency import device, latency

PASSES = 9  # of which the median counts; a first one, that is not read, fills the caches


def tower(model):
    """The module that looks at pictures, by the library's own names; None in a model of text alone."""
    look_up = getattr(model, "get_encoder", None)  # an ONNX session has none
    found = look_up(modality="image") if look_up else model
    return None if found is model or found is getattr(model, "base_model", None) else found


def figures(model, inputs: latency.Inputs) -> dict:
    """`vision_share` of a prefill, its lowest and highest tenth, and `vision_ms`; {} where no picture goes in."""
    seen = tower(model) if any(name.startswith("pixel_values") for name in latency.parts(inputs)[1]) else None
    if seen is None:
        return {}
    shares, spent = np.array([_pass(model, seen, inputs) for _ in range(PASSES + 1)])[1:].T
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    return {
        "vision_share": float(middle),
        "vision_share_p10": float(low),
        "vision_share_p90": float(high),
        "vision_ms": float(np.median(spent)),
    }


@torch.inference_mode()
def _pass(model, seen, inputs: latency.Inputs) -> tuple[float, float]:
    """(the tower's share of one prefill, the tower's own ms); what was waited for a core is in neither."""
    with device.waiting() as waited:
        marks: list[float] = []

        def mark(*_) -> None:
            latency.synchronise(model)
            marks.append(time.perf_counter() - waited())

        hooks = [seen.register_forward_pre_hook(mark), seen.register_forward_hook(mark)]
        try:
            mark()
            latency.prefill(model, inputs)
            mark()
        finally:
            for hook in hooks:
                hook.remove()
    inside = sum(end - begin for begin, end in zip(marks[1:-1:2], marks[2:-1:2], strict=True))
    return inside / (marks[-1] - marks[0]), 1e3 * inside
