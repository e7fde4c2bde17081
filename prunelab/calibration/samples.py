"""What a model is shown when it is calibrated: named tensors with the samples along their first dimension.

`input_ids` (samples, length) int64 is always there; a model that sees pictures has more, which it is called with by
their names. Two have a meaning here: `attention_mask` (samples, length), 0 where a sample is filled up, and `labels`
(samples, length), -100 where the loss does not count; without them all tokens are the sample's, and all count.
"""

import hashlib

import torch

Samples = dict[str, torch.Tensor]


def split(samples: Samples, size: int) -> list[Samples]:
    """Batches of at most `size` samples."""
    parts = {name: tensor.split(size) for name, tensor in samples.items()}
    return [dict(zip(parts, batch, strict=True)) for batch in zip(*parts.values(), strict=True)]


def batch_of(samples: Samples, tokens: int) -> int:
    """How many samples run at a time where a forward pass takes so many `tokens`."""
    return max(1, tokens // samples["input_ids"].shape[1])


def inputs(batch: Samples, device, dtype: torch.dtype | None = None) -> Samples:
    """What a model is called with for its hidden states: all but the labels, real numbers (pixels) in `dtype`."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
        if name != "labels"
    }


def with_labels(batch: Samples, device, dtype: torch.dtype | None = None) -> Samples:
    """What a model is called with for its loss."""
    labels = batch.get("labels", batch["input_ids"])
    return inputs(batch, device, dtype) | {"labels": labels.to(device)}


def own_tokens(batch: Samples) -> torch.Tensor | None:
    """(samples, length) bool: which places are tokens of the samples; None where all are."""
    mask = batch.get("attention_mask")
    return None if mask is None or bool(mask.all()) else mask.bool()


def digest(samples: Samples) -> str:
    """Hex sha256: of the token ids, as rows of little-endian int32, then of what else there is, by name."""
    total = hashlib.sha256(samples["input_ids"].to(torch.int32).numpy().astype("<i4").tobytes())
    for name in sorted(samples.keys() - {"input_ids"}):
        tensor = samples[name]
        kind, form = (torch.float32, "<f4") if tensor.is_floating_point() else (torch.int32, "<i4")
        total.update(f"{name} {list(tensor.shape)}".encode())
        total.update(tensor.to(kind).numpy().astype(form).tobytes())
    return total.hexdigest()
