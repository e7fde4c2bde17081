"""What a model of prices is served to be timed, of its folder alone: with other data its times are the same."""

from pathlib import Path

import numpy as np
import torch

from prunelab.errors import InputError
from prunelab.tasks.price.seeing import processing
from prunelab.tasks.price.seeing.encoding import Encoder
from prunelab.tasks.price.templates import PLACE

PIXELS = 224  # of the picture that is timed; what is made of it the processor decides


def prompt(settings, dense, tokens: int, batch: int) -> dict[str, torch.Tensor]:
    """A picture and text of `tokens` tokens together, `batch` times: what is served to be timed.

    Its content is noise by the study's seed; how long it takes depends on sizes alone. Raises InputError where the
    picture leaves no room for text.
    """
    from PIL import Image

    processor = processing.of_folder(dense)
    encoder = Encoder(processor, processor.config, Path())
    noise = np.random.default_rng(settings.seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    row = {"id": "to be timed", "prompt": f"{PLACE}:", "picture": ""}
    found = encoder.prompt(row, Image.fromarray(noise))
    length, places = len(found["input_ids"]), encoder.pictures_tokens(found)
    last = int(encoder.places(found["input_ids"]).nonzero().max()) + 1 if places else 0
    if tokens <= last:
        raise InputError(
            f"efficiency.prompt_tokens: {tokens}, of which this model's picture alone takes {places} with what stands "
            f"before it ({last}); expected at least {last + 1}"
        )
    for name, value in found.items():
        if value.dim() == 1 and len(value) == length:
            text = value[-1:].repeat(max(0, tokens - length))
            found[name] = torch.cat([value, text])[:tokens]
    return encoder.collate([found] * batch)
