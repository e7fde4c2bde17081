"""Intervals: what a difference, a ratio or a mean over seeds is worth. Seeded, and bounded in memory.

Everything here is *paired*: a unit is one window of text (quality) or one A B B A block (efficiency) in which both
models were looked at, so what hits both (a hard passage, a noisy neighbour) cancels before anything is averaged.

The plain percentile bootstrap covers too little with few units: it forgets the factor n/(n-1) and the heavier tails
of t. The quantiles are therefore widened as in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015),
"expanded percentile interval"; with hundreds of units that changes nothing.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

FEW = 8  # pairs below which resampling says little: three of them can only give back their own range
CHUNK_ELEMENTS = 2_000_000  # resampled values held at once: 16 MB of float64 and 16 MB of indices

Interval = tuple[float, float, float]


def paired_bootstrap(
    difference_per_unit: Sequence[float] | np.ndarray, draws: int = 10_000, *, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of the differences (variant minus dense, one a unit) and its bootstrap interval: (mean, lo, hi).

    difference_per_unit: shape (units,), any unit of measure; the result has the same. One unit alone has no interval:
    lo and hi are then nan. ValueError: nothing given, or a value that is not finite.
    """
    values = _checked(difference_per_unit, "difference_per_unit")
    lo, hi = _expanded_percentiles(_resample(values, draws, seed), len(values), level)
    return float(values.mean()), lo, hi


def stratified_bootstrap(
    strata: Sequence[Sequence[float] | np.ndarray], draws: int = 10_000, *, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over all units of several strata and its bootstrap interval, (mean, lo, hi), resampled within each.

    strata: (units,) values each, of one unit of measure; a unit counts alike wherever it stands. What the strata differ
    by is no noise: how many units each has was decided, not drawn. ValueError as in `paired_bootstrap`.
    """
    values = [_checked(one, "strata") for one in strata]
    whole = np.concatenate(values)
    parts = [len(one) / len(whole) * _resample(one, draws, seed + number) for number, one in enumerate(values)]
    return float(whole.mean()), *_expanded_percentiles(sum(parts), len(whole), level)


def stratified_error(strata: Sequence[Sequence[float] | np.ndarray]) -> float:
    """The standard error of the mean over all units of several strata; nan where one has a single unit."""
    values = [_checked(one, "strata") for one in strata]
    if any(len(one) < 2 for one in values):
        return math.nan
    return math.sqrt(sum(len(one) * one.var(ddof=1) for one in values)) / sum(len(one) for one in values)


def paired_ratio(
    variant: Sequence[float] | np.ndarray,
    dense: Sequence[float] | np.ndarray,
    draws: int = 10_000,
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Ratio variant / dense from paired positive readings, (ratio, lo, hi).

    variant, dense: shape (pairs,), the same unit of measure. Ratios are averaged as logarithms (a ratio of 2 and one of
    1/2 make 1). groups: (pairs,), for readings that share what no number of pairs averages out, such as a place in
    memory: a group counts once, with the mean of the middle half of its logarithms, and the bootstrap resamples groups
    (None: every pair is one). Fewer than FEW groups get Student's t: wide, and honest about it. ValueError: unequal
    lengths, or readings that are not finite and above zero.
    """
    a, b = _checked(variant, "variant"), _checked(dense, "dense")
    if len(a) != len(b):
        raise ValueError(f"paired readings differ in number: {len(a)} of the variant, {len(b)} of dense")
    if (a <= 0).any() or (b <= 0).any():
        raise ValueError("a ratio needs readings above zero")
    logs = np.log(a) - np.log(b)
    if groups is not None:
        groups = np.asarray(groups)
        logs = np.array([_middle_mean(logs[groups == group]) for group in np.unique(groups)])
    interval = seed_interval(logs, level) if len(logs) < FEW else paired_bootstrap(logs, draws, seed=seed, level=level)
    return tuple(math.exp(end) for end in interval)


def seed_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Mean over seeds and its t interval, (mean, lo, hi); one seed alone has no interval (nan).

    Three or five seeds are too few to resample, hence Student's t. ValueError: nothing given, or not finite.
    """
    values = _checked(values, "values")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = t_quantile(0.5 + level / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def smallest_effect(ratio: Interval) -> float:
    """What an A/A test's (ratio, lo, hi) cannot tell from nothing: the larger distance of its interval from 1."""
    return max(abs(ratio[1] - 1), abs(ratio[2] - 1))


def verdict(ratio: Interval, smallest: float, less: str = "faster", more: str = "slower") -> str:
    """`less`, `more` or "no difference" for a (ratio, lo, hi) to dense.

    "no difference" when its interval includes 1, or when the ratio lies within the A/A test's smallest effect.
    """
    middle, lo, hi = ratio
    if hi < 1 and middle < 1 - smallest:
        return less
    if lo > 1 and middle > 1 + smallest:
        return more
    return "no difference"


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit  # only now: half a second, which who computes no interval needn't wait for

    return float(stdtrit(freedom, probability))


def _middle_mean(values: np.ndarray) -> float:
    """Mean of the middle half: nearly as deaf to outliers as the median, and half as noisy on clean readings."""
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _checked(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).ravel()
    if not len(values):
        raise ValueError(f"{name}: no values to average")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: {int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
    return values


def _resample(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` samples with replacement, shape (draws,); at most CHUNK_ELEMENTS values exist at once."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // len(values))
    parts = []
    for start in range(0, draws, step):
        shape = (min(step, draws - start), len(values))
        parts.append(values[generator.integers(0, len(values), size=shape)].mean(axis=1))
    return np.concatenate(parts)


def _expanded_percentiles(samples: np.ndarray, units: int, level: float) -> tuple[float, float]:
    if units < 2:
        return math.nan, math.nan
    wide = math.sqrt(units / (units - 1)) * t_quantile(0.5 + level / 2, units - 1)
    tail = NormalDist().cdf(-wide)
    lo, hi = np.quantile(samples, [tail, 1 - tail])
    return float(lo), float(hi)
