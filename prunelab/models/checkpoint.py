"""A model on disk: a plain Hugging Face folder, a packed variant (packed.py), or one in int8 (int8.py)."""

from pathlib import Path

import torch

from prunelab.disk.files import whole_directory
from prunelab.errors import InputError
from prunelab.models.packed import INT8_MARK, copy_companions, is_packed, packed_dtype, unpacked


def load(folder, dtype: torch.dtype | None = None):
    """The model in `folder`, plain, packed or in int8, in eval mode, on the CPU.

    `dtype` None keeps the stored one, by the same rule for dense models and variants (tensors.stored_dtype). Raises
    InputError when there is no model, or tensors and config do not agree.
    """
    from prunelab.models import loading

    folder = Path(folder)
    config = loading.config_of(folder)
    if (folder / INT8_MARK).exists():
        from prunelab.models import int8

        return int8.load(folder)
    if not is_packed(folder):
        return loading.of_folder(folder, dtype)
    return loading.of_state(config, dict(unpacked(folder)), dtype or packed_dtype(folder), folder)


def export(folder, out) -> None:
    """Write the variant in `folder` as a plain folder that `from_pretrained` loads without this package.

    Its tensors have the names under which the hub publishes the architecture. Raises InputError where the written
    folder does not hold the whole model.
    """
    from prunelab.models import loading

    if (Path(folder) / INT8_MARK).exists():
        raise InputError(f"{folder}: in int8, which no plain folder holds; prunelab.load() reads it")
    model = load(folder)
    with whole_directory(out, folder) as partial:
        copy_companions(folder, partial)
        loading.save(model, partial, published=True)
        loading.skeleton(partial)
