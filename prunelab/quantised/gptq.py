"""GPTQ (arXiv 2210.17323): round a linear layer's weights so that its output changes least.

SparseGPT's solver with another loss a column: a weight isn't removed but rounded to the grid, and what that changes is
paid back by the weights to its right. The steps of a group of int4 are chosen when its columns are reached, from what
they have become by then; those of int8 rows before anything is. Weights that are zero stay zero, so a mask is kept.
"""

import contextlib
import tempfile
from pathlib import Path

import torch
from torch import nn

from prunelab.calibration.blocks import BlockModel, progress, run, workers_for
from prunelab.calibration.observer import watching
from prunelab.calibration.samples import Samples
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading, packed
from prunelab.models.tensors import Tensors
from prunelab.pruning import sparsegpt
from prunelab.quantised import quantising
from prunelab.quantised.grid import Grid


def solve(weight: torch.Tensor, factor: sparsegpt.Factor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and steps, as of `Grid`, of `weight` (out, in).

    An input that was always zero over the calibration text says nothing of its weights: they are rounded to nearest.
    """
    rows, columns = weight.shape
    upper = factor.upper
    work = weight.double().T.contiguous()  # (in, out)
    zero = work == 0
    low, high = grid.span
    by_row = grid.precision == "int8"
    steps = [grid.steps(weight)] if by_row else []
    levels = torch.zeros((columns, rows), dtype=torch.int8, device=weight.device)
    scale, offset = steps[0][:, 0, 0].double() if by_row else None, torch.zeros_like(work[0])

    def begin(start: int, stop: int) -> None:
        nonlocal scale, offset
        if not by_row:
            # Where a mask lies, zeros are put back, so that the grid has a level for them.
            steps.append(grid.steps(work[start:stop].masked_fill(zero[start:stop], 0).T))
            scale, offset = steps[-1][:, 0].double().unbind(1)

    def error(j: int, out: torch.Tensor) -> None:
        level = ((work[j] - offset) / scale).round_().clamp_(low, high).masked_fill_(zero[j], 0)
        levels[j] = level
        torch.sub(work[j], level.mul_(scale).add_(offset), out=out).div_(upper[j, j])

    step = sparsegpt.PANEL if by_row else grid.group
    sparsegpt.sweep(work, upper, max(sparsegpt.BLOCK, step), step, begin, error)
    return levels.T.contiguous(), torch.cat(steps, dim=1)


@torch.no_grad()
def rounded(
    source,
    samples: Samples,
    batch: int,
    precision: str,
    group: int = 32,
    compute: str = "auto",
    disk=None,
) -> quantising.Rounding:
    """What `quantising.quantise` and `files.write` take as `rounding`: GPTQ of the model in folder `source`.

    Block by block: each is observed on what comes out of the rounded ones before it, then rounded and run again.

    Args:
        source: a plain or packed folder; the model that is then quantised is that one.
        samples: what it is calibrated on; `batch` of them run at a time.
        precision, group: as of `quantise`. compute: of the forward passes, `calibrate.precision` of a study.
        disk: folder for the hidden states; None keeps them in memory.

    Raises InputError for a layer whose inputs are all zero or not finite, or that the text never reaches.
    """
    grid, _ = quantising.grids(precision, group, "int8")
    with _plain(Path(source)) as folder:
        found = _by_blocks(BlockModel(folder, precision=compute), Tensors(folder), samples, batch, grid, disk)

    def rounding(name: str, weight: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        return found.pop(name)

    return rounding


@contextlib.contextmanager
def _plain(source: Path):
    """`source` itself, or for a packed variant a temporary plain folder: blocks are read from such alone."""
    if not packed.is_packed(source):
        yield source
        return
    with tempfile.TemporaryDirectory() as scratch:
        loading.save(checkpoint.load(source), scratch)
        yield Path(scratch)


def _by_blocks(model: BlockModel, weights: Tensors, samples: Samples, batch: int, grid: Grid, disk) -> dict:
    """{name: (levels, steps)} of all linear weights of the blocks."""
    found = {}
    states = model.enter(samples, batch, disk)
    for index in progress(model, f"{grid.precision}, GPTQ"):
        with model.loaded(index):
            linears = model.linears(index)
            with watching(linears, True, workers_for(model, states)) as observer:
                run(model, index, states, observer, keep=False)
            leader, factor = None, None
            for name, module in linears.items():
                transposed = not isinstance(module, nn.Linear)
                try:
                    if observer.leader(name) != leader:
                        leader, factor = observer.leader(name), sparsegpt.factorise(observer.hessian(name))
                except ValueError as error:
                    raise InputError(f"{grid.precision}: {name}: {error}; calibrate on more text") from None
                weight = weights[name].to(model.device)
                levels, steps = solve(weight.T if transposed else weight, factor, grid)
                values = grid.values(levels, steps).to(model.dtype)
                module.weight = nn.Parameter(values.T if transposed else values, requires_grad=False)
                found[name] = levels.cpu(), steps.cpu()
            if index + 1 < len(model.blocks):
                run(model, index, states)
    states.close()
    return found
