"""Where a loss breaks away, and up to where it is safe; how many seeds precision takes."""

import numpy as np
import pytest

from prunelab.verdict import breaking, precision
from prunelab.verdict.cells import IN_TIME, Term, effect
from tests.helpers import cells as planted


def against_dense(excess, **changes) -> dict:
    regimes = {IN_TIME: planted.regime(IN_TIME, excess, **changes)}
    return {
        rate: effect(regimes, (Term(IN_TIME, f"magnitude-{rate}", 1.0), Term(IN_TIME, "dense", -1.0)))
        for rate in planted.RATES
    }


def test_a_broken_line_is_found_to_a_tenth_of_a_percent():
    x = np.array(planted.RATES, dtype=float)
    y = np.stack([[planted.broken_line(rate, at) for rate in x] for at in (45.3, 62.0)], axis=1)
    taus, before, change = breaking.fit(x, y)
    assert taus == pytest.approx([45.3, 62.0], abs=0.051)
    assert before == pytest.approx([0.0005] * 2, abs=2e-5) and change == pytest.approx([0.02] * 2, rel=0.01)


@pytest.mark.parametrize("number", range(3))
def test_a_planted_break_lies_within_its_interval(number):
    found = breaking.change_point(against_dense(planted.alike, wobble=0.005, number=number))
    assert found.found and not found.at_edge
    assert found.at[1] <= 62.0 <= found.at[2] and found.at[2] - found.at[1] < 8
    assert found.change[0] == pytest.approx(0.02, abs=0.005)


def test_a_straight_line_has_no_break():
    found = breaking.change_point(against_dense(lambda name: 0.001 * int(name.split("-")[-1]) if "-" in name else 0.0,
                                                ids=("dense", *(f"magnitude-{rate}" for rate in planted.RATES)),
                                                wobble=0.002))  # fmt: skip
    assert not found.found


def test_too_few_rates_or_one_seed_have_no_break():
    known = against_dense(planted.alike)
    assert breaking.change_point({rate: known[rate] for rate in (40, 60, 80)}) is None
    assert breaking.change_point(against_dense(planted.alike, seeds=("s1",))) is None


def test_a_break_at_the_end_of_what_was_tested_says_so():
    found = breaking.change_point(against_dense(lambda name: planted.broken_line(int(name[-2:]), 76) if name[-1] == "0"
                                                else 0.0, ids=("dense", *(f"magnitude-{r}" for r in planted.RATES)),
                                                wobble=0.0001))  # fmt: skip
    assert found.found and found.at_edge and found.bounds == (30, 70)


def test_safe_means_the_whole_interval_at_every_rate_so_far():
    def sized(mean: float, half: float):
        return effect_of(mean, half)

    effects = {30: sized(0.001, 0.002), 40: sized(0.005, 0.004), 50: sized(0.005, 0.006), 60: sized(0.0, 0.001)}
    found = breaking.safe_up_to(effects)
    assert (found.up_to, found.breached, found.tested) == (40, 50, (30, 40, 50, 60))
    assert breaking.safe_up_to({30: sized(0.0, 0.02)}).up_to is None
    assert breaking.safe_up_to({30: sized(0.0, 0.001)}) == (30, None, (30,))
    assert breaking.safe_up_to({30: sized(0.0, float("nan"))}).up_to is None


def effect_of(mean: float, half: float):
    from prunelab.verdict.cells import Effect

    return Effect(mean, mean - half, mean + half, 0.01, 0.5, 5, mean, mean, (mean,) * 5)


def test_seeds_for_an_interval_by_hand():
    """sd = wanted: t(n-1) ≤ √n first holds at n = 7 (2.447 ≤ 2.646; at 6: 2.571 > 2.449)."""
    assert precision.seeds_for_interval(0.01, 0.01) == 7
    assert precision.seeds_for_interval(0.0001, 0.01) == 2
    assert precision.seeds_for_interval(100.0, 0.01) == precision.MOST


def test_seeds_for_power_as_the_books_have_it():
    """A paired t test finds a difference of one standard deviation with ten pairs, of half of one with 34."""
    assert precision.seeds_for_power(0.01, 0.01) == 10
    assert precision.seeds_for_power(0.02, 0.01) == 34


def test_a_narrow_interval_needs_no_more_seeds():
    assert precision.needed(effect_of(0.1, 0.009)) == (None, None)
    more = precision.needed(effect_of(0.1, 0.011))
    assert more == (7, 10)


def test_where_fifty_percent_was_not_tested_its_neighbours_stand_for_it():
    found = precision.precisions({IN_TIME: planted.regime(IN_TIME, planted.alike)})
    at = {(one.factor, one.level): one.rate for one in found}
    assert at["ranking", "final weights kept"] == "50" and at["keeping", "ranked by history"] == "40, 60"
    assert at["keeping", "nothing pruned"] == ""
    assert all(one.narrow for one in found)
