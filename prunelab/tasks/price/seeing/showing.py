"""What a model of prices is shown besides training: calibration samples, lessons of recovery."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from prunelab.calibration.samples import Samples
from prunelab.errors import InputError
from prunelab.recovery.recovery import Lessons
from prunelab.tasks.price.rows import of_part
from prunelab.tasks.price.seeing import processing
from prunelab.tasks.price.seeing.encoding import IGNORED, Encoder
from prunelab.tasks.price.seeing.examples import Encoded, InOrder, evenly, folder_of

SCORED_ROWS = 64  # of validation at once


def samples(settings, dense, data, seed: int) -> tuple[Samples, dict]:
    """`calibrate.samples` rows of training with their answers, padded to one length, and how many tokens are what.

    All have pictures of one shape, the most frequent. Raises InputError for too few rows, and for one of more than
    `calibrate.length` tokens.
    """
    wanted, rows = settings.calibrate, of_part(data, "train")
    encoder = encoder_of(dense, data)
    order = np.random.default_rng(seed).permutation(len(rows))
    chosen, shapes = [], Counter()
    for number in order:
        encoded = encoder.row(rows[number])
        if (length := len(encoded["input_ids"])) > wanted.length:
            raise InputError(
                f"calibrate.length: expected at most {wanted.length} tokens of a sample, found {length} in "
                f"{rows[number]['where']}; raise it, rows are shown whole"
            )
        shape = tuple((name, value.shape) for name, value in encoded.items() if value.dim() > 1)
        shapes[shape] += 1
        chosen.append((shape, encoded))
        if shapes[shape] == wanted.samples:
            break
    usual, found = shapes.most_common(1)[0]
    if found < wanted.samples:
        raise InputError(
            f"calibrate.samples: {wanted.samples} are asked for, training has {len(rows)} rows, {found} of them with "
            "pictures of one shape; lower it"
        )
    batch = encoder.collate([encoded for shape, encoded in chosen if shape == usual])
    total = int(batch["attention_mask"].sum())
    seen = encoder.pictures_tokens(batch)
    answers = int((batch["labels"] != IGNORED).sum())
    facts = {
        "source": "train",
        "picture_tokens": seen,
        "text_tokens": total - seen,
        "answer_tokens": answers,
        "padding_tokens": batch["input_ids"].numel() - total,
    }
    return batch, facts


def encoder_of(dense, data, context: int | None = None) -> Encoder:
    """The encoder of the model in folder `dense`, for rows of the fetched `data`."""
    processor = processing.of_folder(dense)
    return Encoder(processor, processor.config, folder_of(data), context)


def lessons(settings, dense, data, seed: int) -> Lessons:
    """What a pruned model is fine-tuned on: about `recover.tokens` tokens of training rows."""
    wanted = settings.recover
    encoder = encoder_of(dense, data, settings.train.context)
    rows = Encoded(encoder, of_part(data, "train"))
    held_out = Encoded(encoder, evenly(of_part(data, "validation"), wanted.validation_windows))
    a_step = wanted.batch_size * float(np.mean(rows.lengths))
    scored = [held_out[number] for number in range(len(held_out))]
    validation = [encoder.collate(scored[i : i + SCORED_ROWS]) for i in range(0, len(scored), SCORED_ROWS)]
    return Lessons(Batches(rows, wanted.batch_size, math.ceil(wanted.tokens / a_step), seed), validation, round(a_step))


class Batches:
    """`steps` batches of rows, the same for a seed."""

    def __init__(self, rows: Encoded, batch_size: int, steps: int, seed: int):
        self.steps, self.batch_size, self.collate = steps, batch_size, rows.encoder.collate
        self.order = InOrder(rows, math.ceil(steps * batch_size / len(rows)), None, batch_size, seed)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(self.steps):
            first = step * self.batch_size
            yield self.collate([self.order[index] for index in range(first, first + self.batch_size)])
