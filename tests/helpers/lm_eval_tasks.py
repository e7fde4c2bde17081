"""A file of questions as a task of lm-eval: what this project's own scorer is held against."""

import json

from prunelab.quality.answers import library


def task_of(name: str, rows: list[dict]):
    """A task of the library that asks these rows of {query, choices, gold}."""
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


def of_file(model, tokenizer, path, batch=4):
    """(the library's Answers, the log-likelihood of every choice of every question)."""
    rows, found = [json.loads(line) for line in path.read_text().splitlines()], []
    kept = library._of_choices

    def listening(samples):
        found.extend(kept(samples))
        return found

    library._of_choices = listening
    try:
        loaded = {"tasks": {path.stem: task_of(path.stem, rows)}, "groups": {}}
        with library._quiet():
            (answers,) = library.ask(model, tokenizer, loaded, limit=None, shots=None, batch=batch)
    finally:
        library._of_choices = kept
    return answers, found
