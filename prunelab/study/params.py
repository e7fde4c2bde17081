"""The settings of a study: params.yaml, validated, read once.

`load()` refuses what it does not know in one line that names the key, what is allowed and the nearest match. What only
shows when the model is built and run, which takes seconds instead of milliseconds, is for prunelab/checks.
The YAML is read as DVC reads it (version 1.2: `1e-3` is a number, `on` is a word).
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from prunelab.errors import InputError
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS, STRUCTURES, allocation_of
from prunelab.study.fields import Section, Seed, distinct, nearest
from prunelab.study.sections import (
    Calibrate,
    Efficiency,
    Energy,
    Export,
    Fetch,
    Prune,
    Quality,
    Recover,
    Report,
    Runtimes,
    Source,
    Split,
    StructureSection,
    Text,
    Train,
)

__all__ = ["Settings", "Source", "Split", "Text", "load"]


def _replica(tag: str) -> str:
    if int(tag[1:]) >= 2**32:
        raise ValueError(f"{tag!r} is no seed; expected s0 to s{2**32 - 1}")
    return tag


Replica = Annotated[str, Field(pattern=r"^s(0|[1-9][0-9]*)$"), AfterValidator(_replica)]


class Settings(Section):
    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: Seed
    replicas: Annotated[list[Replica], AfterValidator(distinct)]
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
            needing = [m for m in self.prune.methods if METHODS[variants.split_method(m)[0]].needs_training]
            needing += [f"controls: {control}" for control in self.prune.controls]
            needing += [v for v in self.structure.variants if STRUCTURES[variants.parse(v).method].needs_training]
            needing += ["checkpoint: best"] if self.prune.checkpoint == "best" else []
            if needing:
                raise ValueError(f"prune: {needing[0]} needs a model trained here, but train.epochs is 0")
        return self

    @model_validator(mode="after")
    def _has_time_for_its_schedule(self):
        gradual, steps = self.prune.gradual, self.train.steps
        if gradual and steps and any(METHODS[variants.split_method(m)[0]].trains for m in self.prune.methods):
            begin, end = (round(percent / 100 * steps) for percent in (gradual.begin_percent, gradual.end_percent))
            if begin >= end:
                raise ValueError(
                    f"prune.gradual: {steps} training steps leave none between begin_percent {gradual.begin_percent} "
                    f"and end_percent {gradual.end_percent}"
                )
        return self

    @model_validator(mode="after")
    def _repeats_with_other_seeds(self):
        # A twin under another name would make every interval over seeds too narrow.
        own = {"seed": self.seed}
        if self.train.epochs == 0 and self.calibrate is not None:
            own["calibrate.seed"] = self.calibrate.seed
        for key, seed in own.items():
            if f"s{seed}" in self.replicas:
                raise ValueError(f"replicas: s{seed} is {key} itself, so it would repeat nothing; take other numbers")
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
                if identifier in self.references() and identifier not in known:
                    raise ValueError(
                        f"{key}: {identifier!r} is a row to compare with, which it cannot take; name dense"
                    )
                if identifier not in known:
                    raise ValueError(f"{key}: {identifier!r} is not in this study{nearest(identifier, known)}")
        sparse = [i for i in self.recover.variants if variants.parse(i).method in METHODS]
        if sparse and self.recover.parameters == "lora":
            raise ValueError(f"recover.parameters: lora would fill the zeros of {sparse[0]}; set full")
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
        raw = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's folder, or name a study of studies/") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (YAMLError, ValueError) as error:  # not UTF-8, or a number of thousands of digits
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
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
        return f"{key}: unknown key{nearest(str(location[-1]), known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing; every study file is complete (see params.yaml in the repository)"
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
        if not isinstance(part, str):
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
