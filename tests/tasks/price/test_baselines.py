"""Mean, median and ridge: learnt from the training rows alone, as worked out by hand or by a reference."""

import json
from pathlib import Path

import numpy as np
import pytest

from prunelab.errors import InputError
from prunelab.tasks.price import baselines
from tests.tasks.price.shop import settings


def rows(count: int, seed: int, noise: float = 0.0) -> list[dict]:
    """Houses whose log price is linear in area and kind."""
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        area, kind = float(dice.uniform(50, 150)), str(dice.choice(["flat", "house"]))
        price = np.exp(1 + 0.02 * area + (kind == "house") * 0.5 + noise * dice.normal())
        found.append({"price": price, "columns": {"area": f"{area:.6f}", "kind": kind, "floor": None}})
    return found


def guesses(folder: Path, train: list[dict], test: list[dict], tabular: list[str]) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    price = settings(folder).price.model_copy(update={"tabular": tabular})
    return baselines.predictions(price, folder, test)


def test_mean_and_median_are_those_of_the_training_rows(tmp_path):
    train = [{"price": price, "columns": {}} for price in (1.0, 2.0, 9.0)]
    found = guesses(tmp_path, train, train[:2], [])
    assert set(found) == {"mean", "median"}
    assert found["mean"].tolist() == [4.0, 4.0] and found["median"].tolist() == [2.0, 2.0]


def test_ridge_finds_what_is_linear_in_the_log_of_the_price(tmp_path):
    train, test = rows(200, 1), rows(50, 2)
    found = guesses(tmp_path, train, test, ["area", "kind"])["ridge"]
    assert found == pytest.approx([row["price"] for row in test], rel=0.01)


def test_ridge_is_that_of_the_normal_equations(tmp_path):
    train, test = rows(60, 1, noise=0.3), rows(20, 2, noise=0.3)
    found = np.log(guesses(tmp_path, train, test, ["area"])["ridge"])

    def areas(some: list[dict]) -> np.ndarray:
        return np.array([float(row["columns"]["area"]) for row in some])

    known = areas(train)
    x, y = (known - known.mean()) / known.std(), np.log([row["price"] for row in train])
    expected = [
        y.mean() + (areas(test) - known.mean()) / known.std() * (x @ (y - y.mean())) / (x @ x + penalty)
        for penalty in baselines.PENALTIES
    ]
    assert min(np.abs(found - one).max() for one in expected) < 1e-6


def test_a_text_and_a_number_that_were_never_seen_do_no_harm(tmp_path):
    test = [{"price": 1.0, "columns": {"area": "1e9", "kind": "castle"}}, {"price": 1.0, "columns": {"area": None}}]
    train = rows(50, 1)
    found = guesses(tmp_path, train, test, ["area", "kind"])["ridge"]
    assert np.isfinite(found).all() and found.max() <= 10 * max(row["price"] for row in train) * 1.0001


def test_columns_from_which_nothing_can_be_learnt_are_told(tmp_path):
    train = rows(20, 1)
    with pytest.raises(InputError, match=r"price\.tabular: column 'floor' is empty in every training row"):
        guesses(tmp_path, train, train, ["floor"])
    named = [row | {"columns": {"title": f"house {n}"}} for n, row in enumerate(train)]
    with pytest.raises(InputError, match=r"price\.tabular: column 'title' has another text in each of 20 rows"):
        guesses(tmp_path, named, named, ["title"])
