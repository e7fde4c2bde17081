"""Linear layers and embeddings whose weights are held in int8 or int4 and in no other form.

They have no `weight`: who does more with one than to multiply by it gets an AttributeError, not another model.
Inference alone: their products have no gradients.
"""

import contextlib

import torch
from torch import nn
from torch.nn import functional

from prunelab.quantised import kernels
from prunelab.quantised.grid import Grid


class QuantisedLinear(nn.Module):
    """In place of a `Linear`. Holds nothing until `hold` gives it the weights.

    Buffers: `qdata` and `scale` as kernels.pack makes them, and `like`, empty, in the dtype of the activations.
    """

    def __init__(self, inputs: int, outputs: int, grid: Grid, dtype: torch.dtype, bias: nn.Parameter | None = None):
        super().__init__()
        self.in_features, self.out_features, self.grid = inputs, outputs, grid
        self.bias = bias
        self.moved: tuple[float, float] | None = None  # quantising.py says so where it rounds
        self._rows, self._columns = kernels.padded(grid, outputs, inputs)
        # Not persistent: a file holds them in another form, which no machine's kernels decide (files.py).
        self.register_buffer("qdata", None, persistent=False)
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)
        # Where the layout of int4 is unknown, the kernel would read another weight than the one that is held.
        kernel = grid.precision == "int8" or kernels.layout() is not None
        # Elements of an input that the kernel gets.
        self._few = kernels.TOKENS[grid.precision] * inputs if kernel else 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations: what `model.to(dtype)` makes of it."""
        return self.like.dtype

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.scale is not None and self.scale.is_cpu:
            self.scale = self.scale.to(kernels.kernel_dtype(self.dtype))
        return self

    def extra_repr(self) -> str:
        group = f", group={self.grid.group}" if self.grid.precision == "int4" else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.grid.precision}{group}"

    def hold(self, levels: torch.Tensor, steps: torch.Tensor) -> None:
        """Take the weights: levels (out, in) and their steps, as of `Grid`."""
        self.qdata, self.scale = kernels.pack(self.grid, levels, steps, kernels.kernel_dtype(self.dtype))

    def levels(self) -> torch.Tensor:
        """int8 (out, in): a view where it can be one."""
        return kernels.unpack(self.grid, self.qdata, self.out_features, self.in_features)

    def steps(self) -> torch.Tensor:
        """The steps of the levels, as of `Grid`."""
        if self.grid.precision == "int8":
            return self.scale[:, None, None].bfloat16()
        return self.scale[:, : self.out_features].transpose(0, 1).bfloat16()

    def zeros(self) -> int:
        """How many of the weights are zero."""
        return self.in_features * self.out_features - int(self.grid.values(self.levels(), self.steps()).count_nonzero())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        buffers, inputs = self._buffers, self.in_features  # module attributes are looked up more slowly
        qdata, scale = buffers["qdata"], buffers["scale"]
        rows = x.reshape(-1, inputs)
        if self._columns != inputs:
            rows = functional.pad(rows, (0, self._columns - inputs))
        if x.numel() <= self._few and x.is_cpu:
            rows = rows.detach().to(scale.dtype).contiguous()  # the kernels have no gradients
            out = kernels.few(self.grid, rows, qdata, scale)
        else:
            out = kernels.many(self.grid, rows, qdata, scale)
        if self._rows != self.out_features:
            out = out[:, : self.out_features]
        if self.bias is not None:
            out = out + self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """(…, in): the weights' rows `ids` (…), in the activations' dtype."""
        found = kernels.rows_of(self.grid, ids.flatten(), self.qdata, self.scale, self.dtype)
        return found[:, : self.in_features].view(*ids.shape, self.in_features)


class QuantisedEmbedding(nn.Module):
    """In place of an `Embedding`: looks rows up in a `QuantisedLinear`, which is the head itself where it is `tied`."""

    def __init__(self, table: QuantisedLinear, tied: bool):
        super().__init__()
        if tied:
            self.__dict__["table"] = table  # no module of this one's: a model's walk meets the head once
        else:
            self.table = table
        self.num_embeddings, self.embedding_dim = table.out_features, table.in_features

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table.rows(ids)


def quantised_layers(model) -> dict[str, QuantisedLinear]:
    """The quantised layers of `model` by name, one that is both embedding and head once, as `….table`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}


@contextlib.contextmanager
def dense_products(model):
    """Within, no layer of `model` takes the kernels, however few tokens it gets."""
    layers = quantised_layers(model).values()
    before = [layer._few for layer in layers]
    for layer in layers:
        layer._few = 0
    try:
        yield
    finally:
        for layer, few in zip(layers, before, strict=True):
            layer._few = few


def held_bytes(model) -> int:
    """Bytes of all that `model` holds, parameters and buffers, each once."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
