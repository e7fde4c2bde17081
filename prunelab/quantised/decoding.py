"""The loss of a text as decoding computes it, token by token, beside that of one pass over all of it.

Quality is measured on whole windows, which go through dense products; what is served goes through the kernels. That
both are one model is looked at with each quantised row.
"""

import torch
from torch.nn import functional

from prunelab.models import caches
from prunelab.quantised.layers import dense_products


@torch.inference_mode()
def decode_loss(model, ids: torch.Tensor) -> float:
    """Mean nats of ids (1, tokens) but the first, each predicted by a pass over the one token before it and the cache.

    To be compared with `window_loss` of the same ids. They round differently, so they differ: by 2e-5 relative or less
    where both paths compute in fp32, by 1e-3 or less where either computes in bf16 (kernels.py says which does).
    """
    cache, losses = None, []
    for place in range(ids.shape[1] - 1):
        out, cache = caches.step(model, ids[:, place : place + 1], cache)
        losses.append(functional.cross_entropy(out.logits[:, -1].float(), ids[:, place + 1]))
    return float(torch.stack(losses).double().mean())


@torch.inference_mode()
def window_loss(model, ids: torch.Tensor) -> float:
    """Mean nats of ids (1, tokens) but the first, from one pass over all of them, by dense products alone."""
    with dense_products(model):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return float(functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").double().mean())
