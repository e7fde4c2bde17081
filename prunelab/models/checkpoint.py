"""A model on disk: a plain Hugging Face folder, or a packed variant (packed.py); prunelab/quantised adds a third."""

from pathlib import Path

import torch

from prunelab.disk.files import whole_directory
from prunelab.models.packed import PackedWriter, copy_companions, is_packed, packed_dtype, unpacked
from prunelab.models.tensors import Tensors


def load(folder, dtype: torch.dtype | None = None):
    """The model in `folder`, plain or packed, in eval mode, on the CPU.

    `dtype` None keeps the stored one, by the same rule for dense models and variants (tensors.stored_dtype). Raises
    InputError when there is no model, or tensors and config do not agree.
    """
    from prunelab.models import loading

    folder = Path(folder)
    config = loading.config_of(folder)
    if not is_packed(folder):
        return loading.of_folder(folder, dtype)
    return loading.of_state(config, dict(unpacked(folder)), dtype or packed_dtype(folder), folder)


def write(model, masks: dict[str, torch.Tensor], folder: Path) -> dict:
    """Write the tensors of `model` into the existing `folder`, packed where `masks` has a keep-mask, else plain.

    Returns `nonzero_parameters` and `packed_bytes`, the counts that a variant's record holds of them.
    """
    from prunelab.models import loading

    if not masks:
        loading.save(model, folder)
        nonzeros = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
        return {"nonzero_parameters": nonzeros, "packed_bytes": Tensors(folder).nbytes}
    writer = PackedWriter(folder, buffers=loading.buffers(model))
    state = model.state_dict()
    for name in loading.state_names(model):
        writer.add(name, state[name], masks.get(name))
    writer.close()
    return {"nonzero_parameters": writer.nonzeros, "packed_bytes": writer.nbytes}


def export(folder, out) -> None:
    """Write the variant in `folder` as a plain folder that `from_pretrained` loads without this package.

    Its tensors have the names under which the hub publishes the architecture. Raises InputError where the written
    folder does not hold the whole model.
    """
    from prunelab.models import loading

    model = load(folder)
    with whole_directory(out, folder) as partial:
        copy_companions(folder, partial)
        loading.save(model, partial, published=True)
        loading.skeleton(partial)
