"""Whether a quantised model says token by token, as it is served, what it says of a whole text at once.

The two ways run different kernels, and those for a single token are not safe by themselves (prunelab/quantised): a
loss of whole windows alone would hide what a reader of generated text sees.
"""

import numpy as np
import torch

from prunelab.errors import InputError
from prunelab.quality.windows import PADDING
from prunelab.quantised import decoding, kernels
from prunelab.quantised.layers import quantised_layers

TOKENS = 256  # that are scored both ways, at least one window
# The largest difference, relative, that rounding explains: ten times what decoding.py says of each.
APART = {torch.float32: 2e-4, torch.bfloat16: 1e-2}


def figures(model, tokens: np.ndarray, name: str) -> dict:
    """Both losses of the first windows of `tokens` (windows, context), as they stand in quality.json; {} where nothing
    is quantised.

    `decode_loss`, `decode_loss_at_once`: mean nats a token over `decode_loss_tokens`. Raises InputError, which names
    the variant, where they are further apart than rounding explains.
    """
    if not quantised_layers(model):
        return {}
    rows = [row[row != PADDING] for row in tokens[: max(1, TOKENS // tokens.shape[1])]]
    windows = [torch.from_numpy(row[:TOKENS].astype(np.int64))[None].to(model.device) for row in rows if len(row) > 1]
    counts = [window.shape[1] - 1 for window in windows]
    stepwise, at_once = (
        sum(count * loss(model, window) for count, window in zip(counts, windows, strict=True)) / sum(counts)
        for loss in (decoding.decode_loss, decoding.window_loss)
    )
    limit = max(APART[dtype(model.dtype)] for dtype in (kernels.kernel_dtype, kernels.product_dtype))
    if not abs(stepwise - at_once) <= limit * abs(at_once):
        raise InputError(
            f"{name}: over {sum(counts)} tokens its loss is {at_once:.4f} nats at once and {stepwise:.4f} token by "
            f"token, more apart than the {limit:.2%} that rounding explains: a kernel of this machine computes "
            f"something else; take {name} out of prune.further"
        )
    return {"decode_loss_tokens": sum(counts), "decode_loss": stepwise, "decode_loss_at_once": at_once}
