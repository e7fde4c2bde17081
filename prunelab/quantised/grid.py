"""The grids that weights are rounded to: int8 with one scale a row, int4 with one and an offset a group of inputs.

A weight is `level · scale + offset`. int8 has no offset; int4 has one where that is nearer, but not where a group holds
a zero: without it zero is a level, so what a mask removed stays removed. Scales and offsets are numbers that bf16 holds
exactly: kernels want them in the dtype of the activations, and so all of them, whatever dtype they compute in, multiply
by the same weights.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

PRECISIONS = ("int8", "int4")
GROUPS = (32, 64, 128, 256)  # what the kernel of int4 takes (aten::_weight_int4pack_mm_for_cpu)


class Grid(NamedTuple):
    """Levels are int8 (out, in); steps, bf16, are (out, 1, 1) for int8, scales, and (out, groups, 2) for int4, both."""

    precision: str  # int8 | int4
    group: int = 32  # inputs that share a scale, of int4

    @property
    def span(self) -> tuple[int, int]:
        """The lowest and the highest level."""
        return (-127, 127) if self.precision == "int8" else (-8, 7)

    def width(self, inputs: int) -> int:
        """How many inputs share a scale, of a layer with `inputs`."""
        return inputs if self.precision == "int8" else self.group

    def steps_shape(self, outputs: int, inputs: int) -> tuple[int, int, int]:
        return (outputs, 1, 1) if self.precision == "int8" else (outputs, -(-inputs // self.group), 2)

    def steps(self, rows: torch.Tensor) -> torch.Tensor:
        """The steps for `rows` (out, in); a last group may be shorter.

        The largest magnitude becomes the outermost level. Of int4 three grids are tried, and that with the smallest
        squared error taken: the largest at the highest level, or at the lowest, of which there is one more (the scale
        may then be negative), both without an offset; or the lowest and the highest weight at the two ends.
        """
        groups = self._grouped(rows.float())
        low, high = self.span
        largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
        if self.precision == "int8":
            return _scale(largest.abs() / high)
        without = [_both(_scale(largest / end), torch.zeros_like(largest)) for end in (high, low)]
        lowest, highest = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
        scale = _scale((highest - lowest) / (high - low))
        grids = [*without, _both(scale, lowest - low * scale.float())]
        errors = torch.stack(
            [_values(_levels(groups, one, low, high), one).sub_(groups).square_().sum(2) for one in grids]
        )
        errors[2].masked_fill_((groups == 0).any(2), torch.inf)
        best = errors.argmin(0)[None, :, :, None].expand(1, -1, -1, 2)
        return torch.stack(grids).gather(0, best)[0]

    def levels(self, rows: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """int8 (out, in): the levels nearest to `rows` (out, in)."""
        levels = _levels(self._grouped(rows.float()), steps, *self.span).to(torch.int8)
        return levels.view(len(rows), -1)[:, : rows.shape[1]]

    def values(self, levels: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """fp32 (out, in): what the levels stand for."""
        return _values(self._grouped(levels.float()), steps).view(len(levels), -1)[:, : levels.shape[1]]

    def _grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """(out, in) as (out, groups, inputs), a shorter last group filled up with its last value."""
        width = self.width(rows.shape[1])
        return functional.pad(rows[:, None], (0, -rows.shape[1] % width), "replicate").view(len(rows), -1, width)


def _scale(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values == 0, 1, values).bfloat16()


def _both(scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return torch.cat([scale, offset.bfloat16()], 2)


def _levels(values: torch.Tensor, steps: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """The levels of `values` (out, groups, inputs), as numbers of their dtype."""
    scale, offset = _apart(steps, values.dtype)
    return ((values - offset) / scale).round_().clamp_(low, high)


def _values(levels: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    scale, offset = _apart(steps, levels.dtype)
    return levels * scale + offset


def _apart(steps: torch.Tensor, dtype: torch.dtype):
    steps = steps.to(dtype)
    return steps[..., :1], steps[..., 1:] if steps.shape[-1] == 2 else 0
