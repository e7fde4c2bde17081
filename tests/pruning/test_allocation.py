"""OWL's shares, worked out by hand and against the rule as published."""

import pytest
import torch

from prunelab.pruning import allocation


def published(outliers, sparsity, span):
    """Scale to [0, 2·span], centre, add 1 - sparsity: keep ratios; ours are sparsities."""
    low, high = min(outliers), max(outliers)
    scaled = [(share - low) / (high - low) * 2 * span for share in outliers]
    mean = sum(scaled) / len(scaled)
    return [1 - (value - mean + 1 - sparsity) for value in scaled]


def test_equal_blocks_get_the_published_shares():
    outliers = [0.02, 0.05, 0.01, 0.04]
    found = allocation.owl(dict(enumerate(outliers)), dict.fromkeys(range(4), 100), 0.7, 0.08)
    assert list(found.values()) == pytest.approx(published(outliers, 0.7, 0.08))


def test_by_hand_the_block_with_all_the_outliers_keeps_more_by_twice_the_span():
    # Scaled: 0 and 0.2; mean 0.1; keep ratios 0.4 and 0.6.
    assert allocation.owl({0: 0.0, 1: 0.5}, {0: 8, 1: 8}, 0.5, 0.1) == pytest.approx({0: 0.6, 1: 0.4})


@pytest.mark.parametrize("sparsity", [0.02, 0.3, 0.5, 0.97])
def test_blocks_of_different_size_and_ratios_beyond_the_ends_still_give_the_asked_sparsity(sparsity):
    outliers, sizes = {0: 0.0, 1: 0.3, 2: 0.1}, {0: 1000, 1: 10, 2: 400}
    found = allocation.owl(outliers, sizes, sparsity, 0.2)
    assert all(0 <= share <= 1 for share in found.values())
    assert sum(found[b] * sizes[b] for b in sizes) / sum(sizes.values()) == pytest.approx(sparsity, abs=1e-9)
    assert found[1] <= found[2] <= found[0]


def test_blocks_with_equally_many_outliers_lose_the_same():
    assert allocation.owl({0: 0.1, 1: 0.1}, {0: 5, 1: 5}, 0.4, 0.08) == pytest.approx({0: 0.4, 1: 0.4})


def test_outliers_are_counted_against_the_mean_of_the_whole_block():
    # Mean (1+1+1+1+16+4)/6 = 4: with M = 3 only 16 is above 12.
    tensors = [torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([16.0, 4.0])]
    assert allocation.outlier_share(tensors, 3) == pytest.approx(1 / 6)
