"""Quantised layers against plain products of the values that they stand for."""

import copy

import pytest
import torch
from torch import nn

from prunelab.quantised import kernels
from prunelab.quantised.grid import Grid
from prunelab.quantised.layers import QuantisedEmbedding, QuantisedLinear, held_bytes
from prunelab.quantised.quantising import nearest

GRIDS = [Grid("int8"), Grid("int4", 32), Grid("int4", 64)]
# Of the sum of magnitudes that a product adds up: a rounding to bf16 of x, of a weight and of the result.
APART = 3 * 2**-8


def layer(inputs: int, outputs: int, grid: Grid, dtype=torch.float32, bias=False, seed=0):
    """A random layer and the fp32 values that it stands for."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    held = nn.Parameter(torch.randn(outputs, generator=generator).to(dtype)) if bias else None
    found = QuantisedLinear(inputs, outputs, grid, dtype, held)
    found.hold(*nearest("", weight, grid))
    return found, grid.values(found.levels(), found.steps())


def assert_product(found, x, values, bias=None):
    exact = x.double() @ values.double().T
    size = x.double().abs() @ values.double().abs().T
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= APART * size + 1e-30).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", GRIDS[:2])
def test_few_tokens_and_many_are_right_at_every_width(grid, dtype):
    generator = torch.Generator().manual_seed(3)
    # Every input width, with outputs that go through 1 … 200 in another order.
    for inputs in range(1, 201):
        outputs = (inputs * 77) % 200 + 1
        found, values = layer(inputs, outputs, grid, dtype, seed=inputs)
        for tokens in (1, 3, *([kernels.TOKENS[grid.precision]] if inputs % 8 == 0 else [])):
            x = torch.randn(tokens, inputs, generator=generator).to(dtype)
            assert_product(found(x), x, values)
            found._few = 0  # the dense product
            assert_product(found(x), x, values)
            found._few = kernels.TOKENS[grid.precision] * inputs


@pytest.mark.parametrize("grid", GRIDS)
def test_the_kernels_are_right_in_fp32_also_where_this_machine_would_cast_to_bf16(grid, monkeypatch):
    monkeypatch.setattr(kernels, "WIDE", True)
    for inputs, outputs in ((56, 72), (100, 17), (200, 130)):
        found, values = layer(inputs, outputs, grid)
        assert found.scale.dtype == torch.float32
        x = torch.randn(3, inputs, generator=torch.Generator().manual_seed(4))
        assert torch.allclose(found(x), x @ values.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_dense_products_are_right_in_bf16_too_as_machines_take_them_that_multiply_it(grid, monkeypatch):
    monkeypatch.setattr(kernels, "product_dtype", lambda dtype: torch.bfloat16)
    found, values = layer(200, 130, grid)
    x = torch.randn(kernels.TOKENS[grid.precision] + 1, 200, generator=torch.Generator().manual_seed(5))
    assert_product(found(x), x, values)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_layer_is_right_in_parts_too(grid, monkeypatch):
    monkeypatch.setattr(kernels, "PART", 1)
    found, values = layer(70, 200, grid, bias=True)
    found._few = 0
    x = torch.randn(9, 70, generator=torch.Generator().manual_seed(6))
    assert_product(found(x), x, values, found.bias.detach())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("tokens", [3, 40])
def test_any_shape_and_any_stride_of_activations_is_taken(grid, tokens):
    found, values = layer(96, 48, grid, bias=True)
    whole = torch.randn(tokens, 5, 192, generator=torch.Generator().manual_seed(7))
    last = whole[:, -1:, ::2]
    out = found(last)
    assert out.shape == (tokens, 1, 48)
    assert_product(out.flatten(0, 1), last.flatten(0, 1), values, found.bias.detach())


@pytest.mark.parametrize("grid", GRIDS)
def test_levels_and_steps_come_out_as_they_went_in(grid):
    weight = torch.randn(77, 130, generator=torch.Generator().manual_seed(8))
    levels, steps = nearest("", weight, grid)
    found = QuantisedLinear(130, 77, grid, torch.float32)
    found.hold(levels, steps)
    assert torch.equal(found.levels(), levels)
    assert torch.equal(found.steps(), steps)


@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_are_weights_of_no_value_and_not_levels_of_none(grid):
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(8)) + 9
    weight[:30, ::2] = 0
    found = QuantisedLinear(64, 40, grid, torch.float32)
    found.hold(*nearest("", weight, grid))
    assert found.zeros() == 30 * 32


@pytest.mark.parametrize("grid", GRIDS)
def test_an_unknown_layout_of_int4_is_no_wrong_product(grid, monkeypatch):
    monkeypatch.setattr(kernels, "_rows", None)
    found, values = layer(64, 64, grid)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(9))
    assert_product(found(x), x, values)


@pytest.mark.parametrize("grid", GRIDS)
def test_an_embedding_looks_up_the_rows_that_the_head_multiplies_by(grid):
    head, values = layer(40, 150, grid)
    embedding = QuantisedEmbedding(head, tied=True)
    ids = torch.tensor([[0, 149, 31], [32, 64, 63]])
    assert torch.allclose(embedding(ids), values[ids], rtol=1e-6)
    both = nn.ModuleList([embedding, head])
    assert held_bytes(both) == held_bytes(head)  # once
    again = copy.deepcopy(both)
    assert again[0].table is again[1]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_model_that_is_cast_computes_in_what_it_was_cast_to(grid):
    found, values = layer(64, 48, grid)
    both = nn.ModuleList([QuantisedEmbedding(found, tied=False)]).to(torch.bfloat16)
    assert both[0](torch.tensor([3])).dtype == torch.bfloat16
    x = torch.randn(2, 64).bfloat16()
    assert found(x).dtype == torch.bfloat16
    assert_product(found(x), x, values)
    assert found.to(torch.float32).scale.dtype == kernels.kernel_dtype(torch.float32)


def test_gradients_may_be_on_where_nothing_asks_for_them():
    found, values = layer(64, 48, GRIDS[1])
    x = torch.randn(9, 64, requires_grad=True)
    assert_product(found(x).detach(), x.detach(), values)


def test_who_wants_the_weight_itself_is_told_that_there_is_none():
    with pytest.raises(AttributeError, match="weight"):
        _ = layer(8, 8, GRIDS[0])[0].weight
