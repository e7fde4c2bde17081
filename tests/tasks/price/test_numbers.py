"""Prices as people write them: what has one meaning is read, what has two is refused, what is none is told."""

import pytest

from prunelab.tasks.price.bringing import numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("869500", 869500), ("12.50", 12.5), ("12,50", 12.5), ("1,234.50", 1234.5), ("1.234,50", 1234.5),
        ("1 234", 1234), ("1 234,50", 1234.5), ("1\u202f234\u00a0567", 1234567), ("1'234.50", 1234.5),
        ("1’234", 1234), ("1.234.567", 1234567), ("12,34,567", 1234567), ("12,34,567.89", 1234567.89),
        ("1234,567", 1234.567), ("0,123", 0.123), (".99", 0.99), ("$1,234.50", 1234.5), ("US$ 12", 12),
        ("1 234,50 kr", 1234.5), ("Fr. 1'234.-", 1234), ("12,–", 12), ("$ 12.00 USD", 12), ("Rs.12,34,567", 1234567),
        ("1.2e+03", 1200), ("-5", -5), ("−5", -5), ("-$5.25", -5.25), ("$-5.25", -5.25), ("($5.25)", -5.25), ("0", 0),
    ],
)  # fmt: skip
def test_what_has_one_meaning_is_read(text, value):
    assert numbers.of_data(text, "$", None) == pytest.approx(value)


@pytest.mark.parametrize("text", ["1,234", "1.234", "$1,234", "999.999"])
def test_a_mark_that_may_stand_for_either_is_refused_with_both_readings(text):
    with pytest.raises(ValueError, match=r"may be \d+ or \d+\.\d+; say in price\.decimal which"):
        numbers.of_data(text, "$", None)


def test_a_stated_decimal_mark_decides_between_the_readings():
    assert numbers.of_data("1,234", "$", ".") == 1234
    assert numbers.of_data("1,234", "$", ",") == 1.234
    assert numbers.of_data("1.234", "$", ".") == 1.234
    assert numbers.of_data("1.234", "$", ",") == 1234
    for text, decimal in (("12,50", "."), ("1.234,50", "."), ("1,234,567", ","), ("1'234,50", ".")):
        with pytest.raises(ValueError, match="no number with"):
            numbers.of_data(text, "$", decimal)


@pytest.mark.parametrize(
    "text",
    ["free", "", "$", "12-15", "1,234,56", "12.5.3", "12 345 6", "n/a", "12 pieces", "1,23", "12%", "٣", "1.234,567.8"],
)
def test_what_is_no_number_is_no_number(text):
    if text == "1,23":  # two digits behind a comma are cents
        assert numbers.of_data(text, "$", None) == 1.23
        return
    with pytest.raises(ValueError, match="is no number"):
        numbers.of_data(text, "$", None)


def test_a_price_in_another_currency_is_told():
    with pytest.raises(ValueError, match="'€ 12' is in €, and price.currency is"):
        numbers.of_data("€ 12", "$", None)
    assert numbers.of_data("€ 12", "", None) == 12


@pytest.mark.parametrize(
    ("text", "decimals", "value"),
    [
        ("045", 0, 45), (" 869500", 0, 869500), ("1,234", 0, 1234), ("1.234", 2, 1234), ("1.234", 3, 1.234),
        ("$12.50 for you", 2, 12.5), ("12.", 0, 12), ("12, or 13", 0, 12), ("7 11", 0, 7), ("-3", 0, -3), ("0", 0, 0),
        ("12b", 0, None), ("12.5.3", 1, None), ("cheap", 0, None), ("", 0, None), ("price 3", 0, None),
        ("1,234,56", 0, None), ("12 EUR", 0, 12), ("99999…", 0, None), ("12 or so, a…", 0, 12),
    ],
)  # fmt: skip
def test_an_answer_begins_with_its_number_or_has_none(text, decimals, value):
    assert numbers.in_answer(text, "$", decimals) == value
