"""The grids: values worked out by hand, and what every grid must hold."""

import pytest
import torch

from prunelab.quantised.grid import Grid
from prunelab.quantised.quantising import nearest


def test_int8_rounds_a_row_to_127ths_of_its_largest_magnitude():
    row = torch.tensor([[127.0, -63.4, 0.4, 0.6, -127.0]])
    levels, steps = nearest("", row, Grid("int8"))
    assert steps.tolist() == [[[1.0]]]
    assert levels.tolist() == [[127, -63, 0, 1, -127]]


def test_int4_has_steps_for_each_group_of_inputs_and_the_last_group_may_be_shorter():
    row = torch.cat([torch.full((32,), 0.7), torch.full((8,), -1.75)])[None]
    levels, steps = nearest("", row, Grid("int4", 32))
    assert steps.shape == (1, 2, 2) == Grid("int4", 32).steps_shape(1, 40)
    assert torch.allclose(Grid("int4").values(levels, steps), row, rtol=1 / 256)


@pytest.mark.parametrize(
    ("group", "scale", "offset", "levels"),
    [
        ([7.0, -6.0, 5.0, 0.0], 1.0, 0.0, [7, -6, 5, 0]),  # the largest at the highest level
        ([-8.0, 5.0, 3.0, 0.0], 1.0, 0.0, [-8, 5, 3, 0]),  # at the lowest, of which there is one more
        ([8.0, -5.0, -3.0, 0.0], -1.0, 0.0, [-8, 5, 3, 0]),  # the same for one above zero
        ([1.5, 2.5, 12.5, 16.5], 1.0, 9.5, [-8, -7, 3, 7]),  # lowest and highest at the two ends
    ],
)
def test_int4_takes_the_grid_that_is_nearest_to_a_group(group, scale, offset, levels):
    found, steps = nearest("", torch.tensor(group).repeat(8)[None], Grid("int4"))
    assert steps.tolist() == [[[scale, offset]]]
    assert found[0, :4].tolist() == levels


@pytest.mark.parametrize("group", [32, 64])
def test_what_lies_on_a_grid_of_int4_is_found_again_exactly(group):
    generator = torch.Generator().manual_seed(0)
    grid = Grid("int4", group)
    levels = torch.randint(-8, 8, (6, 128), generator=generator, dtype=torch.int8)
    levels[:, ::group], levels[:, 1::group] = -8, 7
    scale = torch.randint(1, 16, grid.steps_shape(6, 128)[:2], generator=generator) / 4
    offset = torch.randint(-8, 9, scale.shape, generator=generator) * scale + scale / 2  # so that no weight is zero
    steps = torch.stack([scale, offset], 2).bfloat16()
    again = nearest("", grid.values(levels, steps), grid)
    assert torch.equal(grid.values(*again), grid.values(levels, steps))


@pytest.mark.parametrize("grid", [Grid("int8"), Grid("int4")])
def test_zero_stays_zero_also_in_a_row_of_nothing_else(grid):
    weight = torch.randn(4, 70, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    weight[:, ::3] = 0
    values = grid.values(*nearest("", weight, grid))
    assert not values[weight == 0].any()
    assert values.isfinite().all()


# int4 has no eighth level above zero, so a weight there may lose a whole one.
@pytest.mark.parametrize(("grid", "share"), [(Grid("int8"), 1 / 254), (Grid("int4"), 1 / 8)])
def test_no_weight_moves_further_than_to_the_next_level_but_for_what_bf16_takes_from_the_scale(grid, share):
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(2))
    largest = weight.view(16, -1, grid.width(96)).abs().amax(2).repeat_interleave(grid.width(96), 1)
    apart = (grid.values(*nearest("", weight, grid)) - weight).abs()
    assert (apart <= largest * (share + 1 / 256)).all()
