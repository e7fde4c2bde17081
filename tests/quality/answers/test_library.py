"""Tasks of lm-eval: what is known of one, and what is told of one that there is not."""

import numpy as np
import pytest

from prunelab.errors import InputError
from prunelab.quality.answers import library
from prunelab.quality.answers.pairing import Answers, compare
from tests.helpers.asking import character_model


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_know_gets_its_nearest_names():
    pytest.importorskip("lm_eval", reason="lm-eval, the extra `tasks`, is not installed")
    with pytest.raises(InputError, match="no task 'arc_eesy'; nearest: arc_easy"):
        library.evaluate(*character_model(), ["arc_eesy"], limit=2, shots=None, batch=4)


def test_answers_are_paired_with_dense_question_by_question():
    answers = Answers({"task": "quiz", "acc": 0.5}, {"acc": np.array([1.0, 1.0, 0.0, 0.0])})
    found = compare(answers, {"acc": np.array([1.0, 1.0, 1.0, 1.0])}, draws=500)
    assert found["acc_diff"] == -0.5 and found["acc_diff_lo"] < -0.5 < found["acc_diff_hi"]
    with pytest.raises(InputError, match="quiz: dense was not asked the same"):
        compare(answers, {"acc": np.ones(3)}, draws=500)
    with pytest.raises(InputError, match="quiz: dense was not asked the same"):
        compare(answers, {}, draws=500)


def test_as_many_other_questions_are_refused():
    answers = Answers({"task": "arc_easy", "sha256": "01" * 32}, {"acc": np.ones(3)})
    same = {"acc": np.zeros(3), "sha256": np.full(32, 1, np.uint8)}
    assert compare(answers, same, 10)["acc_diff"] == 1.0
    with pytest.raises(InputError, match="task arc_easy: dense was not asked the same questions"):
        compare(answers, same | {"sha256": np.full(32, 2, np.uint8)}, 10)


def test_a_task_of_the_library_is_known_by_what_was_asked():
    samples = [{"doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}]
    assert library._hash_of(samples) == library._hash_of([dict(samples[0])])
    assert library._hash_of([samples[0] | {"target_hash": "d"}]) != library._hash_of(samples)
    assert library._hash_of([]) is None


def test_a_task_that_writes_has_no_choices_to_guess_among():
    written = [{"target": "Rome", "filtered_resps": ["Rome"]}]
    assert library._of_choices(written) == [] == library._of_choices([])
    chosen = [{"target": 1, "filtered_resps": [(-2.0, False), (-1.0, True)]}]
    assert library._of_choices(chosen) == [[-2.0, -1.0]]
