"""The text that a language model is calibrated on: seeded crops (the field takes 128 x 2048 tokens)."""

import hashlib
from pathlib import Path

import torch

from prunelab.calibration.samples import Samples
from prunelab.disk.files import read_text
from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.tasks.language.tokens import encode


def samples(settings, dense: Path, data: Path, seed: int) -> tuple[Samples, dict]:
    """The samples of `settings.calibrate`, tokenised once, and which text they are of.

    Raises InputError for a text that is too short and for samples longer than the model's context.
    """
    wanted = settings.calibrate
    limit = models.context_length(loading.config_of(dense))
    if limit and wanted.length > limit:
        raise InputError(f"calibrate.length: {wanted.length} exceeds the model's {limit} positions")
    text, source = text_of(data)
    tokens = encode(loading.tokenizer_of(dense, dense), text)
    facts = {"source": source, "text_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return {"input_ids": draw(tokens, wanted.samples, wanted.length, seed)}, facts


def text_of(data: Path) -> tuple[str, str]:
    """The text that models are calibrated on, of what the stage fetch left in `data`, and its name.

    `calibration` where the study fetches a text for that, else `train`: never what quality is measured on.
    """
    own, train = Path(data) / "calibration" / "text.txt", Path(data) / "text" / "train.txt"
    path, name = (own, "calibration") if own.exists() else (train, "train")
    if not path.exists():
        raise InputError(f"{path}: no such file; run the stage fetch")
    return read_text(path), name


def draw(tokens: torch.Tensor, samples: int, length: int, seed: int) -> torch.Tensor:
    """`samples` crops of `length` tokens from `tokens` (n,), from distinct seeded places: (samples, length) int64.

    Raises InputError when the text holds fewer tokens than are asked for.
    """
    if len(tokens) < samples * length or len(tokens) < length + samples - 1:
        raise InputError(
            f"calibrate.samples x calibrate.length: {samples} x {length} = {samples * length} tokens are asked for, "
            f"the calibration text has {len(tokens)}; lower one of them, or give it more text"
        )
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randperm(len(tokens) - length + 1, generator=generator)[:samples]
    return torch.stack([tokens[start : start + length] for start in starts.tolist()]).long()
