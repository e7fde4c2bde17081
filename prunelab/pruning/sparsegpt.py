"""SparseGPT (arXiv 2301.00774): prune a linear layer and rewrite what stays so that its output changes least.

With inputs X and H = (2/N)·Σ x xᵀ, removing weight j of a row costs w_j² / U_jj² and is best paid back by subtracting
(w_j / U_jj)·U[j, j:] from the weights to its right, where U is the upper Cholesky factor of H⁻¹. Columns are taken from
left to right in blocks; which weights go is decided for a whole block at once (in n:m for a group as it is reached).
"""

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
    # Transposed, so that a column, which the inner loop works on, is contiguous.
    work = weight.double().T.contiguous()  # (in, out)
    work[dead] = 0
    keep = torch.ones_like(work, dtype=torch.bool)
    # A group must not straddle two blocks.
    width = BLOCK if not n_of_m else max(n_of_m[1], BLOCK - BLOCK % n_of_m[1])
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        errors = _solve_block(
            work[start:stop], keep[start:stop], upper[start:stop, start:stop], sparsity=sparsity, n_of_m=n_of_m
        )
        work[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    work.masked_fill_(~keep, 0)
    return work.T.to(weight.dtype, memory_format=torch.contiguous_format), keep.T.contiguous()


def _solve_block(work, keep, upper, *, sparsity, n_of_m) -> torch.Tensor:
    """Prune the columns of one block in place; returns their errors (w - q) / U_jj, all (columns, out)."""
    columns = len(work)
    diagonal = upper.diagonal()[:, None]
    if n_of_m is None:
        scores = (work / diagonal).square_().T.reshape(1, -1)  # row-major, as ties are counted
        kept = masks.remove(scores, round(sparsity * scores.numel()))
        keep.copy_(kept.view(-1, columns).T)
        step = PANEL
    else:
        step = n_of_m[1]
    errors = torch.empty_like(work)
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        if n_of_m is not None:
            scores = (work[start:stop] / diagonal[start:stop]).square_().T.contiguous()
            keep[start:stop] = masks.remove(scores, n_of_m[0]).T
        removal = (~keep[start:stop]).to(work.dtype) / diagonal[start:stop]
        for j in range(start, stop):
            torch.mul(work[j], removal[j - start], out=errors[j])
            if j + 1 < stop:
                work[j + 1 : stop].addr_(upper[j, j + 1 : stop], errors[j], alpha=-1)
        if stop < columns:
            work[stop:].addmm_(upper[start:stop, stop:].T, errors[start:stop], alpha=-1)
    return errors
