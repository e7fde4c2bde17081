"""Tasks of lm-eval (the extra `tasks`), by their names there; it fetches their data from the hub.

Files of questions are no business of its: scoring.py asks them, and reads a quarter of the tokens.
"""

import contextlib
import difflib
import hashlib
import json
import logging
import os
import sys

import numpy as np

from prunelab.errors import InputError
from prunelab.quality.answers.pairing import Answers, mean_and_error
from prunelab.quality.answers.scoring import prefix_token, right_probability

FEWSHOT_SEED = 1234  # lm-eval's own default, so that few-shot figures compare with others'


def evaluate(model, tokenizer, names: list[str], *, limit: int | None, shots: int | None, batch: int) -> list[Answers]:
    """What each task gave (a group of tasks gives one for each member).

    limit: questions a task, None for all. shots: examples before each question, None for the task's own number.
    batch: sequences a forward pass. Raises InputError for a task that does not exist, or data that cannot be fetched.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise InputError("quality.questions needs lm-eval, which is an extra: pip install 'prunelab[tasks]'") from None
    with _quiet():
        return ask(model, tokenizer, _of_library(names), limit=limit, shots=shots, batch=batch)


def ask(model, tokenizer, loaded: dict, *, limit: int | None, shots: int | None, batch: int) -> list[Answers]:
    """`evaluate` of tasks in the form that lm-eval's own `evaluate` takes: {"tasks": {name: task}, "groups": …}."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    for task in loaded["tasks"].values():
        if shots is not None or task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    runner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, prefix_token_id=prefix_token(tokenizer))
    # Not simple_evaluate: it seeds every random generator of the process and spends seconds on `pip freeze`.
    found = lm_eval.evaluate(lm=runner, task_dict=loaded, limit=limit, bootstrap_iters=1000, log_samples=True)
    return [_answers(name, found) for name in found["results"]]


def _of_library(names: list[str]) -> dict:
    """Tasks and groups of these names, in the form that lm-eval's `evaluate` takes."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise InputError(
                f"quality.questions.names: lm-eval has no task {name!r}; nearest: {', '.join(near) or 'none'}; "
                "a file of questions ends in .jsonl"
            )
    try:
        return manager.load(names)
    except (OSError, ValueError) as error:  # what `datasets` raises without network, or for a data set that is gone
        raise InputError(f"quality.questions.names: the data of {', '.join(names)} can't be had: {error}") from error


def _hash_of(samples: list[dict]) -> str | None:
    """The sha256 of a task of the library as it was asked: the library's own hashes of questions, prompts, answers."""
    if not samples or "doc_hash" not in samples[0]:
        return None
    each = [[sample.get(f"{part}_hash") for part in ("doc", "prompt", "target")] for sample in samples]
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def _answers(name: str, found: dict) -> Answers:
    samples = sorted(found["samples"].get(name, []), key=lambda sample: sample["doc_id"])
    figures = {
        "task": name,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "questions": len(samples) or None,
        "sha256": _hash_of(samples),
        "chance": None,
    }
    scores = {}
    for key, value in found["results"][name].items():
        metric, _, rule = key.partition(",")
        if not rule or not isinstance(value, int | float):
            continue
        label = metric if rule == "none" else f"{metric}_{rule}"
        figures[label] = float(value)
        each = [sample[metric] for sample in samples if sample["filter"] == rule and metric in sample]
        if each and all(isinstance(one, int | float) for one in each):
            scores[label] = np.array(each, dtype=np.float64)
    if likelihoods := _of_choices(samples):
        figures["chance"] = float(np.mean([1 / len(one) for one in likelihoods]))
        rights = [right_probability(one, s["target"]) for one, s in zip(likelihoods, samples, strict=True)]
        scores["right_probability"] = np.array(rights)
        figures |= mean_and_error("right_probability", scores["right_probability"])
    return Answers(figures, scores)


def _of_choices(samples: list[dict]) -> list[list[float]]:
    """The likelihoods of every question's choices; none where a task is something else than to choose one."""
    if not samples or any(type(sample.get("target")) is not int for sample in samples):
        return []
    found = [sample["filtered_resps"] for sample in samples]
    chosen = all(isinstance(one, list | tuple) and len(one) > 1 for one in found) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], float)
        for one in found
        for pair in one
    )
    return [[pair[0] for pair in one] for one in found] if chosen else []


@contextlib.contextmanager
def _quiet():
    """lm-eval's bars only where stderr is a terminal, its warnings (one for each setting we choose) nowhere."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        finally:
            logger.setLevel(level)
