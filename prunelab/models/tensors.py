"""The tensors of a plain Hugging Face folder, read one at a time, from the files that `from_pretrained` would read."""

import functools
import hashlib
import json
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save_file

from prunelab.disk.files import read_json, sha256_file, write_json
from prunelab.errors import InputError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_names(folder) -> set[str]:
    """The names of the safetensors that `from_pretrained` reads: the one file where it is there, else its shards.

    Other files that lie beside them (another precision, shards of an older save) are not the model's. Raises InputError
    for an index that names none.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return {WEIGHTS}
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{folder}: expected a weight_map in {INDEX}, found none")
    return set(shards.values())


def weight_files(folder) -> list[Path]:
    """The files of `weight_names`, in their order. Raises InputError where there are none, or a shard is missing."""
    folder = Path(folder)
    paths = [folder / name for name in sorted(weight_names(folder))]
    if not paths[0].is_file() and paths[0].name == WEIGHTS:
        raise InputError(f"{folder}: no model*.safetensors in it; expected a Hugging Face folder with safetensors")
    if missing := [path.name for path in paths if not path.is_file()]:
        raise InputError(f"{folder}: expected weights in {', '.join(missing[:3])}, as {INDEX} says, found no such file")
    return paths


class Tensors:
    """The tensors of a plain folder (one safetensors file or shards), read one at a time.

    `pattern` names other files of tensors than the model's own. Raises InputError for a folder without safetensors and
    for a file that is cut off or corrupt.
    """

    def __init__(self, folder, pattern: str | None = None):
        folder = Path(folder)
        files = weight_files(folder) if pattern is None else sorted(folder.glob(pattern))
        if not files:
            raise InputError(f"{folder}: no {pattern} in it; expected a folder with such safetensors")
        self._file_of: dict[str, Path] = {}
        for path in files:
            self._file_of |= dict.fromkeys(open_tensors(path).keys(), path)
        self.nbytes = sum(path.stat().st_size for path in files)

    def names(self) -> list[str]:
        return list(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> torch.Tensor:
        # Opened for each tensor, so that what was read leaves this process with it: files are mapped into memory, and
        # one open handle would keep a model larger than memory resident.
        return open_tensors(self._holder(name)).get_tensor(name)

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor, from its file's header."""
        return open_tensors(self._holder(name)).get_slice(name).get_shape()

    def _holder(self, name: str) -> Path:
        if name not in self._file_of:
            raise InputError(f"{name}: no such tensor among {len(self._file_of)} of this model")
        return self._file_of[name]


def open_tensors(path: Path):
    """A safetensors file, opened. Raises InputError for one that is cut off or corrupt."""
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise InputError(f"{path}: cut off or corrupt ({error}); fetch or train it again") from None


# As safetensors calls them; anything else that should be a weight is a quantised one.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def headers(files: list[Path]):
    """Yield (name, dtype, values) of every tensor in the files, dtype as safetensors calls it; no value is read."""
    for path in files:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, entry["dtype"], torch.Size(entry["shape"]).numel()


def elements_by_dtype(files: list[Path]) -> Counter:
    """How many values the files hold of each dtype, by safetensors' names of them (`F32`)."""
    counted = Counter()
    for _, dtype, values in headers(files):
        counted[dtype] += values
    return counted


def stored_dtype(files: list[Path]) -> torch.dtype:
    """The dtype that a model is loaded, measured and judged in unless it is asked otherwise: that of most values.

    What config.json says is not asked: the files hold what was trained, and a packed variant must not be loaded by
    another rule than its dense model. Raises InputError where no floating-point values are stored.
    """
    return dtype_of_most(elements_by_dtype(files), files[0].parent)


def dtype_of_most(counted: Counter, name) -> torch.dtype:
    """The floating-point dtype with the highest count (safetensors' names of dtypes); `name`: for the error."""
    known = [dtype for dtype, _ in counted.most_common() if dtype in DTYPES]
    if not known:
        raise InputError(f"{name}: expected floating-point weights, found {', '.join(sorted(counted)) or 'none'}")
    return DTYPES[known[0]]


def copy_tensors(folder, out, names: list[str]) -> None:
    """Write the tensors `names` of the plain `folder` into the existing folder `out`, file by file as they were."""
    wanted, total, placed = set(names), 0, {}
    for path in weight_files(folder):
        opened = open_tensors(path)
        kept = {name: opened.get_tensor(name) for name in opened.keys() if name in wanted}  # noqa: SIM118 (no dict)
        if kept:
            save_file(kept, Path(out) / path.name, {"format": "pt"})
            placed |= dict.fromkeys(kept, path.name)
            total += sum(tensor.nbytes for tensor in kept.values())
    if set(placed.values()) != {WEIGHTS}:
        write_json(Path(out) / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def identity(folder) -> str:
    """Hex sha256 of the weights of the plain model in `folder`: equal for the same files, whatever lies beside them.

    Files that stay as they are are read once a process.
    """
    return hash_of(weight_files(folder))


def hash_of(stored: list[Path]) -> str:
    """Hex sha256 of what `sha256sum` says of the files, by their names."""
    return _hash_of(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in stored))


@functools.lru_cache(maxsize=4)
def _hash_of(stored: tuple) -> str:
    lines = (f"{sha256_file(path)}  {path.name}\n" for path, *_ in stored)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
