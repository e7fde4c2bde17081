"""A packed variant on disk, as small as its zeros allow.

Every masked tensor T is stored as `T.bits` (uint8: numpy's packbits of the row-major keep-mask, 1 = kept) and
`T.values` (the surviving values in row-major order, the model's dtype); all others as they are. A 30-60 % sparse file
is smaller with a bit mask than with any index format (CSR breaks even only at 50 %). Reading needs no transformers
until a model is built.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models import owncode
from prunelab.models.tensors import INDEX, dtype_of_most, open_tensors

PACKED_INDEX = "packed.index.json"
PACKED_FORMAT = "prunelab-packed-1"
SHARD_BYTES = 256_000_000  # held in memory while a variant is written
# Beside the tensors a variant holds what the dense folder needs to be loaded: config, tokenizer, generation defaults.
COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")
BUFFERS = "buffers.json"  # in the dense folder of a model that stores some: their names, which are no parameters
NOT_COMPANIONS = {
    "prunable.json", "sparsity.json", "precision.json", "quantised.json", "manifest.json", BUFFERS, PACKED_INDEX, INDEX,
}  # fmt: skip


class PackedWriter:
    """Writes a variant's tensors into `folder` one by one, in shards; no more than a shard is held in memory.

    `buffers`: names of tensors that are no parameters (a router's bias, say): written, but not counted.
    """

    def __init__(self, folder, shard_bytes: int = SHARD_BYTES, buffers=()):
        self.folder, self.shard_bytes, self.buffers = Path(folder), shard_bytes, frozenset(buffers)
        self.files: dict[str, str] = {}
        self.nbytes = self.parameters = self.nonzeros = 0
        self._tensors: dict[str, torch.Tensor] = {}
        self._shapes: dict[str, list[int]] = {}
        self._held = self._shards = 0

    def add(self, name: str, tensor: torch.Tensor, keep: torch.Tensor | None = None) -> None:
        """Add a tensor; with `keep` (bool, the same shape) only the values where it is True are stored."""
        tensor = tensor.detach().cpu()
        counts = name not in self.buffers
        self.parameters += counts * tensor.numel()
        if keep is None:
            parts = {name: tensor.contiguous()}
            self.nonzeros += counts * int(tensor.count_nonzero())
        else:
            keep = keep.cpu()
            values = tensor[keep]
            parts = {f"{name}.bits": torch.from_numpy(np.packbits(keep.numpy())), f"{name}.values": values}
            self._shapes[name] = list(tensor.shape)
            self.nonzeros += int(values.count_nonzero())
        self._tensors |= parts
        self._held += sum(part.nbytes for part in parts.values())
        if self._held >= self.shard_bytes:
            self._flush()

    def _flush(self) -> None:
        self._shards += 1
        file = f"packed-{self._shards:05d}.safetensors"
        save_file(self._tensors, self.folder / file, {"shapes": json.dumps(self._shapes)})
        for part in self._tensors:
            self.files[part.removesuffix(".bits").removesuffix(".values")] = file
        self.nbytes += (self.folder / file).stat().st_size
        self._tensors, self._shapes, self._held = {}, {}, 0

    def close(self) -> None:
        """Write the last shard and the index; without it the folder cannot be loaded."""
        if self._tensors:
            self._flush()
        write_json(self.folder / PACKED_INDEX, {"format": PACKED_FORMAT, "files": self.files})


def is_packed(folder) -> bool:
    return (Path(folder) / PACKED_INDEX).exists()


def unpacked(folder):
    """Yield (name, tensor) of a packed variant, zeros put back. Raises InputError for a damaged folder."""
    folder = Path(folder)
    index = read_json(folder / PACKED_INDEX)
    if index.get("format") != PACKED_FORMAT:
        raise InputError(f"{folder / PACKED_INDEX}: format {index.get('format')!r}, this version reads {PACKED_FORMAT}")
    for file in sorted(set(index["files"].values())):
        handle = open_tensors(folder / file)
        shapes = json.loads(handle.metadata()["shapes"])
        for name in (name for name, where in index["files"].items() if where == file):
            if name not in shapes:
                yield name, handle.get_tensor(name)
                continue
            values = handle.get_tensor(f"{name}.values")
            size = int(np.prod(shapes[name]))
            bits = np.unpackbits(handle.get_tensor(f"{name}.bits").numpy(), count=size).view(bool)
            tensor = torch.zeros(size, dtype=values.dtype)
            tensor[torch.from_numpy(bits)] = values
            yield name, tensor.view(shapes[name])


def masks_of(folder):
    """Yield (name, keep) of the masked tensors of a packed variant, bool, in the tensor's shape."""
    index = read_json(Path(folder) / PACKED_INDEX)
    for file in sorted(set(index["files"].values())):
        handle = open_tensors(Path(folder) / file)
        for name, shape in json.loads(handle.metadata()["shapes"]).items():
            bits = np.unpackbits(handle.get_tensor(f"{name}.bits").numpy(), count=int(np.prod(shape)))
            yield name, torch.from_numpy(bits.view(bool)).view(shape)


def write_buffers(names: list[str], folder) -> None:
    """Note in a dense model's folder which of its tensors are no parameters; most models have none, and no file."""
    if names:
        write_json(Path(folder) / BUFFERS, names)


def buffers_of(folder) -> list[str]:
    """What `write_buffers` noted of a dense model."""
    path = Path(folder) / BUFFERS
    return read_json(path) if path.exists() else []


def companions(folder) -> list[Path]:
    """What a folder needs beside its tensors: config, tokenizer, generation settings, the processor of pictures."""
    patterns = (*COMPANIONS, owncode.CODE) if owncode.is_marked(folder) else COMPANIONS
    found = [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    return [path for path in found if path.name not in NOT_COMPANIONS]


def copy_companions(source, target) -> None:
    """Copy `companions` from one folder into another."""
    for path in companions(source):
        shutil.copyfile(path, Path(target) / path.name)


def packed_dtype(folder) -> torch.dtype:
    """The dtype of most values of a packed variant, those that are masked counted: that of its dense model."""
    counted = Counter()
    for file in sorted(set(read_json(Path(folder) / PACKED_INDEX)["files"].values())):
        handle = open_tensors(Path(folder) / file)
        shapes = json.loads(handle.metadata()["shapes"])
        for part in handle.keys():  # noqa: SIM118 (not a dict)
            masked = part.removesuffix(".values") if part.endswith(".values") else None
            size = torch.Size(shapes[masked]) if masked in shapes else torch.Size(handle.get_slice(part).get_shape())
            counted[handle.get_slice(part).get_dtype()] += size.numel()
    return dtype_of_most(counted, folder)
