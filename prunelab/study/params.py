"""The settings of a study: params.yaml, validated, read once.

`load()` refuses what it does not know in one line that names the key, what is allowed and the nearest match. What only
shows when the model is built and run, which takes seconds instead of milliseconds, is for prunelab/checks.
The YAML is read as DVC reads it (version 1.2: `1e-3` is a number, `on` is a word).
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from prunelab.errors import InputError, nearest
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS, STRUCTURES, allocation_of
from prunelab.recipes.variants import Variant
from prunelab.study import agreeing
from prunelab.study.deploying import Deploy
from prunelab.study.fields import Section, Seed, distinct, known_task
from prunelab.study.pricing import Price
from prunelab.study.sections import (
    Calibrate,
    Efficiency,
    Energy,
    Export,
    Prune,
    Quality,
    Quantise,
    Recover,
    Report,
    Retrain,
    Runtimes,
    StructureSection,
    Train,
)
from prunelab.study.sources import Fetch, FurtherText, Source, Split, Text

__all__ = ["FurtherText", "Settings", "Source", "Split", "Text", "load"]


# What a key was called before, and what became of it.
RENAMED = {
    "replicas": "it is `seeds` now: [s1, s2], where s1 is `seed` itself",
    "prune.controls": "its entries belong into prune.further, as dense-average and dense-best",
    "structure.variants": "its entries belong into prune.further as they are",
    "structure.floor": "it is the entry dense-small of prune.further now, of the first removed structure's size",
    "recover.variants": "its entries belong into prune.further, as <variant>-recovered",
    "runtimes.rows": "its entries belong into prune.further, as dense-int8",
    "quality.tasks": "it is `quality.questions` now",
    "quality.precision": "every row is judged in the precision that it is stored and timed in; for one in bf16 put "
    "dense-bf16 into prune.further",
    "efficiency.unreliable_above_percent": "it is `efficiency.within_percent` now, which decides how long is timed",
    "report.max_loss_increase_percent": "it is `deploy.worse_percent` now",
    "export.max_loss_increase_percent": "it is `deploy.worse_percent` now",
    "deploy.loss_increase_percent": "it is `deploy.worse_percent` now",
    "export.variant": "it is `deploy.variant` now",
}
FIRST_SEED = "s1"


def _tag(tag: str) -> str:
    if int(tag[1:]) >= 2**32:
        raise ValueError(f"{tag!r} is no seed; expected s0 to s{2**32 - 1}")
    return tag


def _begins_with_first(tags: list[str]) -> list[str]:
    # Not "the first of the list, whatever it is called": then a tag put before the others would change theirs.
    if tags[0] != FIRST_SEED:
        raise ValueError(f"{FIRST_SEED} stands first, which means `seed` itself; expected [{FIRST_SEED}, …]")
    return distinct(tags)


Tag = Annotated[str, Field(pattern=r"^s(0|[1-9][0-9]*)$"), AfterValidator(_tag)]


class Settings(Section):
    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    task: Annotated[str, AfterValidator(known_task)]
    seed: Seed
    seeds: Annotated[list[Tag], Field(min_length=1), AfterValidator(_begins_with_first)]
    fetch: Fetch
    price: Price | None
    train: Train
    calibrate: Calibrate | None
    prune: Prune
    structure: StructureSection
    recover: Recover
    retrain: Retrain
    quantise: Quantise
    quality: Quality
    efficiency: Efficiency
    runtimes: Runtimes
    energy: Energy
    deploy: Deploy
    report: Report
    export: Export

    @model_validator(mode="after")
    def _starts_from_what_it_fetches(self):
        if self.train.start == "fetched" and self.fetch.model is None:
            raise ValueError("train.start: fetched, but fetch.model is null; name the model there")
        if self.train.start == "random" and self.fetch.model is not None:
            raise ValueError(
                f"fetch.model: {self.fetch.model.name!r} would be fetched for nothing, because train.start is random; "
                "set fetch.model: null or train.start: fetched"
            )
        if self.calibrate is None and self.fetch.calibration is not None:
            raise ValueError(
                f"fetch.calibration: {self.fetch.calibration.name!r} would be fetched for nothing, because calibrate "
                "is null; set fetch.calibration: null or fill in calibrate"
            )
        return self

    @model_validator(mode="after")
    def _has_history(self):
        if self.train.epochs == 0:
            needing = [variant.id for variant in self.variants() if needs_training(variant)]
            needing += ["checkpoint: best"] if self.prune.checkpoint == "best" else []
            if needing:
                raise ValueError(f"prune: {needing[0]} needs a model trained here, but train.epochs is 0")
        return self

    @model_validator(mode="after")
    def _agrees(self):
        agreeing.readings(self)
        agreeing.cells(self)
        agreeing.schedule(self)
        agreeing.questions(self)
        agreeing.texts(self)
        return self

    @model_validator(mode="after")
    def _repeats_with_other_seeds(self):
        # A twin under another name would make every interval over seeds too narrow.
        own = {"seed": self.seed}
        if self.train.epochs == 0 and self.calibrate is not None:
            own["calibrate.seed"] = self.calibrate.seed
        for key, seed in own.items():
            if f"s{seed}" in self.seeds[1:]:
                raise ValueError(f"seeds: s{seed} is {key} itself, so it would repeat nothing; take other numbers")
        return self

    @model_validator(mode="after")
    def _has_calibration(self):
        if self.calibrate is None:
            needing = [variant.id for variant in self.variants() if self.looks_at_text(variant)]
            if needing:
                raise ValueError(f"calibrate: {needing[0]} looks at calibration text; fill this section in")
        return self

    @model_validator(mode="after")
    def _names_its_own_variants(self):
        known = [variant.id for variant in self.variants()]
        if unknown := [method for method in self.efficiency.methods if method not in self.prune.methods]:
            near = nearest(unknown[0], self.prune.methods)
            raise ValueError(f"efficiency.methods: {unknown[0]!r} is not in prune.methods{near}")
        for key, named in (
            ("runtimes.variants", self.runtimes.variants),
            ("deploy.variant", [self.deploy.variant] if self.deploy.variant else []),
        ):
            for identifier in named:
                if identifier not in known:
                    raise ValueError(f"{key}: {identifier!r} is not in this study{nearest(identifier, known)}")
                if key == "deploy.variant":
                    continue
                if identifier in variants.CONTROLS:
                    raise ValueError(
                        f"{key}: {identifier!r} is a row to compare with, which it cannot take; name dense"
                    )
        sparse = [v.id for v in self.variants() if v.prunes == "mask" and "recovered" in v.steps]
        if sparse and self.recover.parameters == "lora":
            raise ValueError(f"recover.parameters: lora would fill the zeros of {sparse[0]}; set full")
        if "dense-small" in self.prune.further and self.train.start != "random":
            raise ValueError(
                "prune.further: dense-small is trained from scratch, which train.start: fetched is not; leave it out"
            )
        return self

    def further_texts(self) -> dict[str, Source]:
        """The sources of quality.texts, by their names."""
        return {name: self.fetch.texts[name] for name in self.quality.texts}

    def sources(self) -> dict[str, Source]:
        """Everything that is brought from elsewhere to make models of, by its key in its section."""
        found = {key: getattr(self.fetch, key) for key in ("text", "calibration", "model")}
        found["rows"] = self.price.rows if self.price else None
        return {key: source for key, source in found.items() if source is not None}

    @property
    def learns_from(self) -> str:
        """The name of what is trained on and judged by: the text, or a task's own rows."""
        source = self.sources().get("text") or self.sources()["rows"]
        return source.name or source.kind

    def looks_at_text(self, variant: Variant) -> bool:
        """Whether making it needs calibration text."""
        if variant.rounds_by_text:
            return True
        if variant.prunes == "structure":
            return STRUCTURES[variant.method].needs_data
        if variant.prunes == "mask":
            allocation = allocation_of(variant.method, variant.allocation, self.prune.allocation)
            return bool(METHODS[variant.method].needs) or allocation == "owl"
        return False

    def variants(self) -> list[Variant]:
        """Every variant of one seed in the order of the report: dense and what is made of it, method × rate, the
        cells, the rest of prune.further."""
        product = [variants.make(method, rate) for method in self.prune.methods for rate in self.prune.rates]
        further = [variants.parse(identifier) for identifier in self.prune.further]
        unpruned = [variants.parse(variants.DENSE), *(variant for variant in further if variant.rate is None)]
        rest = [variant for variant in further if variant.rate is not None]
        return [*unpruned, *product, *self.prune.cell_variants, *rest]

    def timed_as(self, variant: Variant) -> str | None:
        """The variant whose times this one takes over, None where it is timed itself.

        In eager torch the work doesn't depend on which weights are zero, so masks of one rate are timed once, and those
        of a precision as the dense model in it; nor on how a weight was rounded.
        """
        timed = [f"{method}-{rate}" for method in self.efficiency.methods for rate in self.prune.rates]
        if variant.id == variants.DENSE or variant.id in timed:
            return None
        if variant.precision is not None:
            return next((name for name in variant.same_work if name in self.prune.further), None)
        if not variant.does_the_work_of_dense:
            return None
        return next((name for name in timed if name.endswith(f"-{variant.rate}")), variants.DENSE)

    def like_small(self) -> Variant:
        """The removed structure whose size dense-small gets: the first of prune.further, before anything follows it."""
        return next(variant for variant in self.variants() if variant.prunes == "structure").beginnings[0]

    def tokens_of_recovery(self) -> int:
        """The training tokens that recovered variants of the study get more than others."""
        return self.recover.tokens if any("recovered" in variant.steps for variant in self.variants()) else 0

    def left_open(self) -> dict:
        """What the id of a recipe doesn't say and other entries of prune.further decide, by its id."""
        if "dense-small" not in self.prune.further:
            return {}
        return {"dense-small": {"like": self.like_small().id, "more_tokens": self.tokens_of_recovery()}}

    def seed_of(self, tag: str) -> int:
        """The number behind a seed's tag: `s2` → 2; the first tag is the study's own seed."""
        return self.seed if tag == FIRST_SEED else int(tag[1:])

    def calibration_seed_of(self, tag: str) -> int:
        """The number that draws the calibration text of a seed; of the first that of the section `calibrate`."""
        return self.calibrate.seed if tag == FIRST_SEED else int(tag[1:])


def needs_training(variant: Variant) -> bool:
    """Whether making it needs what only a model trained here has: its history, its average, its best moment."""
    if variant.prunes:
        return (METHODS if variant.prunes == "mask" else STRUCTURES)[variant.method].needs_training
    return variant.id in ("dense-average", "dense-best")


def load(path="params.yaml") -> Settings:
    """The validated settings in `path`. Raises InputError with one line that names the key."""
    return of_text(text_of(path), path)


def text_of(path) -> str:
    """What stands in the file of settings `path`. Raises InputError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's folder, or name a study of studies/") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def of_text(text: str, path) -> Settings:
    """The validated settings in the YAML `text` of `path`. Raises InputError with one line that names the key."""
    from ruamel.yaml import YAML, YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:  # such as a number of thousands of digits
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected sections such as `train:` and `prune:`, found {type(raw).__name__}")
    return of_raw(raw, path)


def of_raw(raw: dict, path) -> Settings:
    """The validated settings that the YAML of `path` holds. Raises InputError as `of_text` does."""
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
        if key in RENAMED:
            return f"{key}: unknown key; {RENAMED[key]}"
        known = _keys_at(location[:-1])
        return f"{key}: unknown key{nearest(str(location[-1]), known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing; params.yaml is complete, and so is a section of a study where the default has null"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message.startswith("Input") else message
    # A check on a whole section says itself what it found; the section would be a page long.
    whole = isinstance(error["input"], dict)
    told = whole or ("'" in message and error["type"] == "value_error")
    found = "" if told else f", found {error['input']!r}"
    if whole and location and re.split(r"[.:]", message)[0] in _keys_at(location):
        return f"{key}.{message}"  # it begins with the key inside that section
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _keys_at(location: list) -> list[str]:
    """The keys that the section at `location` knows."""
    section = Settings
    for part in location:
        if not isinstance(part, str) or part not in section.model_fields:  # such as the name of one of fetch.texts
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
