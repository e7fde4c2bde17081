"""The sections of params.yaml, one class each: which keys there are, and what each may hold by itself.

The section `fetch` is in sources.py, `train.tracker` in tracking.py. What sections must agree on with each other is
checked in params.py, which reads the file.
"""

import functools
import math
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS, allocation_of, contradiction
from prunelab.study.fields import (
    Count,
    Fraction,
    Length,
    NotNegative,
    Number,
    Positive,
    Seconds,
    Section,
    Seed,
    Tokens,
    Whole,
    distinct,
    known_method,
    known_rate,
    known_recipe,
)
from prunelab.study.tracking import Tracker

# What train.config may not say, because another setting does, and why.
DECIDED_ELSEWHERE = {
    "vocab_size": "the letters of the text decide it",
    "dtype": "train.precision decides how training computes, and weights are fp32",
    "torch_dtype": "train.precision decides how training computes, and weights are fp32",
    "model_type": "train.architecture says it",
    "architectures": "train.architecture says it",
    "return_dict": "the trainer decides it",
}


class Train(Section):
    start: Literal["random", "fetched"]
    architecture: str | None
    config: dict[str, Any]
    tokenizer: Literal["characters", "fetched"]
    context: Length
    epochs: Whole
    windows_per_epoch: Count | None
    batch_size: Count
    learning_rate: Positive
    min_learning_rate: NotNegative
    warmup_steps: Whole
    weight_decay: NotNegative
    beta2: Fraction
    max_grad_norm: Positive
    precision: Literal["auto", "fp32", "bf16"]
    threads: Count | None
    share_minutes: Positive | None
    parameters: Literal["full", "lora"]
    lora_rank: Count
    evaluate_every_epochs: Count
    validation_windows: Count | None
    early_stopping_patience: Count | None
    tracker: Tracker

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole training; None where the length of the text decides."""
        if not self.epochs:
            return 0
        return self.windows_per_epoch and self.epochs * math.ceil(self.windows_per_epoch / self.batch_size)

    @model_validator(mode="after")
    def _starts_somewhere(self):
        if self.start == "fetched":
            # They would decide nothing, and whoever reads them believes that they do.
            # (`architecture` may stand there: the stage fetch tells what the model is.)
            ignored = {"config": ({}, "{}"), "tokenizer": ("fetched", "fetched")}
            for key, (nothing, written) in ignored.items():
                if (value := getattr(self, key)) != nothing:
                    raise ValueError(f"{key}: {value!r} is ignored with start: fetched; set {key}: {written}")
            return self
        if self.parameters == "lora":
            raise ValueError("parameters: lora adds to what was learnt before; with start: random set full")
        if self.epochs == 0:
            raise ValueError("epochs: 0 leaves a random model untrained; set train.start: fetched or epochs >= 1")
        if self.tokenizer == "fetched":
            raise ValueError("tokenizer: fetched needs train.start: fetched; allowed with random: characters")
        if self.architecture is None:
            raise ValueError("architecture: null needs train.start: fetched; with random name one, such as gpt2")
        for key, value in self.config.items():
            if key in DECIDED_ELSEWHERE:
                raise ValueError(f"config.{key}: {DECIDED_ELSEWHERE[key]}; leave it out")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"config.{key}: {value} is no finite number")
        return self

    @model_validator(mode="after")
    def _fits_its_length(self):
        tracker = self.tracker
        for key, nothing in (("window", "null"), ("windows", "{}")):
            if getattr(tracker, key) and self.early_stopping_patience:
                raise ValueError(
                    f"tracker.{key} counts back from the last tick, which early stopping leaves unknown; "
                    f"set tracker.{key}: {nothing} or early_stopping_patience: null"
                )
        if self.epochs == 0:
            return self  # nothing is trained: what follows has no say
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps: {self.warmup_steps} is more than the {self.steps} steps of the training")
        whole = self.epochs if tracker.tick == "epoch" else self.steps
        if whole is not None and tracker.every > whole:
            raise ValueError(
                f"tracker.every: {tracker.every} is more than the training has of tick: {tracker.tick} ({whole}), "
                "so the weights would have no history"
            )
        return self


class Calibrate(Section):
    samples: Count
    length: Length
    seed: Seed
    propagate: Literal["pruned", "dense"]
    batch_tokens: Count
    precision: Literal["auto", "fp32", "bf16"]
    hidden_states: Literal["memory", "disk"]
    owl_outlier_multiple: Annotated[Number, Field(gt=1)]
    owl_span: Annotated[Number, Field(gt=0, lt=0.5)]


class Gradual(Section):
    begin_percent: Annotated[int, Field(ge=0, lt=100, strict=True)]
    end_percent: Annotated[int, Field(ge=1, le=100, strict=True)]
    every_steps: Count

    @model_validator(mode="after")
    def _in_order(self):
        if self.begin_percent >= self.end_percent:
            raise ValueError(f"begin_percent: {self.begin_percent} must be below end_percent: {self.end_percent}")
        return self


class Cells(Section):
    methods: Annotated[
        list[Annotated[str, AfterValidator(known_method)]], Field(min_length=1), AfterValidator(distinct)
    ]
    rates: Annotated[list[Annotated[Any, AfterValidator(known_rate)]], Field(min_length=1), AfterValidator(distinct)]
    then: Literal["recovered", "retrained"] | None


class Prune(Section):
    methods: Annotated[
        list[Annotated[str, AfterValidator(known_method)]], Field(min_length=1), AfterValidator(distinct)
    ]
    rates: Annotated[list[Annotated[Any, AfterValidator(known_rate)]], Field(min_length=1), AfterValidator(distinct)]
    allocation: Literal["uniform", "global", "sigma", "owl"]
    scope: Literal["blocks", "attention", "mlp"]
    towers: Annotated[list[Literal["language", "vision"]], Field(min_length=1), AfterValidator(distinct)]
    checkpoint: Literal["last", "best"]
    further: Annotated[list[Annotated[str, AfterValidator(known_recipe)]], AfterValidator(distinct)]
    cells: list[Cells]
    gradual: Gradual | None

    @functools.cached_property
    def cell_variants(self) -> list[variants.Variant]:
        """The rows of `cells`, in their order, each once; what is a row of its own anyhow is not among them."""
        ids = [
            "-".join(filter(None, (method, str(rate), part.then)))
            for part in self.cells
            for method in part.methods
            for rate in part.rates
        ]
        rows = {f"{method}-{rate}" for method in self.methods for rate in self.rates} | set(self.further)
        return [variants.parse(identifier) for identifier in dict.fromkeys(ids) if identifier not in rows]

    @model_validator(mode="after")
    def _possible(self):
        product = [variants.make(method, rate) for method in self.methods for rate in self.rates]
        further = [variants.parse(identifier) for identifier in self.further]
        for variant in [*product, *self.cell_variants, *(one for one in further if one.prunes == "mask")]:
            entry = "-".join(filter(None, (variant.method, variant.allocation)))
            allocation = allocation_of(variant.method, variant.allocation, self.allocation)
            if problem := variants.contradiction(variant.rate, allocation):
                raise ValueError(f"{entry} at {problem}")
            if problem := contradiction(variant.method, variant.rate, allocation):
                raise ValueError(f"{entry}: {problem}")
            if METHODS[variant.method].trains and self.gradual is None:
                raise ValueError(f"gradual: {entry} prunes while it trains; fill this section in")
        for variant in further:
            if variant in product:
                raise ValueError(f"further: {variant.id!r} is made by methods and rates already; leave it out")
        if "dense-small" in self.further and not any(variant.prunes == "structure" for variant in further):
            raise ValueError(
                "further: dense-small has the size of the first removed structure in this list, and there is none; "
                "add one, such as mlp-width-50"
            )
        return self


class StructureSection(Section):
    round_to: Count


class Recover(Section):
    tokens: Tokens
    source: Literal["data", "teacher"]
    parameters: Literal["full", "lora"]
    lora_rank: Count
    learning_rate: Positive
    weight_decay: NotNegative
    batch_size: Count
    validation_windows: Count


class Retrain(Section):
    steps: Count
    learning_rate: Positive
    evaluate_every: Count
    validation_windows: Count


class Quantise(Section):
    group: Literal[32, 64, 128, 256]  # the widths that torch's int4 kernel knows
    head: Literal["int8", "int4"]


class Robustness(Section):
    texts: Whole
    kinds: Annotated[list[Literal["typos", "drop", "case"]], Field(min_length=1), AfterValidator(distinct)]
    strengths_percent: Annotated[
        list[Annotated[int, Field(ge=1, le=100, strict=True)]], Field(min_length=1), AfterValidator(distinct)
    ]
    seed: Seed


class Samples(Section):
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(distinct)]
    tokens: Count
    temperature: Annotated[Number, Field(ge=0.01, le=100)]  # beyond, logits overflow or all that is left is noise
    seeds: Annotated[list[Seed], AfterValidator(distinct)]
    chat: bool


class Questions(Section):
    names: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(distinct)]
    limit: Count | None
    shots: Whole | None
    chat: bool | Literal["auto"]

    @model_validator(mode="after")
    def _can_be_told_apart(self):
        for name in self.names:
            if re.search(r"\.(json|jsonl|ndjson|csv|tsv|parquet|txt|gz)$", name.lower()) and not name.endswith(
                ".jsonl"
            ):
                raise ValueError(f"names: {name!r} is no task; the name of a file of questions ends in .jsonl")
        if len({PurePath(name).name.removesuffix(".jsonl") for name in self.names}) < len(self.names):
            raise ValueError(f"names: two tasks of one name among {self.names}; give one of the files another name")
        if self.shots is not None and self.names and all(name.endswith(".jsonl") for name in self.names):
            raise ValueError(
                f"shots: {self.shots} says nothing of files of questions, whose queries hold what is to stand before "
                "them; set null"
            )
        return self


class Quality(Section):
    context: Length
    max_windows: Count | None
    kl_windows: Whole
    batch_tokens: Count
    bootstrap_draws: Count
    robustness: Robustness
    samples: Samples
    questions: Questions
    texts: Annotated[list[str], AfterValidator(distinct)]
    texts_windows: Count
    texts_context: Length | None
    also_contexts: Annotated[list[Length], AfterValidator(distinct)]

    @model_validator(mode="after")
    def _other_windows_are_others(self):
        if self.context in self.also_contexts:
            raise ValueError(f"also_contexts: {self.context} is `context` already; leave it out")
        return self


class Efficiency(Section):
    device: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    methods: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(distinct)]
    within_percent: Positive
    seconds: Seconds
    prompt_tokens: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    batch_sizes: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    output_tokens: Length
    threads: Count | None


def _known_runtime(name):
    if name in ("int8", "int8-compile"):
        raise ValueError(
            f"{name!r} is a row now and no runtime: put dense-int8, or <variant>-int8, into prune.further"
            + (", name it in runtimes.variants, and take the runtime compile" if name != "int8" else "")
        )
    return name


class Runtimes(Section):
    variants: Annotated[list[str], AfterValidator(distinct)]
    names: Annotated[
        list[Annotated[Literal["compile", "semi-structured", "onnx"], BeforeValidator(_known_runtime)]],
        AfterValidator(distinct),
    ]
    seconds: Seconds


class Energy(Section):
    seconds: Seconds
    window_seconds: Seconds
    idle_seconds: Seconds
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    grams_per_kwh: Positive
    grams_source: str
    litres_per_kwh: Positive
    litres_source: str


class Report(Section):
    title: str
    sharp_rise_percent: Positive


class Export(Section):
    onnx: bool
