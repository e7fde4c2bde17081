"""Controls: unpruned models that stand beside dense, so that a falling loss is not credited to pruning.

`dense-average` is the averaged clone at 0 % (weight averaging alone), `dense-best` the checkpoint with the lowest
validation loss (early stopping alone). Both are other weights in the dense model's shape, kept in its folder.
"""

import re
from pathlib import Path

from prunelab.errors import InputError

FILES = {"average": "history/average.safetensors", "best": "best/model.safetensors"}


def named(identifier: str) -> str | None:
    """`dense-average`, `dense-average-s2` → `average`; None for what is no control."""
    match = re.fullmatch(r"dense-(\w+?)(-s\d+)?", identifier)
    return match[1] if match and match[1] in FILES else None


def put(model, folder, control: str):
    """`model`, the dense one of `folder`, with the weights of a control in place of its own.

    Raises InputError when the folder has no such control or it belongs to another model.
    """
    from safetensors.torch import load_file

    from prunelab.models import loading

    path = Path(folder) / FILES[control]
    if not path.is_file():
        raise InputError(f"{path}: no such file, so there is no control {control!r}; take it out of prune.controls")
    loading.put(model, load_file(path), path, folder)
    return model
