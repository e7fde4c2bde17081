"""GPTQ: the oracles of its rule, and a model rounded block by block."""

import pytest
import torch

from prunelab.errors import InputError
from prunelab.models import checkpoint, models
from prunelab.pruning import sparsegpt
from prunelab.quantised import files, gptq, opening
from prunelab.quantised.grid import Grid
from prunelab.quantised.quantising import nearest
from tests.helpers import tiny

GRIDS = [Grid("int8"), Grid("int4", 32), Grid("int4", 256)]


def correlated(samples, width, seed=0):
    """Sixteen causes behind all inputs: what one loses, its neighbours can give."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(samples, 16, generator=generator) @ torch.randn(16, width, generator=generator)
    return causes + 0.1 * torch.randn(samples, width, generator=generator)


def weight_of(rows, columns, seed=1):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


def error(x, weight, grid, found):
    return float((x @ (grid.values(*found) - weight).T).norm())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("columns", [320, 100])
def test_inputs_that_say_nothing_of_each_other_give_round_to_nearest(grid, columns):
    weight = weight_of(24, columns)
    levels, steps = gptq.solve(weight, sparsegpt.factorise(torch.eye(columns)), grid)
    expected, expected_steps = nearest("", weight, grid)
    assert torch.equal(steps, expected_steps)
    assert torch.equal(levels, expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_correlated_inputs_lose_less_than_by_rounding_to_nearest(grid):
    x, weight = correlated(500, 320), weight_of(24, 320)
    found = gptq.solve(weight, sparsegpt.factorise(x.T @ x), grid)
    assert error(x, weight, grid, found) < 0.6 * error(x, weight, grid, nearest("", weight, grid))


@pytest.mark.parametrize("grid", GRIDS)
def test_what_a_mask_removed_stays_zero_and_the_others_pay_back(grid):
    x, weight = correlated(500, 320), weight_of(24, 320)
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) > 0.5
    weight = weight * keep
    found = gptq.solve(weight, sparsegpt.factorise(x.T @ x), grid)
    assert not grid.values(*found)[~keep].any()
    assert error(x, weight, grid, found) < error(x, weight, grid, nearest("", weight, grid))


def test_columns_against_the_steps_of_the_paper_in_plain_double_precision():
    x, weight = correlated(300, 40), weight_of(5, 40)
    hessian = (x.T @ x).double()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    inverse = torch.linalg.inv(hessian)
    grid = Grid("int8")
    steps = grid.steps(weight)
    work, expected = weight.double(), torch.zeros(5, 40, dtype=torch.int8)
    for j in range(40):  # optimal brain surgeon, one column after the other
        scale = steps[:, 0, 0].double()
        expected[:, j] = (work[:, j] / scale).round().clamp(-127, 127)
        lost = work[:, j] - expected[:, j] * scale
        work = work - (lost / inverse[j, j])[:, None] * inverse[j]
        inverse = inverse - inverse[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
    levels, _ = gptq.solve(weight, sparsegpt.factorise(x.T @ x), grid)
    assert torch.equal(levels, expected)


def test_an_input_that_was_always_zero_is_rounded_to_nearest():
    x = correlated(300, 40)
    x[:, 7] = 0
    weight, grid = weight_of(5, 40), Grid("int8")
    levels, _ = gptq.solve(weight, sparsegpt.factorise(x.T @ x), grid)
    assert torch.equal(levels[:, 7], nearest("", weight, grid)[0][:, 7])


@torch.no_grad()
def test_a_model_is_rounded_block_by_block_and_changes_less_than_by_rounding_to_nearest(tmp_path):
    model = tiny.gpt2()
    for tensor in models.prunable_tensors(model):
        model.get_parameter(tensor["name"]).mul_(6)  # so that its blocks do something
    dense = tiny.dense_folder(tmp_path / "dense", model)
    ids = torch.randint(40, (16, 32), generator=torch.Generator().manual_seed(3))
    exact, apart = model.transformer(ids).last_hidden_state, {}
    for name, rounding in (
        ("nearest", None),
        ("gptq", gptq.rounded(dense, {"input_ids": ids}, 4, "int4", compute="fp32")),
    ):
        out = tmp_path / name
        out.mkdir()
        facts = files.write(checkpoint.load(dense), dense, out, name, "0" * 64, "int4", rounding=rounding)
        assert facts["rounding"] == name
        apart[name] = float((opening.load(out).transformer(ids).last_hidden_state - exact).norm())
    assert apart["gptq"] < 0.95 * apart["nearest"]


def test_a_packed_variant_keeps_its_mask(tmp_path):
    from prunelab.models import packed

    dense = tiny.dense_folder(tmp_path / "dense", tiny.gpt2())
    source, out = tmp_path / "packed", tmp_path / "out"
    source.mkdir(), out.mkdir()
    writer, model = packed.PackedWriter(source), checkpoint.load(dense)
    prunable = {tensor["name"] for tensor in models.prunable_tensors(model)}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add(name, value, value > 0 if name in prunable else None)
    writer.close()
    packed.copy_companions(dense, source)
    rounding = gptq.rounded(source, {"input_ids": torch.arange(64).view(2, 32) % 40}, 2, "int8", compute="fp32")
    masks = dict(packed.masks_of(source))
    facts = files.write(checkpoint.load(source), source, out, "x", "0" * 64, masks=masks, rounding=rounding)
    assert facts["masked"] == len(prunable)
    assert facts["zeros"] >= sum(int((~keep).sum()) for keep in masks.values())


def test_a_text_that_leaves_a_layer_without_inputs_is_told(tmp_path):
    model = tiny.gpt2()
    model.transformer.h[1].ln_1.weight.data.zero_()
    model.transformer.h[1].ln_1.bias.data.zero_()
    dense = tiny.dense_folder(tmp_path / "dense", model)
    with pytest.raises(InputError, match="h.1.attn.c_attn.weight: all its inputs are zero"):
        gptq.rounded(dense, {"input_ids": torch.arange(64).view(2, 32) % 40}, 2, "int8", compute="fp32")
