"""What a language model is served to be timed: random tokens, because its work does not depend on which they are."""

from pathlib import Path

import torch

from prunelab.models import loading


def prompt(settings, dense: Path, tokens: int, batch: int) -> dict[str, torch.Tensor]:
    """Token ids (batch, tokens) of the vocabulary of the model in folder `dense`, by the study's seed."""
    vocabulary = loading.config_of(dense).get_text_config().vocab_size
    generator = torch.Generator().manual_seed(settings.seed)
    return {"input_ids": torch.randint(vocabulary, (batch, tokens), generator=generator)}
