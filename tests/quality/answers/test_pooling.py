"""Sets of questions as one, against sums by hand; sets on which dense guesses."""

import numpy as np
import pytest

from prunelab.quality.answers import pooling
from prunelab.quality.answers.pairing import Answers


def answers(name: str, acc, right, chance=0.25, **figures) -> Answers:
    told = {"task": name, "chance": chance, "query_tokens": 20.0, "answer_tokens": 3.0} | figures
    return Answers(told, {"acc": np.array(acc, float), "right_probability": np.array(right, float)})


GOOD = [1, 1, 1, 1, 1, 1, 1, 0]  # 0.875 ± 0.125: above chance
GUESS = [1, 0, 0, 0]  # 0.25


def test_questions_count_alike_and_a_set_that_dense_guesses_at_is_left_out_of_all():
    dense = {"a": {"acc": np.array(GOOD, float), "right_probability": np.full(8, 0.5)},
             "b": {"acc": np.array(GUESS, float), "right_probability": np.full(4, 0.25)},
             "c": {"acc": np.ones(4), "right_probability": np.full(4, 0.8)}}  # fmt: skip
    mine = [
        answers("a", [1, 1, 1, 1, 0, 0, 0, 0], [0.4] * 8),
        answers("b", [1, 1, 1, 1], [0.9] * 4),
        answers("c", [1, 1, 1, 0], [0.7] * 4, chance=0.0, query_tokens=8.0, answer_tokens=6.0),
    ]
    found = pooling.pooled(mine, dense, draws=2000)
    assert found["pooled_tasks"] == ["a", "c"] and found["pooled_questions"] == 12
    assert found["pooled_accuracy"] == pytest.approx((4 + 3) / 12)
    assert found["pooled_chance"] == pytest.approx(8 * 0.25 / 12)
    assert (found["pooled_query_tokens"], found["pooled_answer_tokens"]) == (16.0, 4.0)
    # Variances 2/7 of eight and 1/4 of four questions.
    error = np.sqrt(8 * 2 / 7 + 4 * 1 / 4) / 12
    assert found["pooled_accuracy_stderr"] == pytest.approx(error)
    assert found["pooled_accuracy_hi"] - found["pooled_accuracy_lo"] == pytest.approx(2 * 1.96 * error)
    assert found["pooled_accuracy_diff"] == pytest.approx((-3 - 1) / 12)
    assert found["pooled_accuracy_diff_lo"] < -4 / 12 < found["pooled_accuracy_diff_hi"]
    assert found["pooled_right_probability_diff"] == pytest.approx(-0.1)
    # What is the same in all questions of a set is no noise.
    assert found["pooled_right_probability_diff_lo"] == pytest.approx(-0.1)


def test_without_a_set_above_chance_nothing_is_pooled():
    dense = {"b": {"acc": np.array(GUESS, float)}, "x": {"acc": np.array(GOOD, float)}, "y": {"exact": np.ones(4)}}
    unknown = answers("x", GOOD, [0.1] * 8, chance=None)
    tasks = [answers("b", [1, 1, 1, 1], [0.9] * 4), unknown, Answers({"task": "y"}, {"exact": np.ones(4)})]
    assert pooling.pooled(tasks, dense, draws=10) == {"pooled_tasks": []}
    assert pooling.beside_chance(unknown.figures, dense["x"]) == {"dense_above_chance": None}
    assert pooling.beside_chance(tasks[0].figures, dense["b"]) == {"dense_above_chance": False}
    assert pooling.beside_chance(answers("a", GOOD, GOOD).figures, dense["x"]) == {"dense_above_chance": True}
