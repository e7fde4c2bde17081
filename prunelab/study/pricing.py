"""The section `price` of params.yaml: pictures with their texts and prices, and how a model is asked for a price.

What only the rows themselves can show (a column that is not there, a picture that cannot be read) is told when they
are read, before anything is trained: prunelab/tasks/price.
"""

import codecs
import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from prunelab.errors import nearest
from prunelab.study.fields import Count, Percent, Section, Seed, distinct
from prunelab.study.sources import Source, require_bringable

PICTURE, PRICE, ROW = "picture", "price", "row"  # what a template may hold that need not be a column
WHITESPACE = "whitespace"  # a delimiter: any run of blanks and tabs
Name = Annotated[str, Field(min_length=1)]


def placeholders(template: str) -> list[str]:
    """The names in the braces of a template, in order: `"{picture} {rooms} rooms"` → `["picture", "rooms"]`.

    Doubled braces are braces. Raises ValueError for anything but names in braces; `{price:03}`, a price of at least
    three digits, is the one format that there is.
    """
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:  # "Single '}' encountered in format string"
        raise ValueError(f"{template!r}: {str(error).lower()}; write a brace that is meant as {{{{ or }}}}") from None
    for _, name, form, conversion in fields:
        if not name.strip():
            raise ValueError(f"{template!r}: expected the name of a column in every pair of braces, found none")
        if conversion or (form and not (name == PRICE and form.isascii() and form.isdigit() and form[0] == "0")):
            raise ValueError(
                f"{template!r}: expected {{{name}}} without a format; only {{{PRICE}:03}} has one, at least 3 digits"
            )
    return [name for _, name, _, _ in fields]


class Rows(Source):
    """Where the rows come from: drawn cards, or tables with pictures beside them, in them, or behind addresses."""

    kind: Literal["cards", "wheel", "url", "hub", "path"]
    name: Name | None = None  # of a source as in fetch.text; of cards none
    pictures: str | None = None  # hub: a glob of its pictures; null: they are in the table, or behind addresses
    pass_on: bool  # may pictures and texts be given to others? false: none in the report, and fetch.remote is not DVC's

    @model_validator(mode="after")
    def _comes_from_somewhere(self):
        if self.kind == "cards":
            given = [
                key for key in ("name", "files", "sha256", "revision", "pictures") if getattr(self, key) is not None
            ]
            if given:
                raise ValueError(f"{given[0]}: cards are drawn here and come from nowhere; leave it out")
            return self
        if self.name is None:
            raise ValueError(f"name: kind: {self.kind} needs one; only cards have none")
        if self.pictures is not None and self.kind != "hub":
            raise ValueError(
                f"pictures: of {self.kind} sources all files are at hand; only a hub needs it, leave it out"
            )
        require_bringable("", self, needs_files=True)
        return self


class Cards(Section):
    count: Annotated[int, Field(ge=20, le=10**6, strict=True)]
    pixels: Annotated[int, Field(ge=32, le=1024, strict=True)]  # width and height
    seed: Seed


class Columns(Section):
    """Which columns are what. A name with braces is a template: `"{row}_frontal.jpg"` for pictures named by row."""

    picture: Name  # file beside the table, http(s) address, or the bytes themselves (Parquet of the hub)
    price: Name
    item: Name | None  # what rows of one thing share; all of them stay on one side of the split; null: a row is a thing

    @model_validator(mode="after")
    def _has_a_template_that_can_be_filled(self):
        if "{" in self.picture:
            try:
                names = placeholders(self.picture)
            except ValueError as error:
                raise ValueError(f"picture: {error}") from None
            if PICTURE in names or PRICE in names:
                raise ValueError(f"picture: {self.picture!r}: expected columns that name a file, such as {{{ROW}}}")
        return self


class PriceSplit(Section):
    validation_percent: Annotated[Percent, Field(ge=1)]
    test_percent: Annotated[Percent, Field(ge=1)]
    seed: Seed

    @model_validator(mode="after")
    def _leaves_something(self):
        if self.validation_percent + self.test_percent >= 100:
            raise ValueError("validation_percent and test_percent leave nothing for train; expected a sum below 100")
        return self


class Tower(Section):
    """A CLIP vision tower and a projector, built in front of a causal LM (as LLaVA is)."""

    pixels: Count  # width and height of what it sees
    patch: Count  # pixels of a patch's edge; every patch is a token
    width: Count
    layers: Count
    heads: Count

    @model_validator(mode="after")
    def _fits_together(self):
        if self.pixels % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide pixels {self.pixels}")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self


def _delimiter(value: str | None) -> str | None:
    if value is not None and value != WHITESPACE and (len(value) != 1 or value in '"\r\n'):
        raise ValueError(f"{value!r}: expected one character, or {WHITESPACE}")
    return value


def _encoding(value: str) -> str:
    try:
        "1".encode(value).decode(value)  # a codec that is no text encoding, such as base64, has no decode of bytes
        return codecs.lookup(value).name
    except (LookupError, ValueError):
        known = ("utf-8", "utf-16", "latin-1", "cp1252", "cp1251", "gb18030", "shift_jis", "euc_kr")
        raise ValueError(f"there is no encoding {value!r}{nearest(value, known)}") from None


class Price(Section):
    rows: Rows
    cards: Cards | None = None  # with rows.kind: cards
    columns: Columns
    # Of tables that are text; Parquet says all of it itself, JSON lines all but the encoding.
    header: Annotated[list[Name], Field(min_length=2), AfterValidator(distinct)] | None = None  # null: the first line
    delimiter: Annotated[str | None, AfterValidator(_delimiter)] = None  # null: .csv has commas, .tsv tabs, .txt blanks
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    decimal: Literal[".", ","] | None = None  # of prices that are text; null: only what can be read in one way
    bad_rows: Literal["refuse", "drop"] = "refuse"  # drop: listed with their reasons, counted and told
    prompt: str
    answer: str
    currency: str
    decimals: Annotated[int, Field(ge=0, le=6, strict=True)]
    tabular: Annotated[list[Name], AfterValidator(distinct)]
    split: PriceSplit
    tower: Tower | None
    controls: Literal["every", "dense"] = "every"  # which models are asked without words and with other pictures too

    @model_validator(mode="after")
    def _has_its_cards(self):
        if (self.rows.kind == "cards") != (self.cards is not None):
            raise ValueError(
                f"cards: {'expected count, pixels and seed' if self.cards is None else 'of no use'} with rows.kind: "
                f"{self.rows.kind}; " + ("fill it in" if self.cards is None else "set null")
            )
        if self.rows.kind == "cards" and (self.header or self.delimiter or self.decimal):
            raise ValueError("header: cards are no table; leave header, delimiter and decimal out")
        return self

    @model_validator(mode="after")
    def _asks_and_answers(self):
        told = {}
        for key in ("prompt", "answer"):
            try:
                told[key] = placeholders(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        hidden = {PRICE, self.columns.price}
        if told["prompt"].count(PICTURE) != 1:
            raise ValueError(
                f"prompt: expected {{{PICTURE}}} once, where the picture stands, found it "
                f"{told['prompt'].count(PICTURE)} times in {self.prompt!r}"
            )
        if given := hidden.intersection(told["prompt"]):
            raise ValueError(f"prompt: {{{min(given)}}} would tell the model the answer; take it out")
        if told["answer"].count(PRICE) != 1:
            raise ValueError(
                f"answer: expected {{{PRICE}}} once, where the price is read, found it {told['answer'].count(PRICE)} "
                f"times in {self.answer!r}"
            )
        if PICTURE in told["answer"]:
            raise ValueError(f"answer: {{{PICTURE}}} belongs into the prompt; an answer is text")
        if given := (hidden - {PRICE}).intersection(told["answer"]):
            raise ValueError(f"answer: write {{{PRICE}}} for the number, not {{{min(given)}}}, its column")
        before = None
        for literal, name, _, _ in string.Formatter().parse(self.answer):
            if name == PRICE and before is not None and not literal.strip():
                raise ValueError(
                    f"answer: expected words between {{{before}}} and {{{PRICE}}} by which the price is found, "
                    f"found {self.answer!r}"
                )
            before = name
        return self

    @model_validator(mode="after")
    def _keeps_the_answer_from_its_baseline(self):
        if self.columns.price in self.tabular or PRICE in self.tabular:
            raise ValueError(f"tabular: {self.columns.price!r} is the answer itself; take it out")
        return self

    @model_validator(mode="after")
    def _names_columns_of_its_header(self):
        if self.header is not None:
            require_columns(self, self.header, "price.header")
        return self

    def used(self) -> dict[str, str]:
        """Every column that the settings name, with the key that names it first."""
        found: dict[str, str] = {}
        named = [("columns.price", [self.columns.price])]
        picture = self.columns.picture
        named.append(("columns.picture", placeholders(picture) if "{" in picture else [picture]))
        named.append(("columns.item", [self.columns.item] if self.columns.item else []))
        named += [(key, placeholders(getattr(self, key))) for key in ("prompt", "answer")]
        named.append(("tabular", self.tabular))
        for key, names in named:
            for name in names:
                special = {PICTURE, PRICE} if key in ("prompt", "answer") else set()
                if name not in special | {ROW}:
                    found.setdefault(name, key)
        return found


def require_columns(price: Price, known: list[str], place: str) -> None:
    """Raises ValueError for the first column that the settings name and that is not among the `known` of `place`."""
    for name, key in price.used().items():
        if name not in known:
            shown = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
            raise ValueError(f"{key}: there is no column {name!r} in {place}{nearest(name, known)}; it has: {shown}")
