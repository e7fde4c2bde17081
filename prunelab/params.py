"""The settings of a study: params.yaml, validated, read once.

`load()` refuses what it does not know in one line that names the key, what is allowed and the nearest match.
The YAML is read as DVC reads it (version 1.2: `1e-3` is a number, `on` is a word).
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prunelab import variants
from prunelab.errors import InputError
from prunelab.methods import METHODS, STRUCTURES, allocation_of, contradiction

Count = Annotated[int, Field(ge=1, strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Percent = Annotated[int, Field(ge=0, le=90, strict=True)]


class Section(BaseModel):
    """A block of params.yaml: unknown keys are refused, missing ones are named, nothing has a hidden default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """Where a text or a model comes from."""

    kind: Literal["wheel", "url", "hub", "path"]
    name: str  # name==version | URL | data set or model id | file, folder or archive
    sha256: str | None = None  # needed for a wheel and a URL; of a folder or hub source that of its `sha256sum` listing
    files: str | None = None  # which of its files, a glob; null: those that look like text, or like a model
    revision: str | None = None  # hub: a branch, tag or commit
    licence: str | None = None  # where the source doesn't tell


class Text(Source):
    """A source of text; a document is a text file or a row of a table."""

    strip: Literal["markdown", "none"] = "none"
    column: str = "text"  # of a table (.jsonl, .parquet): where its text is
    max_documents: Count | None = None  # only so many, in the order of their names


class Split(Section):
    by: Literal["document", "position", "file"]
    validation_percent: Percent
    test_percent: Percent
    seed: int

    @model_validator(mode="after")
    def _possible(self):
        if self.by == "file" and (self.validation_percent or self.test_percent):
            raise ValueError("by: file takes the parts as they are; set validation_percent and test_percent to 0")
        if self.by != "file" and self.validation_percent == 0:
            raise ValueError("validation_percent: 0 leaves no validation text; expected 1 or more (only test may be 0)")
        if self.validation_percent + self.test_percent >= 100:
            raise ValueError("validation_percent and test_percent leave nothing for train; expected a sum below 100")
        return self


class Fetch(Section):
    text: Text
    split: Split
    calibration: Text | None = None  # null: post-training methods calibrate on the train text
    model: Source | None


class Tracker(Section):
    value: Literal["absolute", "signed"]
    weighting: Literal["linear", "sqrt", "uniform", "exponential"]
    beta: Annotated[float, Field(gt=0, le=1)]
    window: Count | None
    tick: Literal["epoch", "steps"]
    every: Count
    trajectories: Annotated[int, Field(ge=0, strict=True)]


class Train(Section):
    start: Literal["random", "fetched"]
    architecture: str
    config: dict[str, Any]
    tokenizer: Literal["characters", "fetched"]
    context: Annotated[int, Field(ge=2, strict=True)]
    epochs: Annotated[int, Field(ge=0, strict=True)]
    windows_per_epoch: Count | None
    batch_size: Count
    learning_rate: Positive
    min_learning_rate: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0, strict=True)]
    weight_decay: Annotated[float, Field(ge=0)]
    beta2: Fraction
    max_grad_norm: Positive
    precision: Literal["auto", "fp32", "bf16"]
    evaluate_every_epochs: Count
    validation_windows: Count | None
    early_stopping_patience: Count | None
    tracker: Tracker

    @model_validator(mode="after")
    def _possible(self):
        if self.start == "random" and self.epochs == 0:
            raise ValueError("epochs: 0 leaves a random model untrained; set train.start: fetched or epochs >= 1")
        if self.start == "random" and self.tokenizer == "fetched":
            raise ValueError("tokenizer: fetched needs train.start: fetched; allowed with random: characters")
        if self.tracker.window and self.early_stopping_patience:
            raise ValueError(
                "tracker.window counts back from the last tick, which early stopping leaves unknown; "
                "set tracker.window: null or early_stopping_patience: null"
            )
        return self


def _method(name: str) -> str:
    base, _ = variants.split_method(name)
    if base in STRUCTURES:
        raise ValueError(f"{name} makes the model smaller and belongs into structure.variants, as {name}-<percent>")
    if base not in METHODS:
        raise ValueError(f"there is no method {name!r}{_nearest(base, METHODS)}; allowed: {', '.join(METHODS)}")
    return name


def _rate(token: int | str) -> int | str:
    variants.parse_rate(token)
    return token


def _distinct(entries: list) -> list:
    doubled = {str(entry) for entry in entries if [str(other) for other in entries].count(str(entry)) > 1}
    if doubled:
        raise ValueError(f"{', '.join(sorted(doubled))} stands there twice; every entry once")
    return entries


class Calibrate(Section):
    samples: Count
    length: Annotated[int, Field(ge=2, strict=True)]
    seed: Annotated[int, Field(ge=0, strict=True)]
    propagate: Literal["pruned", "dense"]
    batch_tokens: Count
    precision: Literal["auto", "fp32", "bf16"]
    hidden_states: Literal["memory", "disk"]
    owl_outlier_multiple: Annotated[float, Field(gt=1)]
    owl_span: Annotated[float, Field(gt=0, lt=0.5)]


class Gradual(Section):
    begin_percent: Annotated[int, Field(ge=0, lt=100, strict=True)]
    end_percent: Annotated[int, Field(ge=1, le=100, strict=True)]
    every_steps: Count

    @model_validator(mode="after")
    def _in_order(self):
        if self.begin_percent >= self.end_percent:
            raise ValueError(f"begin_percent: {self.begin_percent} must be below end_percent: {self.end_percent}")
        return self


class Prune(Section):
    methods: Annotated[list[Annotated[str, AfterValidator(_method)]], Field(min_length=1), AfterValidator(_distinct)]
    rates: Annotated[
        list[Annotated[int | str | float, AfterValidator(_rate)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    allocation: Literal["uniform", "global", "sigma", "owl"]
    scope: Literal["blocks", "attention", "mlp"]
    checkpoint: Literal["last", "best"]
    controls: Annotated[list[Literal["average", "best"]], AfterValidator(_distinct)]
    gradual: Gradual | None

    @model_validator(mode="after")
    def _possible(self):
        for method in self.methods:
            base, own = variants.split_method(method)
            allocation = allocation_of(base, own, self.allocation)
            for rate in self.rates:
                if problem := variants.contradiction(rate, allocation):
                    raise ValueError(f"{method} at {problem}")
                if problem := contradiction(base, rate, allocation):
                    raise ValueError(f"{method}: {problem}")
            if METHODS[base].trains and self.gradual is None:
                raise ValueError(f"gradual: {method} prunes while it trains; fill this section in")
        return self


def _structured(identifier: str) -> str:
    variant = variants.parse(identifier)
    if variant.method not in STRUCTURES:
        raise ValueError(
            f"there is no structure {variant.method!r}{_nearest(variant.method, STRUCTURES)}; "
            f"allowed: {', '.join(STRUCTURES)}, each with -<percent>"
        )
    if variants.parse_rate(variant.rate).sparsity is None or variant.seed_tag:
        raise ValueError(f"{identifier!r}: expected <structure>-<percent>, such as depth-25")
    return identifier


class StructureSection(Section):
    variants: Annotated[list[Annotated[str, AfterValidator(_structured)]], AfterValidator(_distinct)]
    round_to: Count
    floor: Annotated[list[str], Field(max_length=1)]


class Recover(Section):
    variants: Annotated[list[str], AfterValidator(_distinct)]
    tokens: Count
    source: Literal["data", "teacher"]
    parameters: Literal["full", "lora"]
    lora_rank: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Count
    validation_windows: Count


class Robustness(Section):
    texts: Annotated[int, Field(ge=0, strict=True)]
    kinds: Annotated[list[Literal["typos", "drop", "case"]], Field(min_length=1), AfterValidator(_distinct)]
    strengths_percent: Annotated[
        list[Annotated[int, Field(ge=1, le=100, strict=True)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    seed: Annotated[int, Field(ge=0, strict=True)]


class Samples(Section):
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(_distinct)]
    tokens: Count
    temperature: Positive
    seeds: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], AfterValidator(_distinct)]


class Tasks(Section):
    names: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(_distinct)]
    limit: Count | None
    shots: Annotated[int, Field(ge=0, strict=True)] | None


class Quality(Section):
    context: Annotated[int, Field(ge=2, strict=True)]
    max_windows: Count | None
    kl_windows: Annotated[int, Field(ge=0, strict=True)]
    batch_tokens: Count
    precision: Literal["auto", "fp32", "bf16"]
    bootstrap_draws: Count
    robustness: Robustness
    samples: Samples
    tasks: Tasks


class Efficiency(Section):
    seconds: Positive
    prompt_tokens: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    batch_sizes: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    output_tokens: Annotated[int, Field(ge=2, strict=True)]
    threads: Count | None
    unreliable_above_percent: Positive


class Runtimes(Section):
    rows: Annotated[list[Literal["int8"]], AfterValidator(_distinct)]
    variants: Annotated[list[str], AfterValidator(_distinct)]
    names: Annotated[
        list[Literal["compile", "int8", "int8-compile", "semi-structured", "onnx"]], AfterValidator(_distinct)
    ]
    seconds: Positive


class Energy(Section):
    seconds: Positive
    window_seconds: Positive
    idle_seconds: Positive
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    grams_per_kwh: Positive
    grams_source: str


class Report(Section):
    title: str
    max_loss_increase_percent: Positive
    sharp_rise_percent: Positive


class Export(Section):
    variant: str | None
    max_loss_increase_percent: Positive | None
    onnx: bool


class Settings(Section):
    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: Annotated[int, Field(ge=0, strict=True)]
    replicas: Annotated[list[Annotated[str, Field(pattern=r"^s\d+$")]], AfterValidator(_distinct)]
    fetch: Fetch
    train: Train
    calibrate: Calibrate | None
    prune: Prune
    structure: StructureSection
    recover: Recover
    quality: Quality
    efficiency: Efficiency
    runtimes: Runtimes
    energy: Energy
    report: Report
    export: Export

    @model_validator(mode="after")
    def _has_history(self):
        if self.train.epochs == 0:
            needing = [m for m in self.prune.methods if METHODS[variants.split_method(m)[0]].needs_training]
            needing += [f"controls: {control}" for control in self.prune.controls]
            needing += [v for v in self.structure.variants if STRUCTURES[variants.parse(v).method].needs_training]
            if needing:
                raise ValueError(f"prune: {needing[0]} needs a model trained here, but train.epochs is 0")
        return self

    @model_validator(mode="after")
    def _repeats_what_it_can(self):
        once = [*self.structure.variants, *self.recover.variants, *self.structure.floor]
        if self.replicas and once:
            raise ValueError(f"replicas: repeat prune.methods only, and {once[0]} stands beside them; leave one out")
        return self

    @model_validator(mode="after")
    def _has_calibration(self):
        if self.calibrate is None:
            bases = [(name, *variants.split_method(name)) for name in self.prune.methods]
            needing = [
                name
                for name, base, own in bases
                if METHODS[base].needs or allocation_of(base, own, self.prune.allocation) == "owl"
            ]
            needing += [v for v in self.structure.variants if STRUCTURES[variants.parse(v).method].needs_data]
            if needing:
                raise ValueError(f"calibrate: {needing[0]} looks at calibration text; fill this section in")
        return self

    @model_validator(mode="after")
    def _names_its_own_variants(self):
        recovered = [f"{identifier}-{variants.RECOVERED}" for identifier in self.recover.variants]
        own = [variant.id for variant in self.variants() if not variant.seed_tag and variant.id not in recovered]
        small = ["dense-small"] if self.structure.floor else []  # the controls are no folders of their own
        rows = ["dense", *small, *own, *recovered]
        lists = {
            "recover.variants": (self.recover.variants, own),
            "structure.floor": (self.structure.floor, self.structure.variants),
            "runtimes.variants": (self.runtimes.variants, rows),
            "export.variant": ([self.export.variant] if self.export.variant else [], rows),
        }
        for key, (named, known) in lists.items():
            for identifier in named:
                if identifier not in known:
                    raise ValueError(f"{key}: {identifier!r} is not in this study{_nearest(identifier, known)}")
        if self.structure.floor and self.train.start != "random":
            raise ValueError("structure.floor: is trained from scratch, which train.start: fetched is not; set []")
        return self

    def variants(self) -> list[variants.Variant]:
        """Every pruned variant of the study, in the order of params.yaml; recovered ones last."""
        found = []
        for tag in (None, *self.replicas):
            found += [variants.make(method, rate, tag) for method in self.prune.methods for rate in self.prune.rates]
            listed = [variants.parse(identifier) for identifier in self.structure.variants]
            found += [variants.make(variant.method, variant.rate, tag) for variant in listed]
            found += [variants.recovered(variants.parse(identifier), tag) for identifier in self.recover.variants]
        return found

    def references(self) -> list[str]:
        """The ids of the unpruned rows: dense and its controls for every seed; its floor and quantised self once."""
        rows = ["dense", *(f"dense-{control}" for control in self.prune.controls)]
        once = [*(["dense-small"] if self.structure.floor else []), *(f"dense-{row}" for row in self.runtimes.rows)]
        return [*rows, *once, *(f"{row}-{tag}" for tag in self.replicas for row in rows)]

    def seed_of(self, tag: str | None) -> int:
        """The number behind a replica's tag: `s2` → 2; without a tag the study's own seed."""
        return int(tag[1:]) if tag else self.seed


def load(path="params.yaml") -> Settings:
    """The validated settings in `path`. Raises InputError with one line that names the key."""
    from ruamel.yaml import YAML, YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(Path(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's folder, or name a study of studies/") from None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected sections such as `train:` and `prune:`, found {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        # A misspelt key is an unknown key and a missing one; the first already says it all.
        found = sorted(error.errors(), key=lambda one: one["type"] == "missing")
        told = [one for one in found if one["type"] != "missing"] or found
        raise InputError(f"{path}: " + "; ".join(_explain(one) for one in told)) from None


def _explain(error: dict) -> str:
    """One pydantic error as a phrase: the key with its sections, what is wrong, what is allowed."""
    location = [part for part in error["loc"] if part not in ("int", "str", "float")]  # the arms of a union
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        return f"{key}: unknown key{_nearest(str(location[-1]), known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing; every study file is complete (see params.yaml in the repository)"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message.startswith("Input") else message
    # A check on a whole section says itself what it found; the section would be a page long.
    told = isinstance(error["input"], dict) or ("'" in message and error["type"] == "value_error")
    found = "" if told else f", found {error['input']!r}"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _keys_at(location: list) -> list[str]:
    """The keys that the section at `location` knows."""
    section = Settings
    for part in location:
        if not isinstance(part, str):
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def _nearest(word: str, known) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
