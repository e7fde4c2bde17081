"""A model on disk of whatever kind: plain, packed (models/checkpoint.py) or quantised (files.py)."""

from pathlib import Path

import torch

from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.quantised import files


def load(folder, dtype: torch.dtype | None = None):
    """The model in `folder`, in eval mode, on the CPU.

    `dtype` None keeps the stored one; a quantised model has no other. Raises InputError when there is no model, or its
    files do not agree.
    """
    folder = Path(folder)
    if not files.is_quantised(folder):
        return checkpoint.load(folder, dtype)
    model = files.load(folder)
    if dtype not in (None, model.dtype):
        raise InputError(f"{folder}: quantised, with activations in {model.dtype}; it cannot be loaded in {dtype}")
    return model
