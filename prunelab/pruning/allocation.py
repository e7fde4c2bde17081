"""How much each block loses: OWL's shares (arXiv 2310.05175), for any method.

A block whose scores |W|·‖X‖ hold many outliers, entries far above their mean, is spared; the others pay for it.
(`uniform` needs no code, `global` and `sigma` are one ranking over all tensors: pruning.py.)
"""

import torch

from prunelab.pruning import scores


def owl(outliers: dict[int, float], sizes: dict[int, int], sparsity: float, span: float) -> dict[int, float]:
    """Sparsity of every block, from its share of outliers.

    The keep ratio is the outlier share scaled to [0, 2·span], centred, plus 1 - sparsity. Centring weighs blocks by
    their size, so that the model as a whole loses `sparsity`; where all are equal that is the published rule. A ratio
    beyond 0 or 1 is cut off there, and the rest of the blocks make up for it.

    Args:
        outliers: share of outliers of each block; sizes: its weights in scope.
        sparsity: of all blocks together; span: the published λ, 0.08.
    """
    low, high = min(outliers.values()), max(outliers.values())
    scaled = {
        block: (share - low) / (high - low) * 2 * span if high > low else 0.0 for block, share in outliers.items()
    }
    total = sum(sizes.values())
    # The mean rises steadily with the offset, so bisection finds the offset that gives the sparsity, cut-offs included.
    bottom, top = -2 * span - 1.0, 1.0
    for _ in range(60):
        offset = (bottom + top) / 2
        kept = sum(_cut(scaled[block] + offset) * sizes[block] for block in scaled) / total
        bottom, top = (offset, top) if kept < 1 - sparsity else (bottom, offset)
    return {block: 1 - _cut(scaled[block] + top) for block in scaled}


def _cut(ratio: float) -> float:
    return min(max(ratio, 0.0), 1.0)


def outlier_share(of_block: list[torch.Tensor], multiple: float) -> float:
    """Share of the entries of a block's score tensors that exceed `multiple` (the published M, 5) times their mean."""
    count = sum(values.numel() for values in of_block)
    border = multiple * sum(values.sum(dtype=torch.float64).item() for values in of_block) / count
    return sum(int((values > border).sum()) for values in of_block) / count


def owl_shares(
    scope: list[dict], weights, calibration, sparsity: float, multiple: float, span: float
) -> dict[str, float]:
    """Sparsity of every tensor of `scope` by OWL, from the dense model's `weights` and its `calibration`."""
    of_block: dict[int, list[dict]] = {}
    for tensor in scope:
        of_block.setdefault(tensor["block"], []).append(tensor)

    def score(tensor):
        name = tensor["name"]
        layer = scores.Layer(name, weights[name], tensor["transposed"], statistic=calibration.squared_norm(name))
        return scores.wanda(layer)

    outliers = {block: outlier_share([score(t) for t in tensors], multiple) for block, tensors in of_block.items()}
    sizes = {block: sum(torch.Size(t["shape"]).numel() for t in tensors) for block, tensors in of_block.items()}
    shares = owl(outliers, sizes, sparsity, span)
    return {tensor["name"]: shares[tensor["block"]] for tensor in scope}
