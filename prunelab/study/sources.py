"""The section `fetch` of params.yaml: where texts and a model come from, and how a text is split."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from prunelab.errors import without_secrets
from prunelab.study.fields import Count, Percent, Section, Seed

DRAWN = ("arithmetic",)  # what prunelab/data/drawn.py can draw


class Source(Section):
    """Where a text or a model comes from."""

    kind: Literal["wheel", "url", "hub", "path"]
    name: Annotated[str, Field(min_length=1)]  # name==version | URL | data set or model id | file, folder or archive
    sha256: str | None = None  # needed for a wheel and a URL; of a folder or hub source that of its `sha256sum` listing
    files: str | None = None  # which of its files, a glob; null: those that look like text, or like a model
    revision: str | None = None  # hub: a branch, tag or commit
    licence: str | None = None  # where the source doesn't tell


class Model(Source):
    """A pretrained model."""

    # Of the hub: the commit whose Python code, which came with the model, is run; read it first. null: none is run.
    remote_code: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _grants_what_it_names(self):
        if self.remote_code is not None and self.kind != "hub":
            raise ValueError(f"remote_code: a commit of the hub, found kind: {self.kind}; leave it out")
        if self.remote_code is not None and self.revision not in (None, self.remote_code):
            raise ValueError(f"revision: {self.revision!r} is not the commit of remote_code; leave it out")
        return self


class Text(Source):
    """A source of text; a document is a text file or a row of a table."""

    strip: Literal["markdown", "turns", "none"] = "none"  # turns: conversations in YAML, a turn a line
    column: str | None = None  # of a table: where its text is; null: "text"
    max_documents: Count | None = None  # only so many, in the order of their names


class FurtherText(Text):
    """A text that models are judged by and learn nothing from. It may be drawn here instead of brought."""

    kind: Literal["wheel", "url", "hub", "path", "drawn"]
    seed: Seed | None = None  # of what is drawn

    @model_validator(mode="after")
    def _drawn_or_brought(self):
        if self.kind != "drawn":
            if self.seed is not None:
                raise ValueError(f"seed: {self.seed} says nothing of kind: {self.kind}, which is brought; leave it out")
            return self
        if self.name not in DRAWN:
            raise ValueError(f"name: nothing called {self.name!r} can be drawn; allowed: {', '.join(DRAWN)}")
        if self.seed is None:
            raise ValueError(f"seed: {self.name} is drawn and needs one; set a number")
        given = self.model_fields_set - {"kind", "name", "seed", "licence"}
        if given:
            raise ValueError(f"{sorted(given)[0]}: says nothing of kind: drawn; leave it out")
        return self


class Split(Section):
    by: Literal["document", "position", "file"]
    validation_percent: Percent
    test_percent: Percent
    train_characters: Count | None
    seed: Seed

    @model_validator(mode="after")
    def _possible(self):
        if self.by == "file" and (self.validation_percent or self.test_percent):
            raise ValueError("by: file takes the parts as they are; set validation_percent and test_percent to 0")
        if self.by != "file" and self.validation_percent == 0:
            raise ValueError("validation_percent: 0 leaves no validation text; expected 1 or more (only test may be 0)")
        if self.validation_percent + self.test_percent >= 100:
            raise ValueError("validation_percent and test_percent leave nothing for train; expected a sum below 100")
        return self


def _text_name(name: str) -> str:
    # Results have the columns loss_<name>, and others such as loss_diff and loss_c128.
    if not re.fullmatch(r"[a-z]+", name) or name == "diff":
        raise ValueError(f"{name!r} is no name of a text; expected small letters alone, such as code")
    return name


class Fetch(Section):
    text: Text | None  # null: the task brings its own data
    split: Split | None
    calibration: Text | None = None  # null: post-training methods calibrate on the train text
    texts: dict[Annotated[str, AfterValidator(_text_name)], FurtherText]
    model: Model | None
    remote: Annotated[str, Field(min_length=1)] | None  # DVC's, for what was fetched; null: its default

    @model_validator(mode="after")
    def _can_be_brought(self):
        for key in ("text", "calibration", "model"):
            source = getattr(self, key)
            if source is not None:
                require_bringable(f"{key}.", source, needs_files=key != "model")
        for name, source in self.texts.items():
            require_bringable(f"texts.{name}.", source, needs_files=True)
        return self


def require_bringable(within: str, source: Source, needs_files: bool) -> None:
    """Raises ValueError for a source that cannot be brought as it stands; `within` is put before its keys.

    needs_files: whether a hub source has to say which of its files are meant.
    """
    if source.kind == "url" and without_secrets(source.name) != source.name:
        raise ValueError(
            f"{within}name: expected an address without a log-in or key, because it stands in results and reports, "
            f"found one in {without_secrets(source.name)}; download the file yourself and take kind: path"
        )
    found = f"{within}{{}}: {source.kind} {source.name!r}"
    if source.kind in ("wheel", "url") and source.sha256 is None:
        raise ValueError(
            f"{found.format('sha256')} is pinned by its hash and has none; download it once and write down "
            "what sha256sum says"
        )
    if source.kind != "hub" and source.revision is not None:
        raise ValueError(f"{found.format('revision')} has none; only hub sources do; leave it out")
    if source.kind == "wheel" and not re.fullmatch(r"[\w.-]+==[\w.!+-]+", source.name):
        raise ValueError(f"{found.format('name')}: expected name==version, because a wheel is pinned")
    if source.kind == "hub" and needs_files and source.files is None:
        raise ValueError(f"{found.format('files')}: expected a glob that says which files of the data set")
