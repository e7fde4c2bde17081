"""Scores to masks, with exact counts: a mask is True where a weight is kept.

Exactly `round(s·n)` of `n` weights go, ties broken by index (the earlier goes first). A comparison with a threshold
would remove one too many, or all ties. Infinite scores always stay, where the count allows.
"""

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
    keep = torch.ones_like(scores, dtype=torch.bool)
    if count == 0:
        return keep
    if count == scores.shape[1]:
        return torch.zeros_like(keep)
    # The value at the border, then among its ties the first ones: a stable sort of everything costs ten times as much.
    border = scores.kthvalue(count, dim=1, keepdim=True).values
    below = scores < border
    ties = scores == border
    missing = count - below.sum(1, keepdim=True)
    return keep & ~below & ~(ties & (ties.cumsum(1) <= missing))


def below(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Keep-mask of the paper's rule: weights *below* the threshold become zero."""
    return scores >= threshold
