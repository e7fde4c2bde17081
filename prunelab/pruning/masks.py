"""Scores to masks, with exact counts: a mask is True where a weight is kept.

Exactly `round(s·n)` of `n` weights go, ties broken by index (the earlier goes first). A comparison with a threshold
would remove one too many, or all ties. Infinite scores always stay, where the count allows.
"""

import numpy as np
import torch


def lowest(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Keep-mask of `scores` (any shape) without the `round(sparsity·n)` lowest of the whole tensor."""
    return remove(scores.flatten()[None], round(sparsity * scores.numel())).view(scores.shape)


def lowest_per_row(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Keep-mask of `scores` (rows, columns): every row loses `round(sparsity·columns)`."""
    return remove(scores, round(sparsity * scores.shape[1]))


def lowest_n_of_m(scores: torch.Tensor, zeros: int, group: int) -> torch.Tensor:
    """Keep-mask of `scores` (rows, columns): of every `group` consecutive columns, the `zeros` lowest go.

    Raises ValueError when the columns do not divide into groups.
    """
    rows, columns = scores.shape
    if columns % group:
        raise ValueError(f"{columns} inputs do not divide into groups of {group}")
    return remove(scores.reshape(-1, group), zeros).view(rows, columns)


def remove(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Keep-mask of `scores` (rows, columns) in which every row loses exactly its `count` lowest."""
    if count in (0, scores.shape[1]):
        return torch.full_like(scores, count == 0, dtype=torch.bool)
    # The value at the border, then among its ties the first ones: a stable sort of everything costs ten times as much.
    border = _lowest_value(scores, count)
    removed = scores <= border
    surplus = removed.sum(1, keepdim=True) - count
    if surplus.any():
        ties = scores == border
        removed &= ~ties | (ties.cumsum(1) <= ties.sum(1, keepdim=True) - surplus)
    return ~removed


def _lowest_value(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(rows, 1): the `count`-th lowest of every row."""
    if scores.device.type != "cpu" or scores.shape[1] < 256:
        return scores.kthvalue(count, dim=1, keepdim=True).values
    # On long rows numpy's is up to ten times as fast.
    found = np.partition(scores.detach().numpy(), count - 1, axis=1)[:, count - 1 : count]
    return torch.from_numpy(found.copy())


def below(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Keep-mask of the paper's rule: weights *below* the threshold become zero."""
    return scores >= threshold
