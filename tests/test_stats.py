import math
import tracemalloc

import numpy as np
import pytest

from prunelab import stats


def test_t_quantiles_are_those_of_the_printed_tables():
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 10: 2.2281, 29: 2.0452, 30: 2.0423, 120: 1.9799}
    for freedom, value in table.items():
        assert stats.t_quantile(0.975, freedom) == pytest.approx(value, abs=1e-4)
        assert stats.t_quantile(0.025, freedom) == pytest.approx(-value, abs=1e-4)


def test_the_seed_interval_is_the_one_worked_out_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, half width 4.3027 / sqrt(3)
    mean, lo, hi = stats.seed_interval([1.0, 2.0, 3.0])
    assert (mean, lo, hi) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_one_unit_has_a_mean_but_no_interval():
    for function in (stats.seed_interval, stats.paired_bootstrap):
        mean, lo, hi = function([0.25])
        assert mean == 0.25 and math.isnan(lo) and math.isnan(hi)


def test_the_interval_covers_a_known_difference_95_times_of_100():
    # normal differences and skewed ones (a shifted exponential, as losses of hard passages are), 60 units each
    generator = np.random.default_rng(7)
    for draw in (lambda: generator.normal(0.3, 1.0, 60), lambda: generator.exponential(1.0, 60) - 0.7):
        hits = 0
        for trial in range(1000):
            _, lo, hi = stats.paired_bootstrap(draw(), draws=1000, seed=trial)
            hits += lo <= 0.3 <= hi
        assert 930 <= hits <= 970


def test_the_interval_covers_with_eight_units_as_well():
    generator, hits = np.random.default_rng(8), 0
    for trial in range(1000):
        _, lo, hi = stats.paired_bootstrap(generator.normal(0.3, 1.0, 8), draws=1000, seed=trial)
        hits += lo <= 0.3 <= hi
    assert 930 <= hits <= 970


def test_a_ratio_covers_a_known_slow_down():
    generator, hits = np.random.default_rng(9), 0
    for trial in range(1000):
        dense = np.exp(generator.normal(3.0, 0.5, 31))  # a common drift, which pairing takes out
        variant = dense * 1.05 * np.exp(generator.normal(0.0, 0.03, 31))
        _, lo, hi = stats.paired_ratio(variant, dense, draws=500, seed=trial)
        hits += lo <= 1.05 <= hi
    assert 930 <= hits <= 970


def test_what_pairs_of_a_group_share_is_covered_only_when_groups_are_told():
    generator, hits, naive = np.random.default_rng(11), 0, 0
    groups = np.repeat(np.arange(10), 16)
    for trial in range(1000):
        dense = np.exp(generator.normal(3.0, 0.5, 160))
        shared = generator.normal(0.0, 0.01, 10)[groups]  # a place in memory, say: as long as the group lasts
        variant = dense * 1.05 * np.exp(shared + generator.normal(0.0, 0.01, 160))
        _, lo, hi = stats.paired_ratio(variant, dense, draws=500, groups=groups, seed=trial)
        hits += lo <= 1.05 <= hi
        _, lo, hi = stats.paired_ratio(variant, dense, draws=500, seed=trial)
        naive += lo <= 1.05 <= hi
    assert 930 <= hits <= 970 and naive < 500


def test_a_group_counts_once_with_the_mean_of_its_middle_half():
    logs = [0.0, 1.0, 2.0, 50.0, 6.0]  # of the first four the middle half is 1 and 2
    ratio, _, _ = stats.paired_ratio(np.exp(logs), [1.0] * 5, groups=[7, 7, 7, 7, 9])
    assert math.log(ratio) == pytest.approx((1.5 + 6.0) / 2)


def test_a_ratio_of_three_noisy_pairs_covers_as_well():
    generator, hits = np.random.default_rng(10), 0
    for trial in range(1000):
        dense = np.exp(generator.normal(3.0, 0.5, 3))
        variant = dense * 1.05 * np.exp(generator.normal(0.0, 0.3, 3))
        _, lo, hi = stats.paired_ratio(variant, dense, draws=100, seed=trial)
        hits += lo <= 1.05 <= hi
    assert 930 <= hits <= 970


def test_a_constant_difference_has_an_interval_of_no_width():
    assert stats.paired_bootstrap([0.5] * 9) == (0.5, 0.5, 0.5)
    assert stats.paired_ratio([3.0] * 9, [2.0] * 9) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(
    ("ratio", "smallest", "told"),
    [
        ((0.9, 0.88, 0.92), 0.03, "faster"),
        ((1.1, 1.08, 1.12), 0.03, "slower"),
        ((0.9, 0.88, 0.92), 0.11, "no difference"),
        ((0.9, 0.80, 1.01), 0.03, "no difference"),
        ((0.9, math.nan, math.nan), 0.03, "no difference"),
    ],
)
def test_a_verdict_needs_an_interval_clear_of_one_and_of_the_smallest_effect(ratio, smallest, told):
    assert stats.verdict(ratio, smallest) == told
    assert stats.smallest_effect((1.0, 0.97, 1.02)) == pytest.approx(0.03)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=40)
    assert stats.paired_bootstrap(values, seed=3) == stats.paired_bootstrap(values, seed=3)
    assert stats.paired_bootstrap(values, seed=3) != stats.paired_bootstrap(values, seed=4)


def test_swapping_variant_and_dense_inverts_the_ratio():
    generator = np.random.default_rng(1)
    a, b = np.exp(generator.normal(size=20)), np.exp(generator.normal(size=20))
    ratio, lo, hi = stats.paired_ratio(a, b, seed=2)
    back, back_lo, back_hi = stats.paired_ratio(b, a, seed=2)
    assert (back, back_lo, back_hi) == pytest.approx((1 / ratio, 1 / hi, 1 / lo))


def test_strata_are_resampled_by_themselves():
    alike = [np.zeros(50), np.ones(50)]  # they differ only between strata, which is decided and not drawn
    assert stats.stratified_bootstrap(alike, draws=200) == pytest.approx((0.5, 0.5, 0.5))
    assert stats.stratified_error(alike) == 0
    values = np.random.default_rng(0).normal(size=300)
    parts = [values[:100], values[100:]]
    mean, lo, hi = stats.stratified_bootstrap(parts, draws=4000)
    error = math.sqrt(sum(len(part) * part.var(ddof=1) for part in parts)) / 300
    assert mean == pytest.approx(values.mean()) and stats.stratified_error(parts) == pytest.approx(error)
    assert (hi - lo) / 2 == pytest.approx(stats.t_quantile(0.975, 299) * error, rel=0.06)
    assert stats.stratified_bootstrap([values], draws=500)[0] == stats.paired_bootstrap(values, draws=500)[0]
    assert math.isnan(stats.stratified_error([[1.0], [1.0, 2.0]]))


def test_memory_stays_bounded_with_many_units():
    values = np.random.default_rng(0).normal(size=20_000)
    tracemalloc.start()
    stats.paired_bootstrap(values, draws=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all at once would be 160 MB


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stats.paired_bootstrap([]), "no values"),
        (lambda: stats.paired_bootstrap([1.0, math.nan]), "1 of 2 values are not finite"),
        (lambda: stats.paired_ratio([1.0, 2.0], [1.0]), "2 of the variant, 1 of dense"),
        (lambda: stats.paired_ratio([1.0, 0.0], [1.0, 1.0]), "above zero"),
    ],
)
def test_faults_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
