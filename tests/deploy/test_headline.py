"""A headline figure of which more is better, against numbers worked out by hand."""

import numpy as np
import pytest

from prunelab.deploy import choosing, figures, recommendation, rivals
from prunelab.tasks import headline
from tests.helpers.rows import ACCURACY, LOSS, deploy, row

DENSE = 80.0  # points


def judged(name: str, change: float, half: float = 0.2, loss: float = 0.0, **about) -> dict:
    """A row whose accuracy is `change` percent of dense's above it, and whose loss says something else."""
    ends = {f"accuracy_increase_percent{end}": change + step for end, step in (("", 0), ("_lo", -half), ("_hi", half))}
    return row(name, loss=loss, **about) | {"accuracy": DENSE * (1 + change / 100)} | ends


def choose(rows, values=None, minimise=("stored_mb",), **budgets):
    return choosing.choose(figures.candidates(rows, ACCURACY), choosing.Asked(budgets, list(minimise)), values)


def test_what_falls_below_dense_is_worse_and_its_interval_turns_round():
    _, one = figures.candidates([judged("dense", 0), judged("a-50", -1.0, 0.2)], ACCURACY)
    figure = one.figures["worse_percent"]
    assert (figure.value, figure.lo, figure.hi) == pytest.approx((1.0, 0.8, 1.2))


def test_a_budget_and_the_order_go_by_the_accuracy_and_not_by_the_loss():
    rows = [judged("dense", 0), judged("a-50", -1.0, mb=1.5, loss=-30), judged("b-50", 0.5, mb=2.0, loss=30)]
    found = choose(rows, worse_percent=1.1)
    assert [one.id for one in found.chosen] == ["b-50"]
    assert {one.candidate.id: one.state for one in found.judged}["a-50"] == "fails"  # 1.2 with its whole interval
    assert [one.id for one in choose(rows, worse_percent=1.3).chosen] == ["a-50"]
    assert [one.id for one in choose(rows, minimise=["worse_percent"]).chosen] == ["b-50"]


def test_item_by_item_a_difference_is_found_that_the_rows_own_intervals_hide():
    hard = np.random.default_rng(0).normal(DENSE, 20, 400)
    items = {"a-50": hard * 0.990, "b-50": hard * 0.991}
    rows = [judged("a-50", -1.0, 0.5), judged("b-50", -0.9, 0.5)]
    asked = {"minimise": ["worse_percent"]}
    assert [one.id for one in choose(rows, **asked).chosen] == ["b-50", "a-50"]
    assert [one.id for one in choose(rows, lambda one: items[one["variant"]], **asked).chosen] == ["b-50"]


def test_the_difference_to_a_rival_is_in_points_and_above_zero_where_the_row_is_better():
    rows = [judged("a-50", -1.0, mb=2.0), judged("b-50", 0.5, mb=2.0), judged("dense-int8", -0.2, mb=0.9)]
    found = rivals.columns(figures.candidates(rows, ACCURACY), rivals.comparison())
    assert found["a-50"]["rival_accuracy_diff"] == pytest.approx(-0.8 * DENSE / 100)
    assert found["b-50"]["rival_accuracy_diff"] == pytest.approx(0.7 * DENSE / 100)
    lo, hi = (found["b-50"][f"rival_accuracy_diff_{end}"] for end in ("lo", "hi"))
    assert lo < found["b-50"]["rival_accuracy_diff"] < hi and lo > 0
    assert found["a-50"]["dominated_by"] == "dense-int8" and found["b-50"]["dominated_by"] == "none"
    assert not any("loss" in name for columns in found.values() for name in columns)


def test_the_words_name_the_figure_and_say_which_way_it_went():
    rows = [judged("dense", 0), judged("a-50", -1.0, mb=1.5), judged("dense-int8", -0.3, mb=2.9)]
    found = recommendation.make(rows, ACCURACY, deploy(minimise=["stored_mb"], worse_percent=2))
    assert found["told"][0].endswith("accuracy +1.00 [+0.80, +1.20] % below dense.")
    assert "at its accuracy or more" in found["comparison"]
    assert found["headline"]["column"] == "accuracy" and not found["headline"]["lower_is_better"]
    nothing = recommendation.make(rows[1:], ACCURACY, deploy(worse_percent=0.1))
    assert "+0.30 [+0.10, +0.50] % of accuracy below dense" in " ".join(nothing["told"])
    assert "loss" not in str(found) + str(nothing)


def test_the_unit_may_be_a_setting(monkeypatch):
    from types import SimpleNamespace

    from prunelab import tasks

    priced = LOSS._replace(unit="{settings.price.currency} a piece")
    monkeypatch.setattr(tasks, "of", lambda name: SimpleNamespace(HEADLINE=priced))
    found = headline(SimpleNamespace(task="any", price=SimpleNamespace(currency="€")))
    assert (found.unit, found.bare_unit, found.short_unit) == ("€ a piece", "€", "€/piece")


def test_what_a_line_tells_has_one_digit_less_than_a_table():
    assert [LOSS._replace(form=form).brief for form in (".4f", ".1f", ".0f", ",.2f")] == [".3f", ".0f", ".0f", ",.1f"]
