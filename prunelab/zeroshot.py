"""Multiple-choice questions and other tasks, answered through lm-eval (the extra `tasks`), with its standard errors.

A task is a name of lm-eval's own, whose data it fetches from the hub, or a local JSONL file of {query, choices, gold},
which becomes a task of the same library: the answer is the choice with the highest likelihood behind `query` and a
space (`acc`), or with the highest per character (`acc_norm`). Against dense, answers are paired question by question.
"""

import contextlib
import difflib
import json
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunelab import models, stats
from prunelab.errors import InputError
from prunelab.files import sha256_file
from prunelab.quality import known

FEWSHOT_SEED = 1234  # lm-eval's own default, so that few-shot figures compare with others'


class Answers(NamedTuple):
    """One task: its figures as they stand in quality.json, and what each question scored."""

    figures: dict  # task, version, shots, questions, and per metric its value and `_stderr`
    scores: dict[str, np.ndarray]  # metric → (questions,) float64, in the order of the questions


def evaluate(model, tokenizer, names: list[str], *, limit: int | None, shots: int | None, batch: int):
    """A list of `Answers`, one a task (a group of tasks gives one for each member).

    limit: questions a task, None for all. shots: examples before each question, None for the task's own number.
    batch: sequences a forward pass. Raises InputError for a task that does not exist, a broken file, or data that
    cannot be fetched.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise InputError("quality.tasks needs lm-eval, which is an extra: pip install 'prunelab[tasks]'") from None
    files = {Path(name).stem: Path(name) for name in names if name.endswith(".jsonl")}
    if len({Path(name).stem for name in names}) < len(names):
        raise InputError(f"quality.tasks.names: two tasks of one name among {', '.join(names)}")
    with _quiet():
        loaded = _of_library([name for name in names if not name.endswith(".jsonl")])
        for name, path in files.items():
            rows = read_questions(path)[:limit]
            check_lengths(path, rows, tokenizer, models.context_length(model.config))
            loaded["tasks"][name] = _of_questions(name, rows)
        for task in loaded["tasks"].values():
            if shots is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        # A text needs a token before its first one; a tokenizer without special tokens lends its new line.
        first = None if tokenizer.bos_token_id or tokenizer.eos_token_id else tokenizer.encode("\n")[0]
        runner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, prefix_token_id=first)
        # Not simple_evaluate: it seeds every random generator of the process and spends seconds on `pip freeze`.
        found = lm_eval.evaluate(lm=runner, task_dict=loaded, limit=limit, bootstrap_iters=1000, log_samples=True)
    return [_answers(name, found, files) for name in found["results"]]


def compare(answers: Answers, dense: dict[str, np.ndarray], draws: int) -> dict:
    """The figures of a task with, per metric, the difference to dense and its interval, paired over questions.

    dense: metric → (questions,). Raises InputError when dense was asked other questions.
    """
    figures = dict(answers.figures)
    for metric, mine in answers.scores.items():
        if metric not in dense or len(dense[metric]) != len(mine):
            raise InputError(
                f"task {figures['task']}: dense was not asked the same questions; run the reference stage again"
            )
        diff, lo, hi = stats.paired_bootstrap(mine - dense[metric], draws)
        figures |= {f"{metric}_diff": diff, f"{metric}_diff_lo": known(lo), f"{metric}_diff_hi": known(hi)}
    return figures


def read_questions(path: Path) -> list[dict]:
    """The rows of a JSONL file. Raises InputError that names the line which is no question."""
    if not path.is_file():
        raise InputError(f"quality.tasks.names: {path}: no such file")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            query, choices, gold = row["query"], row["choices"], row["gold"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: expected {{query, choices, gold}}, found {error}") from None
        if not (isinstance(query, str) and isinstance(choices, list) and len(choices) > 1):
            raise InputError(f"{path}, line {number}: `query` must be a text and `choices` a list of at least two")
        if type(gold) is not int or not 0 <= gold < len(choices):
            raise InputError(
                f"{path}, line {number}: gold is {gold!r}, expected the index of one of {len(choices)} choices"
            )
        rows.append({"query": query, "choices": choices, "gold": gold})
    if not rows:
        raise InputError(f"{path}: no questions in it")
    return rows


def check_lengths(path: Path, rows: list[dict], tokenizer, longest: int | None) -> None:
    """Raises InputError for a choice that a model of `longest` tokens cannot take; a long query loses its beginning."""
    for number, row in enumerate(rows, start=1):
        length = max(len(tokenizer.encode(f" {choice}", verbose=False)) for choice in row["choices"])
        if longest is not None and length > longest:
            raise InputError(
                f"{path}, line {number}: a choice of {length} tokens, but this model's context is {longest}"
            )


def _of_questions(name: str, rows: list[dict]):
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
            "metadata": {"version": 1},
        }
    )


def _of_library(names: list[str]) -> dict:
    """Tasks and groups of these names, in the form that lm-eval's `evaluate` takes."""
    if not names:
        return {"tasks": {}, "groups": {}}  # reading the library's index of tasks takes seconds
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise InputError(
                f"quality.tasks.names: lm-eval has no task {name!r}; nearest: {', '.join(near) or 'none'}; "
                "a file of questions ends in .jsonl"
            )
    try:
        return manager.load(names)
    except (OSError, ValueError) as error:  # what `datasets` raises without network, or for a data set that is gone
        raise InputError(f"quality.tasks.names: the data of {', '.join(names)} can't be had: {error}") from error


def _answers(name: str, found: dict, files: dict[str, Path]) -> Answers:
    samples = sorted(found["samples"].get(name, []), key=lambda sample: sample["doc_id"])
    figures = {
        "task": name,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "questions": len(samples) or None,
        "sha256": sha256_file(files[name]) if name in files else None,
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
    return Answers(figures, scores)


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
