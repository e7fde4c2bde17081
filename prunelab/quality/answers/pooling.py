"""All sets of questions as one: what is right of all, beside dense and beside guessing.

Sixty questions tell ± 12 points; five sets of them together ± 5. Questions count alike, whichever set they are of, and
a set is a stratum: what varies is which of its questions were asked, never how many of them come from which set. A set
in which dense is no better than guessing tells nothing of pruning and is left out, of every variant alike.
"""

import numpy as np

from prunelab import stats
from prunelab.quality.answers.pairing import Answers
from prunelab.quality.quality import known

PAIRED = {"acc": "pooled_accuracy", "right_probability": "pooled_right_probability"}


def interval(each: np.ndarray) -> stats.Interval:
    """The mean of values (n,) with its 95 % interval, Student's t."""
    return stats.seed_interval(each)


def beside_chance(figures: dict, dense: dict[str, np.ndarray]) -> dict:
    """`dense_above_chance` of a task: whether dense's whole interval lies above guessing; None where nobody guesses.

    dense: metric → (questions,).
    """
    chance = figures.get("chance")
    if chance is None or "acc" not in dense:
        return {"dense_above_chance": None}
    _, lo, _ = interval(dense["acc"])
    return {"dense_above_chance": bool(lo > chance)}


def pooled(tasks: list[Answers], dense: dict[str, dict[str, np.ndarray]], draws: int) -> dict:
    """The keys `pooled_…` of quality.json over the tasks in which dense is above chance; {} without any.

    dense: task → metric → (questions,). `pooled_accuracy`, `pooled_right_probability`: means over all questions, each
    with `_stderr`, `_lo`, `_hi` (normal, stratified) and `_diff`, `_diff_lo`, `_diff_hi` to dense (paired, resampled
    within each task). `pooled_chance`: what guessing gets. `pooled_query_tokens`, `pooled_answer_tokens`: means of a
    question, where every task knows them.
    """
    chosen = [
        task
        for task in tasks
        if "acc" in task.scores and beside_chance(task.figures, dense[task.figures["task"]])["dense_above_chance"]
    ]
    if not chosen:
        return {"pooled_tasks": []}
    counts = np.array([len(task.scores["acc"]) for task in chosen])
    found: dict = {"pooled_tasks": [task.figures["task"] for task in chosen], "pooled_questions": int(counts.sum())}

    def mean(name: str) -> float | None:
        values = [task.figures.get(name) for task in chosen]
        return None if None in values else float(np.average(values, weights=counts))

    found["pooled_chance"] = mean("chance")
    found |= {f"pooled_{name}": mean(name) for name in ("query_tokens", "answer_tokens")}
    for metric, name in PAIRED.items():
        if any(metric not in task.scores for task in chosen):
            continue
        each = [task.scores[metric] for task in chosen]
        apart = [mine - dense[task.figures["task"]][metric] for mine, task in zip(each, chosen, strict=True)]
        whole = float(np.concatenate(each).mean())
        error = stats.stratified_error(each)
        diff, lo, hi = stats.stratified_bootstrap(apart, draws)
        half = 1.96 * error
        found |= {name: whole, f"{name}_stderr": known(error)}
        found |= {f"{name}_lo": known(whole - half), f"{name}_hi": known(whole + half)}
        found |= {f"{name}_diff": diff, f"{name}_diff_lo": known(lo), f"{name}_diff_hi": known(hi)}
    return found
