"""Guesses that need no picture and no language model, beside which a price model must stand up."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.errors import InputError
from prunelab.tasks.price import rows as part_rows

CATEGORIES = 30  # of a column of texts that become one column each; the rarer ones count as one
PENALTIES = tuple(10.0**power for power in range(-3, 5))  # of ridge, chosen by leaving one out


def predictions(price, folder: Path, rows: list[dict]) -> dict[str, np.ndarray]:
    """The prices that each baseline guesses for `rows`, learnt from the training rows in `folder` alone: {name: (n,)}.

    `folder` and `rows` are what the stage fetch wrote, `price` is the section of the settings. mean and median: that of
    the training prices, for every row. ridge: linear in the columns `price.tabular` on the log of the price, numbers
    standardised, texts one-hot; left out where that is empty.
    Raises InputError for a column that every row has another text in.
    """
    train = part_rows.of_folder(folder, "train")
    prices = np.array([row["price"] for row in train], dtype=float)
    found = {
        "mean": np.full(len(rows), prices.mean()),
        "median": np.full(len(rows), np.median(prices)),
    }
    if price.tabular:
        found["ridge"] = _ridge(train, prices, rows, price.tabular)
    return found


def _ridge(train: list[dict], prices: np.ndarray, rows: list[dict], tabular: list[str]) -> np.ndarray:
    # Here, because scikit-learn takes a second to import and only this asks for it.
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric, words = _kinds(train, tabular)
    prepared = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(range(len(numeric)))),
            (
                "texts",
                OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=CATEGORIES),
                list(range(len(numeric), len(tabular))),
            ),
        ]
    )
    model = make_pipeline(prepared, RidgeCV(alphas=PENALTIES))
    model.fit(_table(train, numeric, words), np.log(prices))
    # A house of ten times the size is no reason for a guess beyond all that was ever paid, tenfold.
    guessed = model.predict(_table(rows, numeric, words))
    return np.exp(np.clip(guessed, math.log(prices.min() / 10), math.log(prices.max() * 10)))


def _kinds(train: list[dict], tabular: list[str]) -> tuple[list[str], list[str]]:
    """(columns of numbers, columns of texts): of numbers where every training row has one or nothing."""
    numeric, words = [], []
    for name in tabular:
        values = [row["columns"].get(name) for row in train]
        if all(_empty(value) or _number(value) is not None for value in values):
            if all(_empty(value) for value in values):
                raise InputError(f"price.tabular: column {name!r} is empty in every training row; take it out")
            numeric.append(name)
            continue
        different = {str(value) for value in values}
        if len(different) > 10 and len(different) == len(values):
            raise InputError(
                f"price.tabular: column {name!r} has another text in each of {len(values)} rows, such as "
                f"{min(different)[:40]!r}, from which nothing can be learnt; take it out"
            )
        words.append(name)
    return numeric, words


def _table(rows: list[dict], numeric: list[str], words: list[str]) -> np.ndarray:
    """The columns as (n, columns) of objects, numbers first."""
    table = np.empty((len(rows), len(numeric) + len(words)), dtype=object)
    for i, row in enumerate(rows):
        values = row["columns"]
        table[i, : len(numeric)] = [_float(values.get(name)) for name in numeric]
        table[i, len(numeric) :] = [str(values.get(name)) for name in words]
    return table


def _float(value: Any) -> float:
    number = None if _empty(value) else _number(value)
    return math.nan if number is None else number


def _empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
