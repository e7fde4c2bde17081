"""An int8 model in the format of torchao, which transformers loads where torchao is installed, without this package.

The same levels and the same scales, blocks alone: torchao leaves head and embedding as they are, so they are written as
the values that their int8 stands for, and the file is larger by that. Its int4 wants kernels of a CUDA package (mslk)
already to be made, so there is none. torchao's products of int8 weights are slow on a CPU without its compiler; the
format is for machines that have another way to run it, such as a GPU (docs/gpu.md).
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from prunelab.disk.files import whole_directory
from prunelab.errors import InputError
from prunelab.models import composites, loading, models
from prunelab.models.packed import COMPANIONS
from prunelab.quantised import files


def export(folder, out) -> None:
    """Write the int8 model in `folder` into folder `out` as torchao's weight-only int8.

    Raises InputError where it is in int4, where torchao is not installed, and for GPT-2's transposed layers.
    """
    folder = Path(folder)
    facts = files.facts_of(folder)
    if facts["precision"] != "int8":
        raise InputError(
            f"{folder}: in {facts['precision']}; torchao's int4 needs a CUDA package, so int8 alone is written"
        )
    if not find_spec("torchao"):
        raise InputError("torchao is not installed: pip install torchao")
    quantised = files.load(folder)
    plain = files.dequantised(folder, quantised)
    if transposed := [tensor["name"] for tensor in models.prunable_tensors(plain) if tensor["transposed"]]:
        raise InputError(f"{folder}: {transposed[0]} is a Conv1D, which torchao does not quantise")
    with whole_directory(out, folder) as partial, tempfile.TemporaryDirectory() as scratch:
        loading.save(plain, scratch, published=True)
        written = _in_torchao(scratch, plain.dtype)
        for tensor in models.prunable_tensors(plain):
            name = tensor["name"]
            layer, weight = quantised.get_submodule(name.removesuffix(".weight")), written.get_parameter(name)
            weight.qdata.copy_(layer.levels())  # exactly, whatever its own rounding found
            weight.scale.copy_(layer.steps()[:, :, 0].view(weight.scale.shape))
        loading.save(written, partial)
        for pattern in COMPANIONS:
            for path in folder.glob(pattern):
                if path.name != files.MARK and not (partial / path.name).exists():
                    (partial / path.name).write_bytes(path.read_bytes())


def _in_torchao(folder, dtype: torch.dtype):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    with loading.quiet():
        config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
        auto = composites.auto_class(loading.config_of(folder))
        return auto.from_pretrained(folder, quantization_config=config, dtype=dtype).eval()
