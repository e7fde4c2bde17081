"""Texts as token ids."""

from pathlib import Path

import torch

from prunelab.disk.files import read_text


def encode(tokenizer, text: str) -> torch.Tensor:
    """(N,) int64 token ids of a whole text, without special tokens."""
    # verbose=False: a whole book is longer than the model's context on purpose.
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def of_parts(tokenizer, data: Path) -> dict[str, torch.Tensor]:
    """The texts `train` and `validation` of what the stage fetch wrote into `data`."""
    return {part: encode(tokenizer, read_text(data / "text" / f"{part}.txt")) for part in ("train", "validation")}
