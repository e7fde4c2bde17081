"""What a task gives to the training: where it begins, and what it sees in which order."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Start(NamedTuple):
    """Where training begins."""

    model: Any  # with fp32 weights whatever its file holds: in 16 bits most updates are smaller than half a step;
    # where only low-rank updates are trained (lowrank.py), as it is stored
    processor: Any  # a tokenizer, or what else turns an example into tensors; `save_pretrained(folder)` writes it
    stored: Any  # torch.dtype of the model that is written
    new: tuple[str, ...] = ()  # how the names of parameters begin that were made here beside a fetched model


class Examples(NamedTuple):
    """What a model is trained on.

    A run is one long sequence of examples, numbered from 0 and the same for a seed, so that a resumed run sees what the
    unbroken one would have seen; an epoch is a part of it.
    """

    train: Any  # Dataset, in the order of training: all epochs of it; `steps_per_epoch` says where one ends
    validation: Any  # list or Dataset, scored at every evaluation
    collate: Callable | None  # makes a batch of examples, a dict of tensors; None: they are stacked
    tokens_per_step: int  # about, for the line that tells the progress
