"""How far predicted prices are from true ones: errors in currency and in log units, fit, rank, and what failed.

    answer "1,250"     → a price, whose error is |predicted - true|
    answer "cheap!"    → no number: a failure. It counts with the error of the mean predictor (the mean price of
                         training) instead of being dropped, because who leaves hard cases out looks better; beside it
                         stands `mae_as_zero`, as the public recipe counts it (METHODS: a price of 0).

An item is what a price belongs to (a house, of which there may be several pictures). What is averaged and resampled is
an item's mean over its rows, so that four pictures of one house are not four independent looks. Medians, R² and rank
correlation are of rows, which are what is predicted.
"""

from typing import NamedTuple

import numpy as np

from prunelab import stats


class Truth(NamedTuple):
    """What the answers are held against. price: (rows,) float64, currency; items: (rows,) the item of each row;
    mean: the mean price of training, which stands in for what is no number."""

    price: np.ndarray
    items: np.ndarray
    mean: float

    @classmethod
    def of(cls, prices, items, mean: float) -> "Truth":
        """From lists; the items of any kind, numbered in the order in which they come."""
        known: dict = {}
        return cls(np.asarray(prices, np.float64), np.array([known.setdefault(i, len(known)) for i in items]), mean)

    def by_item(self, values) -> np.ndarray:
        """(items,) means over each item's rows of `values` (rows,), in the order in which the items come."""
        return np.bincount(self.items, values) / np.bincount(self.items)


def filled(predicted, truth: Truth) -> np.ndarray:
    """(rows,) prices, with the mean predictor's where `predicted` (rows,) is no number (nan, or infinite)."""
    predicted = np.asarray(predicted, np.float64)
    return np.where(np.isfinite(predicted), predicted, truth.mean)


def errors(predicted, truth: Truth) -> np.ndarray:
    """(rows,) absolute errors in currency; of what is no number that of the mean predictor."""
    return np.abs(filled(predicted, truth) - truth.price)


def item_errors(predicted, truth: Truth) -> np.ndarray:
    """(items,) mean absolute errors in currency: the value per item of the task's headline figure."""
    return truth.by_item(errors(predicted, truth))


def summary(predicted, truth: Truth, draws: int) -> dict:
    """The figures of one model's predictions (rows,), nan where an answer is no number; unknown is None.

    `mae` with its own interval, `median_absolute_error` (currency), `log_error` and `log_error_median` (mean and median
    of |ln(predicted / true)|, rows whose predicted price is not above zero count as failures there), `r2`,
    `rank_correlation` (Spearman's), `not_a_number_share`, `mae_as_zero`.
    """
    predicted = np.asarray(predicted, np.float64)
    known, prices, apart = np.isfinite(predicted), filled(predicted, truth), errors(predicted, truth)
    mae, lo, hi = stats.paired_bootstrap(truth.by_item(apart), draws)
    logs = _log_errors(prices, truth)
    return {
        "rows": len(prices),
        "items": int(truth.items.max()) + 1,
        "mae": mae,
        "mae_lo": known_or_none(lo),
        "mae_hi": known_or_none(hi),
        "median_absolute_error": float(np.median(apart)),
        "log_error": float(logs.mean()) if len(logs) else None,
        "log_error_median": float(np.median(logs)) if len(logs) else None,
        "r2": _r2(prices, truth.price),
        "rank_correlation": _rank_correlation(prices, truth.price),
        "not_a_number_share": float(1 - known.mean()),
        "mae_as_zero": float(truth.by_item(np.abs(np.where(known, prices, 0.0) - truth.price)).mean()),
    }


def against(name: str, mine: np.ndarray, dense: np.ndarray, draws: int) -> dict:
    """`<name>_diff` and `<name>_increase_percent` with their 95 % intervals, paired over items; (items,) values each.

    The increase is in percent of dense's mean; its interval is the difference's, scaled: what dense itself has is
    taken as known, because every row of a table is compared with the same dense one.
    """
    scale = 100 / dense.mean() if dense.mean() else np.nan
    ends = stats.paired_bootstrap(mine - dense, draws)
    told = {f"{name}_diff{end}": known_or_none(value) for end, value in zip(("", "_lo", "_hi"), ends, strict=True)}
    return told | {
        f"{name}_increase_percent{end}": known_or_none(scale * value)
        for end, value in zip(("", "_lo", "_hi"), ends, strict=True)
    }


def control(predicted, own: np.ndarray, truth: Truth, draws: int) -> dict:
    """A control beside the model's own item errors `own`: `mae`, how many times the own, and the paired difference."""
    mine = item_errors(predicted, truth)
    return {
        "mae": float(mine.mean()),
        "times_own": known_or_none(mine.mean() / own.mean() if own.mean() else np.nan),
        **against("mae", mine, own, draws),
    }


def baseline(predicted, dense: np.ndarray, truth: Truth, draws: int) -> dict:
    """A predictor that is no model (mean, median, ridge): its figures, and dense minus it as `dense_diff…`, paired.

    dense: (items,) errors of the dense model.
    """
    mine = item_errors(predicted, truth)
    told = summary(predicted, truth, draws)
    ends = stats.paired_bootstrap(dense - mine, draws)
    return {name: told[name] for name in ("mae", "median_absolute_error", "log_error", "r2", "rank_correlation")} | {
        f"dense_diff{end}": known_or_none(value) for end, value in zip(("", "_lo", "_hi"), ends, strict=True)
    }


def known_or_none(value) -> float | None:
    """None instead of nan, which JSON does not know."""
    return float(value) if np.isfinite(value) else None


def _log_errors(prices: np.ndarray, truth: Truth) -> np.ndarray:
    """|ln(predicted / true)| of the rows with a true price above zero."""
    rows = truth.price > 0
    stand_in = truth.mean if truth.mean > 0 else 1.0
    return np.abs(np.log(np.where(prices > 0, prices, stand_in)[rows] / truth.price[rows]))


def _r2(prices: np.ndarray, true: np.ndarray) -> float | None:
    """1 - squared errors / squared distances from the mean of these rows; None where all true prices are one."""
    spread = float(((true - true.mean()) ** 2).sum())
    return known_or_none(1 - float(((prices - true) ** 2).sum()) / spread) if spread else None


def _rank_correlation(prices: np.ndarray, true: np.ndarray) -> float | None:
    """Spearman's, ties at their mean rank; None where one side has a single value, which has no order."""
    from scipy.stats import spearmanr  # only now: a second

    if np.ptp(prices) == 0 or np.ptp(true) == 0:
        return None
    return float(spearmanr(prices, true).statistic)
