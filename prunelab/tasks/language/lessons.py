"""What a pruned language model is fine-tuned on: seeded random crops of the training text."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from prunelab.errors import InputError
from prunelab.models import loading
from prunelab.recovery.recovery import Lessons
from prunelab.tasks.language import tokens as texts
from prunelab.tasks.language import windows

SCORED_TOKENS = 4096  # of validation text at once


def lessons(settings, dense: Path, data: Path, seed: int) -> Lessons:
    """The lessons of `settings.recover`, in windows of `train.context` tokens."""
    wanted, context = settings.recover, settings.train.context
    train, held_out = _tokens(Path(dense).resolve(), *texts.read(data).values())
    held_out = windows.validation_windows(held_out, context, wanted.validation_windows)
    validation = torch.stack([window["input_ids"] for window in held_out])
    return of_tokens(train, validation, wanted.tokens, wanted.batch_size, context, seed)


@functools.lru_cache(maxsize=1)
def _tokens(dense: Path, *parts: str) -> list[torch.Tensor]:
    """The texts `parts` as tokens of the model in `dense`, encoded once for all rows that a process fine-tunes."""
    tokenizer = loading.tokenizer_of(dense, dense)
    return [texts.encode(tokenizer, text) for text in parts]


def of_tokens(train, validation, tokens: int, batch_size: int, context: int, seed: int) -> Lessons:
    """Lessons of about `tokens` tokens of the text `train` (N,), scored on the windows `validation` (n, context)."""
    batches = Crops(train, context, batch_size, math.ceil(tokens / (batch_size * context)), seed)
    scored = validation.split(max(1, SCORED_TOKENS // validation.shape[1]))
    return Lessons(batches, [{"input_ids": part} for part in scored], batch_size * context)


class Crops:
    """`steps` batches of token ids (batch_size, context), the same for a seed.

    Raises InputError for a text that is shorter than one window.
    """

    def __init__(self, tokens: torch.Tensor, context: int, batch_size: int, steps: int, seed: int):
        if len(tokens) < context:
            raise InputError(f"train.context is {context} tokens, the training text has {len(tokens)}")
        self.tokens, self.context, self.batch_size, self.steps, self.seed = tokens, context, batch_size, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        inside = torch.arange(self.context)
        for _ in range(self.steps):
            starts = torch.randint(len(self.tokens) - self.context + 1, (self.batch_size, 1), generator=generator)
            yield {"input_ids": self.tokens[starts + inside]}
