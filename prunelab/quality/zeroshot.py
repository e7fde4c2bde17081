"""Multiple-choice questions and other tasks, answered through lm-eval (the extra `tasks`), with its standard errors.

A task is a name of lm-eval's own, whose data it fetches from the hub, or a local JSONL file of {query, choices, gold},
which becomes a task of the same library: the answer is the choice with the highest likelihood behind `query` and a
space (`acc`), or with the highest per character (`acc_norm`). Against dense, answers are paired question by question.
"""

import contextlib
import difflib
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunelab import stats
from prunelab.data.questions import read_questions
from prunelab.disk.files import sha256_file
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.quality.quality import known

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
        raise InputError("quality.questions needs lm-eval, which is an extra: pip install 'prunelab[tasks]'") from None
    files = {Path(name).stem: Path(name).expanduser() for name in names if name.endswith(".jsonl")}
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
        runner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, prefix_token_id=prefix_token(tokenizer))
        # Not simple_evaluate: it seeds every random generator of the process and spends seconds on `pip freeze`.
        found = lm_eval.evaluate(lm=runner, task_dict=loaded, limit=limit, bootstrap_iters=1000, log_samples=True)
    return [_answers(name, found, files) for name in found["results"]]


def compare(answers: Answers, dense: dict[str, np.ndarray], draws: int) -> dict:
    """The figures of a task with, per metric, the difference to dense and its interval, paired over questions.

    dense: metric → (questions,), and `sha256` → (32,) bytes, of the questions. Raises InputError when dense was asked
    other ones.
    """
    figures = dict(answers.figures)
    if "sha256" in dense and figures["sha256"] != bytes(dense["sha256"]).hex():
        raise InputError(
            f"task {figures['task']}: dense was not asked the same questions; run the reference stage again"
        )
    for metric, mine in answers.scores.items():
        if metric not in dense or len(dense[metric]) != len(mine):
            raise InputError(
                f"task {figures['task']}: dense was not asked the same questions; run the reference stage again"
            )
        diff, lo, hi = stats.paired_bootstrap(mine - dense[metric], draws)
        figures |= {f"{metric}_diff": diff, f"{metric}_diff_lo": known(lo), f"{metric}_diff_hi": known(hi)}
    return figures


def prefix_token(tokenizer) -> int | None:
    """The id of the token that stands before a text without a context; None: lm-eval's own choice.

    That is the beginning or end of a text, whose id may be 0. A tokenizer without special tokens lends its new line,
    or its blank, or, where it knows neither, whatever token it has first.
    """
    if tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None:
        return None
    for character in ("\n", " "):
        ids = tokenizer.encode(character)
        if ids and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return min(tokenizer.get_vocab().values())


def check_lengths(path: Path, rows: list[dict], tokenizer, longest: int | None) -> None:
    """Raises InputError for a choice that a model of `longest` tokens cannot take; a long query loses its beginning.

    Also for a query or choice of which this tokenizer leaves nothing.
    """

    def lengths(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    for row in rows:
        query, where = row["query"].rstrip(), f"{path}, line {row['line']}"
        # As lm-eval cuts them: what the whole has more tokens than the query.
        before, *whole = lengths([query, *(f"{row['query']} {choice}" for choice in row["choices"])])
        counts = [count - before for count in whole]
        if min(counts) < 1 or (query and not before):
            raise InputError(
                f"{where}: expected a query and choices that this model's tokenizer knows, found that it leaves no "
                f"token of {query if query and not before else row['choices'][counts.index(min(counts))]!r}"
            )
        if longest is not None and max(counts) > longest:
            raise InputError(f"{where}: a choice of {max(counts)} tokens, but this model's context is {longest}")


def _of_questions(name: str, rows: list[dict]):
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "multiple_choice",
            # Names of columns, not templates: lm-eval takes a rendered "12" for a number.
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
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


def _answers(name: str, found: dict, files: dict[str, Path]) -> Answers:
    samples = sorted(found["samples"].get(name, []), key=lambda sample: sample["doc_id"])
    figures = {
        "task": name,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "questions": len(samples) or None,
        "sha256": sha256_file(files[name]) if name in files else _hash_of(samples),
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
