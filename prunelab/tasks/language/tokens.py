"""Texts as token ids."""

from pathlib import Path

import torch

from prunelab.disk.files import read_text


def encode(tokenizer, text: str) -> torch.Tensor:
    """(N,) int64 token ids of a whole text, without special tokens."""
    # verbose=False: a whole book is longer than the model's context on purpose.
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def read(data) -> dict[str, str]:
    """The texts `train` and `validation` that the stage fetch wrote into `data`. Raises InputError for one missing."""
    return {part: read_text(Path(data) / "text" / f"{part}.txt") for part in ("train", "validation")}


def of_parts(tokenizer, data) -> dict[str, torch.Tensor]:
    """`read` as tokens."""
    return {part: encode(tokenizer, text) for part, text in read(data).items()}
