"""Work on batches side by side, each by a thread of its own.

Threads that share one operation wait for each other thousands of times a batch, which a busy neighbour turns into
several times the seconds; threads with batches of their own never wait (and in quiet they are somewhat faster).
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

LIMIT = 4  # workers, because each may hold sums of its own; many-core machines give each several threads


@contextlib.contextmanager
def threads(count: int | None):
    """Within, an operation computes with `count` threads (None: as many as before); afterwards as it was.

    Another number adds sums up in another order, so it must not leak: two runs would no longer be equal to the bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def number_of(device: torch.device, batches: int) -> int:
    """How many workers `batches` are worth: on a GPU one, else up to one a thread of the processor."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), batches, LIMIT))


def share(work: Callable, batches: int, workers: int) -> list:
    """The results of `work(worker, numbers)` for every worker, in order; `numbers` are its part of 0 … batches - 1.

    The parts depend on nothing but the two counts, so sums that each worker makes by itself and that are added in order
    come out the same every time. Gradients are recorded by the workers if they are here.
    """
    if workers == 1:
        return [work(0, range(batches))]
    recording = torch.is_grad_enabled()

    def entered(worker: int):
        with torch.set_grad_enabled(recording):  # holds for one thread alone
            return work(worker, range(worker, batches, workers))

    with threads(max(1, torch.get_num_threads() // workers)), ThreadPoolExecutor(workers) as executor:
        return list(executor.map(entered, range(workers)))
