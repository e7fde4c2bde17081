"""What fits into some minutes, from figures small enough to be worked out by hand."""

import pytest

from prunelab.command import estimate
from prunelab.errors import InputError

# A stage starts in 4 s; a token is scored in 1 ms, made in 10 ms, added to SparseGPT's sums in 2 ms; a prompt is served
# in 0.1 s; two quiet cores.
TIMED = estimate.Timed(
    start_s=4, token_s=0.001, step_s=0.01, pass_s=0.1, hessian_s=0.002, solve_s=30, prune_s=5, side_by_side=2
)
ALL = estimate.Choice(("magnitude", "wanda", "sparsegpt"), True, 100)


def test_the_cost_of_a_study_is_what_one_works_out_by_hand():
    cost = estimate.cost(TIMED, ALL, 8)
    # 4 variants: 7 stages alone, (4 makers + 4 qualities + reference + calibrate) / 2 cores, 3 that measure.
    assert cost.starting_s == pytest.approx(4 * (7 + 10 / 2 + 3))
    # 5 models score 64 windows and 3 of robustness (100 tokens each) and write 80 tokens; the calibration and depth
    # pass over 32 crops of 100 tokens, one of them with SparseGPT's sums; 4 variants are made, one is solved; 2 cores.
    computing = 5 * (67 * 100 * 0.001 + 80 * 0.01) + 3200 * (2 * 0.001 + 0.002) + 4 * 5 + 30
    assert cost.computing_s == pytest.approx(computing / 2)
    # dense, the masks of magnitude, depth: 60 passes at least, 8 s of timing and 2 s of energy each.
    assert cost.measuring_s == pytest.approx(3 * (60 * 0.1 + 8 + 2))
    assert cost.total_s == pytest.approx(sum(cost))


def test_magnitude_alone_neither_calibrates_nor_solves():
    cost = estimate.cost(TIMED, estimate.Choice(("magnitude",), False, 100), 8)
    assert cost.starting_s == 4 * (7 + 4 / 2 + 2)
    assert cost.computing_s == pytest.approx((2 * (67 * 100 * 0.001 + 80 * 0.01) + 5) / 2)
    assert cost.measuring_s == 2 * (6 + 10)


def test_a_rival_in_fewer_bits_is_made_scored_and_timed_like_any_other_row():
    bare = estimate.Choice(("magnitude",), False, 100)
    one, none = (estimate.cost(TIMED, bare._replace(rivals=names), 8) for names in (("dense-int8",), ()))
    assert one.starting_s - none.starting_s == pytest.approx(4 * (2 / 2 + 1))
    assert one.computing_s - none.computing_s == pytest.approx((67 * 100 * 0.001 + 80 * 0.01 + 5) / 2)
    assert one.measuring_s - none.measuring_s == pytest.approx(60 * 0.1 + 8 + 2)


def test_rivals_are_what_is_left_out_last():
    def planned(minutes):
        return estimate.plan(TIMED, minutes, 100, True, 50, estimate.RIVALS)

    least = estimate.cost(TIMED, estimate.Choice(("magnitude",), False, 100, estimate.RIVALS), estimate.LEAST)
    minutes = least.total_s / 60 / estimate.RESERVE
    assert planned(minutes + 0.01).choice == estimate.Choice(("magnitude",), False, 100, estimate.RIVALS)
    short = planned(minutes - 0.01)
    assert short.choice == estimate.Choice(("magnitude",), False, 100)
    assert [told.split()[0] for told in short.left_out] == [
        "wanda",
        "sparsegpt",
        "dense-int8",
        "dense-int4",
        "depth-50",
    ]


def test_where_neighbours_have_the_other_cores_all_is_done_one_after_the_other():
    one, two = estimate.cost(TIMED._replace(side_by_side=1), ALL, 8), estimate.cost(TIMED, ALL, 8)
    assert one.computing_s == 2 * two.computing_s and one.measuring_s == two.measuring_s
    assert one.starting_s == pytest.approx(4 * (7 + 10 + 3))


def test_a_plan_fills_the_minutes_that_there_are_but_for_the_reserve():
    plan = estimate.plan(TIMED, 4, 100, True, 50)
    assert plan.choice == ALL and plan.left_out == []
    assert plan.cost.total_s == pytest.approx(4 * 60 * estimate.RESERVE)
    assert plan.windows == int(8 * plan.effort) and plan.crops == int(4 * plan.effort)
    assert plan.timing_s == round(plan.effort, 1) and plan.energy_s == round(plan.effort / 4, 1)


def test_with_time_to_spare_no_more_is_done_than_is_of_use():
    plan = estimate.plan(TIMED, 600, 100, True, 50)
    assert plan.effort == 32 and (plan.windows, plan.crops, plan.timing_s, plan.energy_s) == (256, 128, 32, 8)
    assert plan.cost.total_s < 600 * 60 * estimate.RESERVE


def test_where_time_is_short_the_slowest_method_goes_first():
    def planned(minutes):
        return estimate.plan(TIMED, minutes, 100, True, 50)

    def least(methods, depth):
        return (
            estimate.cost(TIMED, estimate.Choice(methods, depth, 100), estimate.LEAST).total_s / 60 / estimate.RESERVE
        )

    whole, two, one = least(ALL.methods, True), least(ALL.methods[:2], True), least(ALL.methods[:1], True)
    assert planned(whole + 0.01).choice.methods == ALL.methods
    assert planned(whole - 0.01).choice == ALL._replace(methods=("magnitude", "wanda"))
    assert planned(whole - 0.01).left_out == [f"sparsegpt (does not fit into {whole - 0.01:g} minutes)"]
    assert planned(two - 0.01).choice == ALL._replace(methods=("magnitude",))
    alone = planned(one - 0.01)
    assert alone.choice.methods == ("magnitude",) and not alone.choice.depth
    assert [reason.split()[0] for reason in alone.left_out] == ["wanda", "sparsegpt", "depth-50"]


def test_too_few_minutes_are_refused_with_what_it_takes():
    # 11 starts of 4 s; on two cores 2 models with 16.75 windows of 0.1 s and 0.8 s of writing, and 5 s of ranking;
    # 2 x (6 + 2.5) s of measuring: 65.975 s.
    seconds = 4 * 11 + (2 * (16.75 * 0.1 + 0.8) + 5) / 2 + 17
    needed = seconds / 0.85 / 60
    with pytest.raises(InputError, match=r"--minutes 0\.5: .*magnitude alone .*take about 1\.3 minutes") as raised:
        estimate.plan(TIMED, 0.5, 100, True, 50)
    assert "\n" not in str(raised.value)
    assert 1.2 < needed <= 1.3 and estimate.plan(TIMED, 1.3, 100, True, 50).choice.methods == ("magnitude",)


def test_depth_is_left_out_where_the_rate_is_no_number_of_blocks():
    plan = estimate.plan(TIMED, 10, 100, False, 5)
    assert not plan.choice.depth and plan.choice.methods == ALL.methods
    assert plan.left_out == ["depth-5 (5 % of the blocks are no whole block, or all of them)"]
