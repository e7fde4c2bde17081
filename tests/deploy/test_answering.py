"""The price of a right answer against a calculation by hand, and when there is none."""

import pytest

from prunelab.deploy.answering import per_correct

SESSION = {"prefill_j_per_token": 0.5, "decode_j_per_token": 2.0, "grams_per_kwh": 360.0, "litres_per_kwh": 1.8}
ROW = {"pooled_accuracy": 0.6, "pooled_accuracy_lo": 0.5, "pooled_accuracy_hi": 0.7, "pooled_chance": 0.2,
       "pooled_query_tokens": 20.0, "pooled_answer_tokens": 5.0}  # fmt: skip


def test_a_right_answer_costs_its_share_of_the_energy_of_all_beyond_guessing():
    # 20 · 0.5 + 5 · 2 = 20 J a question, of which 0.4 are answered rightly beyond guessing
    assert per_correct(ROW, SESSION) == pytest.approx({
        "j_per_correct": 50.0, "j_per_correct_lo": 40.0, "j_per_correct_hi": 20 / 0.3,
        "gco2_per_correct": 50 / 3.6e6 * 360, "litres_per_correct": 50 / 3.6e6 * 1.8,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pooled_accuracy_lo": 0.2}, "the accuracy's 95 % interval includes chance"),
        ({"pooled_accuracy": 0.9, "pooled_accuracy_lo": None}, "the accuracy's 95 % interval includes chance"),
        ({"pooled_chance": None}, "what guessing gets is unknown"),
        ({"pooled_query_tokens": None}, "how long the questions of lm-eval's tasks are is unknown"),
    ],
)
def test_a_model_that_may_be_guessing_has_no_price(change, why):
    assert per_correct(ROW | change, SESSION) == {"per_correct_missing": why}


def test_without_energy_there_is_no_price_and_without_questions_no_word():
    assert per_correct(ROW, SESSION | {"decode_j_per_token": None}) == {"per_correct_missing": "no energy was measured"}
    assert per_correct({"pooled_tasks": []}, SESSION) == {} == per_correct({}, SESSION)
