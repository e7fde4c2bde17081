"""The section `price`: what contradicts itself is told in one line before anything is read."""

import copy

import pytest

from prunelab.errors import InputError
from prunelab.study import params, pricing
from tests.helpers import studies

CARDS = studies.raw("price-cards")


def told(change) -> str:
    """What reading the cards' study says when `change` was done to its section `price`."""
    settings = copy.deepcopy(CARDS)
    change(settings["price"])
    with pytest.raises(InputError) as error:
        params.of_raw(settings, "params.yaml")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("params.yaml: ")


def put(**changed):
    return lambda price: price.update(changed)


def within(section: str, **changed):
    return lambda price: price[section].update(changed)


TABLE = {"kind": "path", "name": "shop", "pass_on": True}
CASES = [
    (put(prompt="what is it?"), "price.prompt: expected {picture} once, where the picture stands, found it 0 times"),
    (put(prompt="{picture}{picture}"), "price.prompt: expected {picture} once, where the picture stands, found it 2"),
    (put(prompt="{picture} {price}"), "price.prompt: {price} would tell the model the answer; take it out"),
    (put(prompt="{picture} {"), "price.prompt: '{picture} {': single '{' encountered in format string; write a brace"),
    (put(prompt="{picture} {}"), "price.prompt: '{picture} {}': expected the name of a column in every pair of braces"),
    (put(prompt="{picture} {pack:3}"), "price.prompt: '{picture} {pack:3}': expected {pack} without a format"),
    (put(answer="a lot"), "price.answer: expected {price} once, where the price is read, found it 0 times"),
    (put(answer="{picture} {price}"), "price.answer: {picture} belongs into the prompt; an answer is text"),
    (put(answer="{pack} {price}"), "price.answer: expected words between {pack} and {price} by which the price"),
    (put(answer="{price:3}"), "price.answer: '{price:3}': expected {price} without a format; only {price:03} has one"),
    (put(tabular=["price"]), "price.tabular: 'price' is the answer itself; take it out"),
    (put(tabular=["pack", "pack"]), "price.tabular: pack stands there twice; every entry once"),
    (put(cards=None), "price.cards: expected count, pixels and seed with rows.kind: cards; fill it in"),
    (put(rows=TABLE), "price.cards: of no use with rows.kind: path; set null"),
    (put(header=["a", "b"]), "price.header: cards are no table; leave header, delimiter and decimal out"),
    (within("rows", name="x"), "price.rows.name: cards are drawn here and come from nowhere; leave it out"),
    (put(rows={"kind": "path", "pass_on": True}), "price.rows.name: kind: path needs one; only cards have none"),
    (put(rows=TABLE | {"kind": "url", "name": "http://x/y.csv"}), "price.rows.sha256: url 'http://x/y.csv' is pinned"),
    (put(rows=TABLE | {"kind": "hub", "name": "me/x"}), "price.rows.files: hub 'me/x': expected a glob"),
    (put(rows=TABLE | {"pictures": "*.png"}), "price.rows.pictures: of path sources all files are at hand"),
    (within("rows", pass_on=None), "price.rows.pass_on: input should be a valid boolean"),
    (within("rows", passon=True), "price.rows.passon: unknown key (did you mean 'pass_on'?)"),
    (within("columns", picture="{price}.png"), "price.columns.picture: '{price}.png': expected columns that name"),
    (within("split", test_percent=95), "price.split.test_percent: input should be less than or equal to 90, found 95"),
    (within("split", test_percent=60, validation_percent=40), "price.split: validation_percent and test_percent"),
    (within("split", validation_percent=0), "price.split.validation_percent: input should be greater than or equal"),
    (within("tower", patch=7), "price.tower.patch: 7 does not divide pixels 48"),
    (within("tower", heads=5), "price.tower.heads: 5 does not divide width 64"),
    (put(delimiter=";;"), "price.delimiter: ';;': expected one character, or whitespace"),
    (put(encoding="utf8000"), "price.encoding: there is no encoding 'utf8000' (did you mean 'utf-8'?)"),
    (put(encoding="base64"), "price.encoding: there is no encoding 'base64'"),
    (put(decimal=";"), "price.decimal: input should be '.' or ','"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CASES)
def test_a_contradiction_is_one_line_that_begins_with_its_key(change, expected):
    assert told(change).startswith(expected)


def test_columns_that_the_header_has_not_are_told_without_reading_a_row():
    def houses(price):
        price.update(cards=None, rows=TABLE, header=["rooms", "area", "price"], prompt="{picture} {romms}:", tabular=[])
        price["columns"] = {"picture": "{row}.png", "price": "price", "item": None}

    assert told(houses).startswith(
        "price.prompt: there is no column 'romms' in price.header (did you mean 'rooms'?); it has: rooms, area, price"
    )


def test_names_in_braces_are_found_in_their_order():
    assert pricing.placeholders("{picture} {a b}: {{x}} {price:03}") == ["picture", "a b", "price"]
    assert pricing.placeholders("nothing") == []


def test_the_settings_know_which_columns_they_need_and_why():
    section = studies.raw("price-houses")["price"]
    used = pricing.Price.model_validate(section).used()
    assert used == {
        "price": "columns.price", "bedrooms": "prompt", "bathrooms": "prompt", "area": "prompt",
    }, "zip is for nobody, row needs no column"  # fmt: skip
