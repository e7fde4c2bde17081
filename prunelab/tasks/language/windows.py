"""Texts as the windows of tokens that a language model is trained and validated on.

Window `i` of a seed is always the same text. An *epoch* is `train.windows_per_epoch` of them.
"""

import functools
import math
from pathlib import Path

import numpy as np
import torch

from prunelab.errors import InputError
from prunelab.tasks.language import tokens as texts
from prunelab.training.examples import Examples


class TrainingWindows(torch.utils.data.Dataset):
    """All windows of a run, in the order of training; item `i` is {"input_ids", "labels"}, each (context,) int64.

    Args:
        tokens: (N,) the training text; context: tokens a window; per_epoch: windows an epoch, or None to cover
            the text once an epoch, in seeded order, from a seeded phase.
        batch_size: an epoch is rounded up to whole batches.
    """

    def __init__(self, tokens, context: int, epochs: int, per_epoch: int | None, batch_size: int, seed: int):
        if len(tokens) < 2 * context:
            raise InputError(f"train.context: {context} tokens a window, but the training text has only {len(tokens)}")
        self.tokens, self.context, self.seed, self.covering = tokens, context, seed, per_epoch is None
        windows = per_epoch or (len(tokens) - context) // context
        self.steps_per_epoch = math.ceil(windows / batch_size)
        self.per_epoch = self.steps_per_epoch * batch_size
        self.epochs = epochs
        self._starts_of = functools.lru_cache(maxsize=2)(self._starts)

    def _starts(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, epoch))
        if not self.covering:
            return generator.integers(0, len(self.tokens) - self.context + 1, self.per_epoch)
        phase = generator.integers(0, self.context)
        starts = np.arange(phase, len(self.tokens) - self.context + 1, self.context)
        return np.resize(generator.permutation(starts), self.per_epoch)  # the last batch is filled from the front

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __getitem__(self, index: int) -> dict:
        start = int(self._starts_of(index // self.per_epoch)[index % self.per_epoch])
        window = self.tokens[start : start + self.context]
        return {"input_ids": window, "labels": window}


def validation_windows(tokens, context: int, limit: int | None) -> list[dict]:
    """Non-overlapping windows of the validation text, `limit` of them evenly spaced (None: all)."""
    starts = np.arange(0, len(tokens) - context + 1, context)
    if not len(starts):
        raise InputError(f"validation text: {len(tokens)} tokens are less than one window of {context}")
    if limit is not None and limit < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
    return [{"input_ids": tokens[s : s + context], "labels": tokens[s : s + context]} for s in starts.tolist()]


def examples(settings, tokenizer, data: Path, seed: int) -> Examples:
    """What a study of texts trains on."""
    train, tokens = settings.train, texts.of_parts(tokenizer, data)
    return Examples(
        TrainingWindows(tokens["train"], train.context, train.epochs, train.windows_per_epoch, train.batch_size, seed),
        validation_windows(tokens["validation"], train.context, train.validation_windows),
        None,
        train.batch_size * train.context,
    )
