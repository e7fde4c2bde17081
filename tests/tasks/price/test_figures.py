"""Figures of predicted prices, worked by hand."""

import math

import numpy as np
import pytest

from prunelab.tasks.price.judging import figures
from prunelab.tasks.price.judging.figures import Truth

NAN = math.nan
HOUSES = Truth.of([100, 100, 200, 400], ["a", "a", "b", "c"], mean=150)  # two pictures of the first house


def test_an_item_counts_once_however_many_pictures_it_has():
    told = figures.summary([110, 130, 190, 440], HOUSES, 100)
    assert told["mae"] == pytest.approx(((10 + 30) / 2 + 10 + 40) / 3)
    assert (told["rows"], told["items"]) == (4, 3)
    assert told["median_absolute_error"] == 20  # of rows: 10, 10, 30, 40
    assert told["mae_lo"] < told["mae"] < told["mae_hi"]


def test_what_is_no_number_counts_with_the_error_of_the_mean_predictor_and_beside_it_as_a_price_of_zero():
    told = figures.summary([100, 100, NAN, 400], HOUSES, 100)
    assert told["mae"] == pytest.approx(50 / 3)  # |150 - 200| of one house of three
    assert told["mae_as_zero"] == pytest.approx(200 / 3)
    assert told["not_a_number_share"] == 0.25
    assert figures.summary([100, 100, math.inf, 400], HOUSES, 100) == told


def test_a_model_that_answers_nothing_has_the_mean_predictors_error():
    nothing = figures.summary([NAN] * 4, HOUSES, 100)
    mean = figures.summary([150] * 4, HOUSES, 100)
    assert nothing["mae"] == mean["mae"] == pytest.approx((50 + 50 + 250) / 3)
    assert nothing["not_a_number_share"] == 1 and nothing["rank_correlation"] is None
    assert nothing["mae_as_zero"] == pytest.approx((100 + 200 + 400) / 3)


def test_errors_in_log_units_are_of_ratios():
    told = figures.summary([200, 50, 200, 400], HOUSES, 100)  # twice, half, right, right
    assert told["log_error"] == pytest.approx(2 * math.log(2) / 4)
    assert told["log_error_median"] == pytest.approx(math.log(2) / 2)


def test_a_predicted_price_of_zero_is_no_ratio_and_counts_as_the_mean_there():
    told = figures.summary([100, 100, 0, 400], HOUSES, 100)
    assert told["log_error"] == pytest.approx(abs(math.log(150 / 200)) / 4)
    assert told["mae"] == pytest.approx(200 / 3)  # it is a number


def test_r2_and_rank_correlation():
    truth = Truth.of([1, 2, 3, 4], range(4), mean=2.5)
    told = figures.summary([2, 1, 3, 4], truth, 100)
    assert told["r2"] == pytest.approx(1 - 2 / 5)
    assert told["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # Spearman's formula without ties
    assert figures.summary([2.5] * 4, truth, 100)["r2"] == 0
    assert figures.summary([1, 2, 3, 4], Truth.of([5] * 4, range(4), 5), 100)["r2"] is None


def test_the_difference_to_dense_is_paired_over_items():
    dense = np.array([10.0, 20.0, 30.0, 40.0] * 20)
    told = figures.against("mae", dense + 5, dense, 1000)
    assert told["mae_diff"] == told["mae_diff_lo"] == told["mae_diff_hi"] == pytest.approx(5)
    assert told["mae_increase_percent"] == pytest.approx(20)
    noisy = figures.against("mae", dense + np.tile([9.0, 1.0], 40), dense, 1000)
    assert noisy["mae_diff"] == pytest.approx(5) and 3 < noisy["mae_diff_lo"] < 5 < noisy["mae_diff_hi"] < 7
    assert noisy["mae_increase_percent_lo"] == pytest.approx(4 * noisy["mae_diff_lo"])


def test_pictures_of_one_item_are_not_independent_looks():
    errors = np.random.default_rng(0).gamma(1.0, 10.0, 30)
    once = figures.summary(100 + errors, Truth.of([100] * 30, range(30), 100), 2000)
    fourfold = figures.summary(
        np.repeat(100 + errors, 4), Truth.of([100] * 120, np.repeat(range(30), 4).tolist(), 100), 2000
    )
    assert (fourfold["mae_lo"], fourfold["mae_hi"]) == pytest.approx((once["mae_lo"], once["mae_hi"]))


def test_one_item_alone_has_no_interval():
    told = figures.summary([110], Truth.of([100], ["a"], 100), 100)
    assert (told["mae"], told["mae_lo"], told["mae_hi"]) == (10, None, None)


def test_a_control_says_how_many_times_the_own_error_it_has():
    own = figures.item_errors([110, 110, 210, 410], HOUSES)
    told = figures.control([130, 130, 230, 430], own, HOUSES, 100)
    assert told["times_own"] == pytest.approx(3) and told["mae_diff"] == pytest.approx(20)
    right = figures.item_errors(HOUSES.price, HOUSES)
    assert figures.control([130, 130, 230, 430], right, HOUSES, 100)["times_own"] is None


def test_a_baseline_says_how_far_dense_is_from_it():
    truth = Truth.of(np.arange(100.0, 140.0), range(40), mean=120)
    dense = figures.item_errors(truth.price + 1, truth)
    told = figures.baseline([truth.mean] * 40, dense, truth, 1000)
    assert told["mae"] == pytest.approx(10) and told["dense_diff"] == pytest.approx(-9)
    assert told["dense_diff_hi"] < 0 and told["rank_correlation"] is None
