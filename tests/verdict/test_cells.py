"""Contrasts of cells: by hand, against scipy's paired test, and whether the intervals hold what they promise."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from prunelab.errors import InputError
from prunelab.mirror.kept import Kept
from prunelab.verdict import cells, factors
from prunelab.verdict.cells import IN_TIME, PAST_BEST, Term, effect
from tests.helpers import cells as planted

ONE_MINUS_OTHER = (Term(IN_TIME, "one", 1.0), Term(IN_TIME, "other", -1.0))


def of(one: dict, other: dict) -> dict:
    """Regimes that hold two cells of single windows."""
    about = {"study": "x", "headline": "loss", "seeds": list(one), "settings": {}}
    losses = {name: {tag: np.array([v]) for tag, v in c.items()} for name, c in (("one", one), ("other", other))}
    return {IN_TIME: cells.Regime(IN_TIME, Kept(None, about, [], {}), losses)}


def test_a_difference_of_three_seeds_by_hand():
    """0.1, 0.2, 0.3: mean 0.2, sd 0.1, t(2) = 4.3027, so ± 4.3027 · 0.1 / √3; t = 3.4641, p = 0.0742."""
    found = effect(of({"s1": 1.1, "s2": 1.3, "s3": 2.0}, {"s1": 1.0, "s2": 1.1, "s3": 1.7}), ONE_MINUS_OTHER)
    assert found.mean == pytest.approx(0.2) and found.sd == pytest.approx(0.1) and found.seeds == 3
    assert (found.lo, found.hi) == pytest.approx((0.2 - 0.24841, 0.2 + 0.24841), abs=1e-5)
    assert found.p == pytest.approx(0.07418, abs=1e-5) and found.sign == 0
    assert found.half == pytest.approx(0.24841, abs=1e-5)


def test_of_two_cells_it_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    one, other = draw.normal(2, 0.1, 6), draw.normal(1.95, 0.1, 6)
    seeds = [f"s{i}" for i in range(6)]
    found = effect(of(dict(zip(seeds, one, strict=True)), dict(zip(seeds, other, strict=True))), ONE_MINUS_OTHER)
    theirs = ttest_rel(one, other)
    assert (found.lo, found.hi) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p == pytest.approx(theirs.pvalue)


def test_only_seeds_that_all_cells_have_are_paired():
    found = effect(of({"s1": 2.0, "s2": 2.0, "s9": 50.0}, {"s1": 1.0, "s2": 1.5}), ONE_MINUS_OTHER)
    assert found.seeds == 2 and found.mean == pytest.approx(0.75)
    assert effect(of({"s1": 2.0}, {"s2": 1.0}), ONE_MINUS_OTHER) is None


def test_one_seed_has_no_interval_and_no_sign():
    found = effect(of({"s1": 2.0}, {"s1": 1.0}), ONE_MINUS_OTHER)
    assert found.mean == 1.0 and math.isnan(found.lo) and math.isnan(found.p) and found.sign == 0


def test_equals_to_the_last_digit_are_no_difference():
    found = effect(of({"s1": 2.0, "s2": 3.0}, {"s1": 2.0, "s2": 3.0}), ONE_MINUS_OTHER)
    assert (found.mean, found.lo, found.hi, found.p, found.sign) == (0.0, 0.0, 0.0, 1.0, 0)
    thirds = tuple(Term(IN_TIME, name, weight / 3) for name, weight in (("one", 1), ("one", 2), ("other", -3)))
    rounded = effect(of({"s1": 1.1, "s2": 2.3}, {"s1": 1.1, "s2": 2.3}), thirds)
    assert (rounded.mean, rounded.lo, rounded.hi, rounded.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_missing_cell_or_regime_is_unknown_and_not_zero():
    regimes = of({"s1": 2.0, "s2": 2.0}, {"s1": 1.0, "s2": 1.0})
    assert effect(regimes, (Term(IN_TIME, "one", 1.0), Term(IN_TIME, "third", -1.0))) is None
    assert effect(regimes, (Term(PAST_BEST, "one", 1.0), Term(IN_TIME, "other", -1.0))) is None


def test_intervals_hold_a_planted_difference_in_nineteen_draws_of_twenty():
    true, held, draws = 0.004, 0, 600
    for number in range(draws):
        here = planted.regime(
            IN_TIME, lambda name: true * (name == "one"), ids=("dense", "one", "other"), number=number, windows=4
        )
        found = effect({IN_TIME: here}, ONE_MINUS_OTHER)
        held += found.lo <= true <= found.hi
    assert 0.925 <= held / draws <= 0.975


def test_the_interval_over_windows_tells_of_these_models_and_is_the_narrower_one():
    here = planted.regime(IN_TIME, planted.alike, wobble=0.01)
    terms = (Term(IN_TIME, "systematic-50", 1.0), Term(IN_TIME, "magnitude-50", -1.0))
    found = effect({IN_TIME: here}, terms)
    assert found.inner_lo < found.mean < found.inner_hi
    assert found.inner_hi - found.inner_lo < 0.2 * (found.hi - found.lo)


def test_a_study_that_is_judged_by_something_else_is_refused():
    about = {"study": "cards", "headline": "mae", "seeds": ["s1"], "settings": {}}
    with pytest.raises(InputError, match="is judged by mae; the verdict reads studies of task language"):
        cells.regime(IN_TIME, Kept(None, about, [], {}))
    with pytest.raises(InputError, match="holds no dense model"):
        cells.regime(IN_TIME, Kept(None, about | {"headline": "loss"}, [], {}))


def test_a_factor_s_rates_are_those_that_both_of_its_cells_have():
    here = planted.regime(IN_TIME, planted.alike)
    assert here.rates("systematic-{r}") == list(planted.RATES)
    assert here.rates("systematic-{r}-retrained") == [50, 60, 80]
    keeping = factors.terms(here, factors.pair_of("keeping", factors.BY_HISTORY))
    assert list(keeping) == ["40", "60", "80"]
    assert keeping["60"] == (Term(IN_TIME, "systematic-average-60", 1.0), Term(IN_TIME, "systematic-60", -1.0))
    assert list(factors.with_mean(keeping)) == ["40", "60", "80", "all"]
    assert factors.terms(here, factors.pair_of("keeping", factors.UNPRUNED)) == {
        "": (Term(IN_TIME, "dense-average", 1.0), Term(IN_TIME, "dense", -1.0))
    }


def effects_of(excess, late=planted.alike) -> dict:
    regimes = {
        IN_TIME: planted.regime(IN_TIME, excess, wobble=0),
        PAST_BEST: planted.regime(PAST_BEST, late, wobble=0),
    }
    return {(one.factor, one.level, one.regime, one.rate): one.effect for one in factors.contrasts(regimes)}


def test_every_factor_and_interaction_is_found_as_it_was_planted():
    """History saves 0.01, of averaged weights 0.03; averaging costs 0.05; retraining saves 0.2 at every rate."""

    def excess(name: str) -> float:
        history = 0.01 if name.startswith("systematic") else 0.0
        averaged = "average" in name
        saved = 0.03 if history and averaged else history
        return planted.alike(name) - saved + 0.05 * averaged - 0.2 * name.endswith("retrained")

    found = effects_of(excess)

    def at(*key: str) -> float:
        return pytest.approx(found[key].mean, abs=1e-3)

    assert at("ranking", factors.FINAL, IN_TIME, "50") == -0.01
    assert at("ranking", factors.FINAL, IN_TIME, "all") == -0.01
    assert at("ranking", factors.AVERAGED, IN_TIME, "60") == -0.03
    assert at("ranking × keeping", f"{factors.AVERAGED} − {factors.FINAL}", IN_TIME, "60") == -0.02
    assert at("ranking × retraining", f"{factors.RETRAINED} − {factors.FINAL}", IN_TIME, "60") == 0
    assert at("keeping", factors.BY_HISTORY, IN_TIME, "40") == 0.03
    assert at("keeping", factors.UNPRUNED, IN_TIME, "") == 0.05
    assert at("keeping × pruning", f"{factors.BY_MAGNITUDE} − {factors.UNPRUNED}", IN_TIME, "40") == 0
    assert at("retraining", factors.AT_RANDOM, IN_TIME, "80") == -0.2
    assert at("threshold", "final magnitude decides", IN_TIME, "30") == 0
    assert at("ranking × regime", factors.FINAL, factors.BOTH, "50") == 0.01
    assert at("pruning", "magnitude", IN_TIME, "80") == planted.broken_line(80)


def test_without_a_second_regime_nothing_is_said_of_it():
    found = factors.contrasts({IN_TIME: planted.regime(IN_TIME, planted.alike)})
    assert {one.regime for one in found} == {IN_TIME}
