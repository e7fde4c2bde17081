"""What a set of questions gave a model, and the same beside what it gave dense, question by question."""

from typing import NamedTuple

import numpy as np

from prunelab import stats
from prunelab.errors import InputError
from prunelab.quality.quality import known


class Answers(NamedTuple):
    """One set of questions: its figures as they stand in quality.json, and what each question scored."""

    figures: dict  # task, version, shots, questions, sha256, chance, and per metric its value and `_stderr`
    scores: dict[str, np.ndarray]  # metric → (questions,) float64, in the order of the questions


def compare(answers: Answers, dense: dict[str, np.ndarray], draws: int) -> dict:
    """The figures of a task with, per metric, the difference to dense and its interval, paired over questions.

    dense: metric → (questions,), and `sha256` → (32,) bytes, of the questions. Raises InputError when dense was asked
    other ones.
    """
    figures = dict(answers.figures)
    another = f"task {figures['task']}: dense was not asked the same questions; run the reference stage again"
    if "sha256" in dense and figures["sha256"] != bytes(dense["sha256"]).hex():
        raise InputError(another)
    for metric, mine in answers.scores.items():
        if metric not in dense or len(dense[metric]) != len(mine):
            raise InputError(another)
        diff, lo, hi = stats.paired_bootstrap(mine - dense[metric], draws)
        figures |= {f"{metric}_diff": diff, f"{metric}_diff_lo": known(lo), f"{metric}_diff_hi": known(hi)}
    return figures


def mean_and_error(metric: str, each: np.ndarray) -> dict[str, float | None]:
    """The mean of values (n,) as `metric`, and its standard error as `<metric>_stderr`, as lm-eval gives it; one value
    alone has none."""
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
    return {metric: float(each.mean()), f"{metric}_stderr": error}
