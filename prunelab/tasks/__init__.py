"""What a study is about: a folder a task, each a module that offers exactly the names below, and nothing else.

Stages ask `tasks.of(settings.task)` and hand on what it gives; rooms below never know which task it is. A module is
light to import (no torch, transformers or PIL): each function imports what it needs. `dense` and `data` are the folders
of the dense model and of the stage fetch; InputError where something is not as it must be.

    HEADLINE                                     the figure that models are judged by, a Headline, from which
                                                 tables, charts, verdicts, limits and the choice of what to deploy
                                                 take column, name, unit and which way is better
    MODELS                                       what may be fetched: "causal" | "picture" (models.inspection)
    check(settings)                              refuses what only this task knows to be wrong, before anything runs
    prepare(settings, out)                       stage fetch, but for the model: writes folders with a manifest.json
                                                 into out, and prints what it found
    start(settings, data, seed)                  → training.examples.Start: where training begins
    examples(settings, processor, data, seed)    → training.examples.Examples: what is trained on, in which order
    beside(settings, data, model)                writes what the task needs beside a model that was trained or taken, if
                                                 anything, into its folder
    files(settings, data)                        → the files that decide start and examples: in the key of checkpoints
    samples(settings, dense, data, seed)         → (calibration.samples.Samples, facts for calibration.json)
    recovery(settings, dense, data, seed)        → recovery.Lessons: what a pruned model is fine-tuned on
    reference(settings, dense, data, probes, out)
                                                 stage reference: quality.json and reference.safetensors into out
    judge(settings, name, model, reference, probes, out)
                                                 stage quality: quality.json and windows.safetensors of the variant
                                                 `name` in folder model, against the folder that `reference` wrote;
                                                 probes: the folder of further texts and files of questions
    prompt(settings, dense, tokens, batch)       → {"input_ids": (batch, tokens), …}: what is served to be timed. Of the
                                                 dense folder alone: other data of the same model measures nothing anew
    sections(study, rows)                        → further sections of the report, of prunelab/fragments.py

A task that needs settings has a section of its own in params.yaml, as price has, which is null for the others.
"""

import importlib
import re
from typing import NamedTuple

from prunelab.study.tasks import NAMES

__all__ = ["CONTRACT", "NAMES", "Headline", "Paper", "headline", "of"]

CONTRACT = (
    "HEADLINE", "MODELS", "check", "prepare", "start", "examples", "beside", "files", "samples", "recovery",
    "reference", "judge", "prompt", "sections",
)  # fmt: skip


class Paper(NamedTuple):
    """What arXiv 2502.17071 says of a headline figure: percent of the weights up to which pruning makes it better, and
    past which it gets worse sharply."""

    moderate: int
    sharp_past: int


class Headline(NamedTuple):
    """The figure that models of a task are judged by. It lies above zero, because limits are percent of dense's.

    quality.json holds it as `column`, and its difference to dense as `<column>_diff`, `_diff_lo` and `_diff_hi`;
    windows.safetensors holds a tensor of that name, (items,), whose mean it is. Rows of results have
    `<column>_increase_percent` and its ends besides, in percent of dense's: above zero where the number is larger.
    """

    column: str
    name: str  # in sentences
    unit: str  # `nats a token`, or where the settings say it `{settings.price.currency}`
    form: str  # how its values are told: `.4f`
    lower_is_better: bool = True
    items: str = "items"  # what intervals are paired over
    comparable: str = ""  # a sentence: what two of them must have in common to be compared
    paper: Paper | None = None  # None: nothing, or the task's own sections hold it against that

    @property
    def sign(self) -> int:
        """What a larger number is worth: 1 worse, -1 better."""
        return 1 if self.lower_is_better else -1

    @property
    def title(self) -> str:
        return self.name[0].upper() + self.name[1:]

    @property
    def short_unit(self) -> str:
        """`nats a token` → `nats/token`, for the head of a column."""
        return self.unit.replace(" a ", "/")

    @property
    def bare_unit(self) -> str:
        """`nats a token` → `nats`."""
        return self.unit.partition(" a ")[0]

    @property
    def brief(self) -> str:
        """`.4f` → `.3f`: the form where a line tells one number."""
        return re.sub(r"\.(\d+)", lambda digits: f".{max(0, int(digits[1]) - 1)}", self.form)

    @property
    def better(self) -> str:
        return "lower" if self.lower_is_better else "higher"

    @property
    def worse(self) -> str:
        return "higher" if self.lower_is_better else "lower"

    @property
    def worsens(self) -> str:
        """`rise`: what it does when a model gets worse."""
        return "rise" if self.lower_is_better else "fall"

    @property
    def improves(self) -> str:
        return "lower" if self.lower_is_better else "raise"

    @property
    def beyond(self) -> str:
        """`above`: where a worse one lies, seen from dense's."""
        return "above" if self.lower_is_better else "below"

    @property
    def within(self) -> str:
        """`below`: where a better one lies."""
        return "below" if self.lower_is_better else "above"

    @property
    def diff(self) -> str:
        """The column of its difference to dense; `_lo` and `_hi` behind it are the 95 % interval's."""
        return f"{self.column}_diff"

    @property
    def increase_percent(self) -> str:
        """The column of that difference in percent of dense's value; its interval as above."""
        return f"{self.column}_increase_percent"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a row of results that are about it."""
        ends = ("", "_lo", "_hi")
        return (self.column, *(f"{name}{end}" for name in (self.diff, self.increase_percent) for end in ends))


def of(name: str):
    """The module of the task `name`, one of NAMES."""
    return importlib.import_module(f"prunelab.tasks.{name}")


def headline(settings) -> Headline:
    """The headline figure of a study, in the unit that its settings name."""
    task = of(settings.task)
    found = task.HEADLINE
    return found._replace(unit=found.unit.format(settings=settings))
