"""Hidden states of a whole calibration set: in memory, or in a file when they would be larger than that."""

import math
import os
import tempfile

import torch


class HiddenStates:
    """Batches of activations, each (samples, length, width), read and replaced by their number.

    With `folder` they live in a file there that has no name, so that not even a killed process leaves it behind; only
    the batch at work is in memory. Without, they are kept in main memory, also when blocks run on a GPU.
    """

    def __init__(self, folder=None):
        # Read and written at given places, so that several threads may do so at once.
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._kept: list[torch.Tensor] = []
        self._places: list[tuple[int, torch.Size, torch.dtype]] = []  # offset in bytes, shape, dtype
        self._end = 0

    def __len__(self) -> int:
        return len(self._kept) or len(self._places)

    def append(self, batch: torch.Tensor) -> None:
        if self._file is None:
            self._kept.append(batch.detach().cpu())
            return
        self._places.append((self._end, batch.shape, batch.dtype))
        self._end += batch.nbytes
        self[len(self._places) - 1] = batch

    def __getitem__(self, number: int) -> torch.Tensor:
        if self._file is None:
            return self._kept[number]
        offset, shape, dtype = self._places[number]
        raw = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        view = memoryview(raw.numpy())
        while len(view):
            count = os.preadv(self._file.fileno(), [view], offset)
            if not count:
                raise OSError(f"hidden states end {len(view)} bytes early")
            view, offset = view[count:], offset + count
        return raw.view(dtype).view(shape)

    def __setitem__(self, number: int, batch: torch.Tensor) -> None:
        batch = batch.detach().cpu()
        if self._file is None:
            self._kept[number] = batch
            return
        offset, shape, dtype = self._places[number]
        if batch.shape != shape or batch.dtype != dtype:
            raise ValueError(f"a block turned {tuple(shape)} {dtype} into {tuple(batch.shape)} {batch.dtype}")
        view = memoryview(batch.contiguous().view(-1).view(torch.uint8).numpy())
        while len(view):
            count = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[count:], offset + count

    def close(self) -> None:
        self._kept.clear()
        if self._file is not None:
            self._file.close()
