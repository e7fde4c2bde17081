"""Prompts and answers from a row's columns, and the price read back from what a model wrote."""

import pytest

from prunelab.tasks.price import templates

RECIPE = "Product: {title}, Category: {category}, Full Price: {price}"


def test_columns_are_filled_and_the_picture_s_place_stays():
    filled = templates.prompt("{picture} {rooms} rooms, {area} m², {{new}}:", {"rooms": 3.0, "area": " 1\n2 "})
    assert filled == "{picture} 3 rooms, 1 2 m², {new}:"


def test_a_price_has_its_decimals_and_at_least_the_digits_that_are_asked_for():
    assert templates.answer("{price}", {}, 45.678, 2) == "45.68"
    assert templates.answer("{price:03}", {}, 45.4, 0) == "045"
    assert templates.answer("{price:04} $", {}, 1234.5, 1) == "1234.5 $"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "column 'title' is missing"),
        ({"title": None}, "column 'title' is empty"),
        ({"title": "  "}, "column 'title' is empty"),
        ({"title": float("nan")}, "column 'title' is empty"),
        ({"title": ["a"]}, "expected a text or a number, found list"),
        ({"title": "look: {picture}"}, "holds {picture} itself"),
    ],
)
def test_a_row_without_what_its_prompt_says_is_told(values, reason):
    with pytest.raises(ValueError, match=reason.replace("{", r"\{")):
        templates.prompt("{picture} {title}", values)


def test_the_price_is_read_where_the_template_has_it():
    def read(text: str) -> float | None:
        return templates.price_in(text, RECIPE, "$", 2)

    assert read("Product: Trench coat 2023, Category: COAT, Full Price: 2150.0") == 2150
    assert read("Product: x, Category: y, Full Price:$2,150.00") == 2150
    assert read("Product: 2150") is None
    assert read("Full Price: unknown") is None
    assert templates.price_in(" 045", "{price:03}", "$", 0) == 45
    assert templates.price_in("it is 45", "{price}", "$", 0) is None
    assert templates.price_in("12.50 €.", "{price} €.", "€", 2) == 12.5


def test_what_is_written_is_read_back():
    for price, decimals in ((7, 0), (1234, 0), (0.5, 2), (1234.567, 3), (99999.99, 2)):
        text = templates.answer("about {price} or so", {}, price, decimals)
        assert templates.price_in(text, "about {price} or so", "", decimals) == price
