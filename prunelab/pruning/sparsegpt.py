"""SparseGPT (arXiv 2301.00774): prune a linear layer and rewrite what stays so that its output changes least.

With inputs X and H = (2/N)·Σ x xᵀ, removing weight j of a row costs w_j² / U_jj² and is best paid back by subtracting
(w_j / U_jj)·U[j, j:] from the weights to its right, where U is the upper Cholesky factor of H⁻¹. Columns are taken from
left to right in blocks; which weights go is decided for a whole block at once (in n:m for a group as it is reached).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from prunelab.pruning import masks

BLOCK = 128  # columns decided at once; the published value
PANEL = 32  # columns updated one by one before the rest of the block is; only speed depends on it
DAMPING = 0.01  # share of the mean diagonal that is added to it; the published value


class Factor(NamedTuple):
    """What the solver needs of one H; layers that share their input share it."""

    upper: torch.Tensor  # (in, in) float64, upper triangular U with H⁻¹ = UᵀU
    dead: torch.Tensor  # (in,) bool: inputs that were always zero


def factorise(hessian: torch.Tensor, damping: float = DAMPING) -> Factor:
    """The factor of `hessian` (in, in), symmetric; its scale does not matter.

    Computed in float64: single precision loses what the damping leaves of small directions (condition ~1e5). One
    Cholesky and one triangular inverse: with H = R Rᵀ, R upper, H⁻¹ = R⁻ᵀR⁻¹, so U = R⁻¹.
    Raises ValueError when H is not finite or not positive definite.
    """
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    # Reversing rows and columns turns the lower factor that LAPACK gives into the upper one that is wanted.
    lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if info.any() or not torch.isfinite(lower.diagonal()).all():
        raise ValueError("the Hessian is not finite or not positive definite")
    identity = torch.eye(len(damped), dtype=damped.dtype, device=damped.device)
    return Factor(torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True), dead)


def solve(
    weight: torch.Tensor,
    factor: Factor,
    sparsity: float | None = None,
    n_of_m: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune `weight` (out, in): returns the new weights, in its dtype, and the keep-mask (out, in).

    Every block of 128 columns loses exactly `round(sparsity·n)` of its n weights, lowest first, ties by index; with
    `n_of_m` (zeros, group) every group of `group` inputs of a row loses `zeros`. Dead inputs become zero in any case.
    Raises ValueError when the inputs do not divide into groups.
    """
    columns = weight.shape[1]
    if n_of_m and columns % n_of_m[1]:
        raise ValueError(f"{columns} inputs do not divide into groups of {n_of_m[1]}")
    upper, dead = factor
    work = weight.double().T.contiguous()  # (in, out)
    work[dead] = 0
    keep = torch.ones_like(work, dtype=torch.bool)
    # A group must not straddle two blocks.
    width = BLOCK if not n_of_m else max(n_of_m[1], BLOCK - BLOCK % n_of_m[1])
    diagonal = upper.diagonal()[:, None]
    removal, first = None, 0  # of the columns from `first` on: 1 / U_jj where a weight goes, else 0

    def begin(start: int, stop: int) -> None:
        nonlocal removal, first
        if n_of_m is not None:
            scores = (work[start:stop] / diagonal[start:stop]).square_().T.contiguous()
            keep[start:stop] = masks.remove(scores, n_of_m[0]).T
        elif start % width == 0:
            end = min(start + width, columns)
            scores = (
                (work[start:end] / diagonal[start:end]).square_().T.reshape(1, -1)
            )  # row-major, as ties are counted
            kept = masks.remove(scores, round(sparsity * scores.numel()))
            keep[start:end] = kept.view(-1, end - start).T
        removal, first = (~keep[start:stop]).to(work.dtype) / diagonal[start:stop], start

    def error(j: int, out: torch.Tensor) -> None:
        torch.mul(work[j], removal[j - first], out=out)

    sweep(work, upper, width, n_of_m[1] if n_of_m else PANEL, begin, error)
    work.masked_fill_(~keep, 0)
    return work.T.to(weight.dtype, memory_format=torch.contiguous_format), keep.T.contiguous()


def sweep(
    work: torch.Tensor, upper: torch.Tensor, width: int, step: int, begin: Callable[[int, int], None], error: Callable
) -> None:
    """Visit the columns of a weight from left to right, and change those to the right of each so that they pay back.

    Args:
        work: (in, out) float64, contiguous: the weight transposed, so that a column is; changed in place.
        upper: of its factor.
        width: columns of a block; step: columns of it before which `begin` is called.
        begin: of (start, stop): columns start … stop-1 have been paid back all that came before start.
        error: of (j, out): writes d / U_jj of column j into `out` (out,), d being what it loses.
    """
    columns = len(work)
    for block in range(0, columns, width):
        end = min(block + width, columns)
        errors = torch.empty_like(work[block:end])
        for start in range(block, end, step):
            stop = min(start + step, end)
            begin(start, stop)
            for j in range(start, stop):
                error(j, errors[j - block])
                if j + 1 < stop:
                    work[j + 1 : stop].addr_(upper[j, j + 1 : stop], errors[j - block], alpha=-1)
            if stop < end:
                work[stop:end].addmm_(upper[start:stop, stop:end].T, errors[start - block : stop - block], alpha=-1)
        work[end:].addmm_(upper[block:end, end:].T, errors, alpha=-1)
