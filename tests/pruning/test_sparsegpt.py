"""SparseGPT against a plain double-precision implementation of the paper's steps, and the oracles of its rule."""

import pytest
import torch

from prunelab.pruning import sparsegpt
from tests.helpers.plain import sparsegpt as plain


def inputs(samples, width, seed=0):
    """Correlated inputs with a few large channels, as language models have them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, width, generator=generator) @ torch.randn(width, width, generator=generator) / width**0.5
    x[:, 3] *= 40
    return x + 0.3


def hessian_of(x):
    return 2 / len(x) * (x.double().T @ x.double())


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(48, 320), (320, 96), (7, 129)])
def test_the_output_matrix_agrees_with_plain_double_precision(shape, sparsity):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.05
    hessian = hessian_of(inputs(700, shape[1]))
    expected, expected_keep = plain(weight, hessian, sparsity)
    new, keep = sparsegpt.solve(weight, sparsegpt.factorise(hessian), sparsity)
    assert torch.equal(keep, expected_keep)
    assert (new.double() - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize("n_of_m", [(2, 4), (4, 8), (1, 3), (5, 6)])
def test_n_of_m_agrees_with_plain_double_precision_also_where_groups_do_not_fill_128_columns(n_of_m):
    # Groups of 3 and 6 end at column 126, so the block does too.
    width = 128 - 128 % n_of_m[1]
    columns = 2 * width
    weight = torch.randn((24, columns), generator=torch.Generator().manual_seed(2))
    hessian = hessian_of(inputs(400, columns))
    expected, expected_keep = plain(weight, hessian, n_of_m=n_of_m, width=width)
    new, keep = sparsegpt.solve(weight, sparsegpt.factorise(hessian), n_of_m=n_of_m)
    assert torch.equal(keep, expected_keep)
    assert (new.double() - expected).norm() / expected.norm() < 1e-6
    assert (keep.view(-1, n_of_m[1]).sum(1) == n_of_m[1] - n_of_m[0]).all()


def test_single_precision_statistics_change_the_output_by_less_than_a_ten_thousandth():
    weight = torch.randn((64, 256), generator=torch.Generator().manual_seed(3)) * 0.05
    x = inputs(4096, 256)
    single = sum(part.T @ part for part in x.split(512)) * (2 / len(x))  # fp32 sums, as calibration makes them
    expected, _ = plain(weight, hessian_of(x), 0.5)
    new, _ = sparsegpt.solve(weight, sparsegpt.factorise(single), 0.5)
    assert (new.double() - expected).norm() / expected.norm() < 1e-4


def test_uncorrelated_inputs_of_equal_size_give_magnitude_over_blocks_without_an_update():
    weight = torch.randn((16, 300), generator=torch.Generator().manual_seed(4))
    new, keep = sparsegpt.solve(weight, sparsegpt.factorise(torch.eye(300)), 0.5)
    for start in (0, 128, 256):
        block = weight[:, start : start + 128].abs()
        cut = block.flatten().sort().values[round(0.5 * block.numel())]
        assert torch.equal(keep[:, start : start + 128], block >= cut)
    assert torch.equal(new, weight * keep)


def test_every_block_of_128_columns_loses_its_exact_count_even_among_ties():
    weight = torch.ones(5, 200)
    _, keep = sparsegpt.solve(weight, sparsegpt.factorise(torch.eye(200)), 0.3)
    assert (~keep[:, :128]).sum() == round(0.3 * 5 * 128)
    assert (~keep[:, 128:]).sum() == round(0.3 * 5 * 72)
    assert not keep[0, :128].any()  # ties go by index, row by row


def test_inputs_that_are_always_zero_lose_their_weights_and_spoil_nothing():
    x = inputs(300, 40)
    x[:, [5, 17]] = 0
    weight = torch.randn((6, 40), generator=torch.Generator().manual_seed(5))
    hessian = hessian_of(x)
    expected, _ = plain(weight, hessian, 0.25)
    new, _ = sparsegpt.solve(weight, sparsegpt.factorise(hessian), 0.25)
    assert (new[:, [5, 17]] == 0).all()
    assert torch.isfinite(new).all()
    assert (new.double() - expected).norm() / expected.norm() < 1e-6


def test_the_output_changes_less_than_if_the_same_weights_were_only_zeroed():
    generator = torch.Generator().manual_seed(6)
    # Sixteen causes behind 64 inputs: what one loses, its neighbours can give.
    x = torch.randn(500, 16, generator=generator) @ torch.randn(16, 64, generator=generator)
    weight = torch.randn((32, 64), generator=generator)
    new, keep = sparsegpt.solve(weight, sparsegpt.factorise(hessian_of(x)), 0.5)
    rewritten = (x @ (new - weight).T).norm()
    assert rewritten < 0.5 * (x @ (weight * keep - weight).T).norm()


def test_the_dtype_of_the_weights_is_kept_and_the_original_is_not_touched():
    weight = torch.randn((8, 32), generator=torch.Generator().manual_seed(7)).bfloat16()
    before = weight.clone()
    new, _ = sparsegpt.solve(weight, sparsegpt.factorise(hessian_of(inputs(100, 32))), 0.5)
    assert new.dtype == torch.bfloat16
    assert torch.equal(weight, before)


def test_a_hessian_that_is_not_finite_is_refused():
    broken = torch.eye(4)
    broken[1, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        sparsegpt.factorise(broken)


def test_groups_that_do_not_divide_the_inputs_are_refused():
    with pytest.raises(ValueError, match="10 inputs do not divide into groups of 4"):
        sparsegpt.solve(torch.ones(2, 10), sparsegpt.factorise(torch.eye(10)), n_of_m=(2, 4))
