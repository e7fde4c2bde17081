"""What reaches the linear layers of a block while it runs: squared column norms or Hessians, summed as batches pass.

Sums are taken in fp32 whatever the forward pass computes in, and added up in float64, so that their error does not
grow with the number of samples. Layers that are called with the same tensor (query, key and value, say) share one sum.
"""

import contextlib
import functools
import threading

import torch
from torch import nn

from prunelab.errors import InputError

ROWS = 4096  # of inputs squared at a time: more no longer fit the processor's cache
PANEL = 384  # columns of a Hessian computed at a time; it is symmetric, so only panels up to the diagonal are


class InputSums:
    """Σ x_j² over all tokens, or Σ x xᵀ, of the inputs x (in,) of one linear layer."""

    def __init__(self, width: int, device, hessian: bool):
        shape = (width, width) if hessian else (width,)
        self._sum = torch.zeros(shape, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Take in `inputs` (..., in)."""
        inputs = inputs.detach().reshape(-1, inputs.shape[-1])
        self.tokens += len(inputs)
        for rows in inputs.split(ROWS):
            rows = rows.float()
            if self._sum.dim() == 1:
                self._sum += (rows * rows).sum(0)
                continue
            for start in range(0, rows.shape[1], PANEL):
                panel = rows[:, start : start + PANEL]
                self._sum[start : start + PANEL, start:] += panel.T @ rows[:, start:]

    def join(self, other: "InputSums") -> None:
        """Take in what another one saw."""
        self._sum += other._sum
        self.tokens += other.tokens

    def squared_norm(self, samples: int) -> torch.Tensor:
        """(in,) fp32: Σ x_j² as a mean over `samples`."""
        sums = self._sum if self._sum.dim() == 1 else self._sum.diagonal()
        return (sums / samples).float()

    def hessian(self) -> torch.Tensor:
        """(in, in) float64: (2/N) Σ x xᵀ over N tokens."""
        # Within a panel both triangles were computed; taking the upper one for both makes it exactly symmetric.
        upper = self._sum.triu()
        return (upper + upper.triu(1).T) * (2 / self.tokens)


def counted(inputs: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """The `inputs` (samples, length, in) of a layer at the places `own` (samples, length): (tokens, in).

    All of them where `own` is None, and where they are not laid out by place, as an expert's are.
    """
    return inputs if own is None or inputs.shape[:-1] != own.shape else inputs[own]


class Observer:
    """Watches linear layers, given by the names of their weights, while `workers` run batches; end it with `close`."""

    def __init__(self, linears: dict[str, nn.Module], hessian: bool, workers: int):
        self._names, self._hessian = list(linears), hessian
        self._sums: list[dict[str, InputSums]] = [{} for _ in range(workers)]  # every worker adds up its own batches
        self._leaders: dict[str, str] = {}
        self._running = threading.local()  # of each thread: sums, and the inputs seen in this batch
        self._hooks = [
            module.register_forward_pre_hook(functools.partial(self._see, name)) for name, module in linears.items()
        ]

    @contextlib.contextmanager
    def batch(self, worker: int, own: torch.Tensor | None = None):
        """Enclose the run of one batch by `worker`; `own` (samples, length) bool: which places count, None: all."""
        self._running.sums, self._running.inputs, self._running.own = self._sums[worker], [], own
        try:
            yield
        finally:
            del self._running.sums, self._running.inputs, self._running.own

    def _see(self, name: str, module, args) -> None:
        (inputs,) = args
        leader = next((first for seen, first in self._running.inputs if seen is inputs), None)
        if leader is None:
            leader = name
            self._running.inputs.append((inputs, name))
            if name not in self._running.sums:
                self._running.sums[name] = InputSums(inputs.shape[-1], inputs.device, self._hessian)
            self._running.sums[name].add(counted(inputs, self._running.own))
        if self._leaders.setdefault(name, leader) != leader:
            raise InputError(
                f"{name}: shares its inputs with {self._leaders[name]} in one batch and with {leader} in another; "
                "blocks that route tokens differently for every text cannot be calibrated"
            )

    def close(self) -> None:
        """Stop watching, and add up what the workers saw."""
        for hook in self._hooks:
            hook.remove()
        first, *others = self._sums
        for sums in others:
            for name, part in sums.items():
                if name in first:
                    first[name].join(part)
                else:
                    first[name] = part
        self._sums = [first]

    def check(self) -> None:
        """Raises InputError for a layer that saw nothing, only zeros, or values that are not finite."""
        for name in self._names:
            if name not in self._leaders:
                raise InputError(
                    f"{name}: the calibration text never reaches this layer; leave it out of prune.scope or, where the "
                    "model uses the weight without calling the layer (mamba), take methods that look at no text"
                )
            norm = self.squared_norm(name, 1)
            if not torch.isfinite(norm).all():
                raise InputError(
                    f"{name}: its inputs are not finite over the calibration text; try calibrate.precision: fp32, and "
                    "check that the dense model itself is sound"
                )
            if not norm.any():
                raise InputError(
                    f"{name}: all its inputs are zero over the whole calibration text, so nothing tells its weights "
                    "apart; check the model, or take another calibration text"
                )

    def squared_norm(self, name: str, samples: int) -> torch.Tensor:
        """(in,) fp32 of the weight `name`: Σ x_j² as a mean over `samples`."""
        return self._sums[0][self._leaders[name]].squared_norm(samples)

    def leader(self, name: str) -> str:
        """The weight whose inputs the weight `name` shares: the first that was called with them, maybe itself."""
        return self._leaders[name]

    def hessian(self, name: str) -> torch.Tensor:
        """(in, in) float64 of the weight `name`: (2/N)·Σ x xᵀ over the N tokens seen."""
        return self._sums[0][self._leaders[name]].hessian()


@contextlib.contextmanager
def watching(linears: dict[str, nn.Module], hessian: bool, workers: int):
    """An Observer of `linears` that is closed at the end and, if all went well, checked."""
    observer = Observer(linears, hessian, workers)
    try:
        yield observer
    finally:
        observer.close()
    observer.check()
