"""What a model of prices is trained on: rows as tensors, in a seeded order that a resumed run finds again.

An *epoch* is `train.windows_per_epoch` rows, null: all of them once.
"""

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from prunelab.tasks.price.rows import FOLDER, of_part
from prunelab.tasks.price.seeing.encoding import Encoder
from prunelab.training.examples import Examples

KEPT_BYTES = 4_000_000_000  # of encoded rows, which take a few milliseconds each to make again


def folder_of(data) -> Path:
    """Where the rows' pictures are relative to."""
    return Path(data) / FOLDER


class Encoded(torch.utils.data.Dataset):
    """Rows with their answers as tensors (encoding.py), encoded once as far as they fit into KEPT_BYTES.

    Encodes all of them first: raises InputError for the first that cannot be, before anything is trained.
    """

    def __init__(self, encoder: Encoder, rows: list[dict]):
        self.encoder, self.rows = encoder, rows
        self._kept: dict[int, dict] = {}
        self._room = KEPT_BYTES
        numbers = tqdm(range(len(rows)), desc="reading rows", unit="row", disable=None)
        self.lengths = [len(self[number]["input_ids"]) for number in numbers]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index in self._kept:
            return self._kept[index]
        encoded = self.encoder.row(self.rows[index])
        size = sum(value.nbytes for value in encoded.values())
        if size <= self._room:
            self._kept[index], self._room = encoded, self._room - size
        return encoded


class InOrder(torch.utils.data.Dataset):
    """All rows of a run, in the order of training: every epoch is another seeded order of them.

    per_epoch: rows an epoch, rounded up to whole batches (the last is filled from the front); None: all of them.
    """

    def __init__(self, rows: Encoded, epochs: int, per_epoch: int | None, batch_size: int, seed: int):
        self.rows, self.epochs, self.seed = rows, epochs, seed
        self.steps_per_epoch = math.ceil((per_epoch or len(rows)) / batch_size)
        self.per_epoch = self.steps_per_epoch * batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, place = divmod(index, self.per_epoch)
        if self._order[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._order = epoch, np.resize(generator.permutation(len(self.rows)), self.per_epoch)
        return self.rows[int(self._order[1][place])]


def examples(settings, processor, data, seed: int) -> Examples:
    """What a study of prices trains on.

    Held-out rows are looked at too: one that the model cannot take is told now, and not when it has been trained.
    """
    train = settings.train
    require_readable(Encoder(processor, processor.config, folder_of(data)), of_part(data, "test"))
    encoder = Encoder(processor, processor.config, folder_of(data), train.context)
    rows = Encoded(encoder, of_part(data, "train"))
    held_out = Encoded(encoder, evenly(of_part(data, "validation"), train.validation_windows))
    return Examples(
        InOrder(rows, train.epochs, train.windows_per_epoch, train.batch_size, seed),
        held_out,
        encoder.collate,
        round(train.batch_size * float(np.mean(rows.lengths))),
    )


def require_readable(encoder: Encoder, rows: list[dict]) -> None:
    """Raises InputError for the first row that the encoder's model cannot take: too long, or without its picture."""
    for row in tqdm(rows, desc="reading held-out rows", unit="row", disable=None):
        encoder.row(row)


def evenly(rows: list, limit: int | None) -> list:
    """`limit` of the rows, evenly spaced; None: all."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[place] for place in np.linspace(0, len(rows) - 1, limit).astype(int)]
