"""Masks have exact counts, whatever the ties."""

import pytest
import torch

from prunelab.pruning import masks


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.2, 0.5, 0.8, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(7, 13), (1, 1000), (64, 48)])
def test_lowest_removes_exactly_the_rounded_share(sparsity, shape):
    scores = torch.rand(shape)
    keep = masks.lowest(scores, sparsity)
    assert int((~keep).sum()) == round(sparsity * scores.numel())


def test_lowest_agrees_with_a_stable_sort():
    scores = torch.randint(0, 5, (40, 30)).float()  # many ties
    keep = masks.lowest(scores, 0.37)
    order = scores.flatten().argsort(stable=True)
    expected = torch.ones(1200, dtype=torch.bool)
    expected[order[: round(0.37 * 1200)]] = False
    assert torch.equal(keep.flatten(), expected)


def test_ties_go_by_index_the_earlier_first():
    assert masks.lowest(torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0]), 0.4).tolist() == [True, False, False, True, True]


def test_all_equal_scores_still_lose_exactly_half():
    assert int(masks.lowest(torch.zeros(10, 10), 0.5).sum()) == 50


def test_every_row_loses_the_same_count():
    keep = masks.lowest_per_row(torch.rand(17, 100), 0.33)
    assert (~keep).sum(1).tolist() == [33] * 17


def test_2_of_4_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.4, 0.3, 5.0, 5.0, 5.0, 5.0]])
    assert masks.lowest_n_of_m(scores, 2, 4).tolist() == [[False, True, True, False, False, False, True, True]]


def test_n_of_m_refuses_inputs_that_do_not_divide():
    with pytest.raises(ValueError, match="10 inputs do not divide into groups of 4"):
        masks.lowest_n_of_m(torch.rand(3, 10), 2, 4)


def test_more_sparsity_never_adds_a_weight_back():
    scores = torch.rand(50, 50).round(decimals=2)
    previous = torch.ones(50, 50, dtype=torch.bool)
    for percent in range(0, 101, 5):
        keep = masks.lowest(scores, percent / 100)
        assert not (keep & ~previous).any()
        previous = keep


def test_below_removes_only_what_is_strictly_below():
    assert masks.below(torch.tensor([0.1, 0.5, 0.6]), 0.5).tolist() == [False, True, True]


def test_infinite_scores_survive():
    scores = torch.rand(100)
    scores[7] = float("inf")
    assert masks.lowest(scores, 0.99)[7]
