"""Drawn cards: what they cost is known, so what a guesser can reach is, too."""

import numpy as np
import pytest

from prunelab.tasks.price import cards

SOME = [cards.card(1, number) for number in range(1, 2001)]


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    return cards.errors([card.price for card in SOME], [card.columns for card in SOME])


def test_who_sees_one_half_errs_at_least_three_times_as_much_as_who_sees_both(errors):
    assert errors["picture"] > 3 * errors["both"]
    assert errors["text"] > 3 * errors["both"]


def test_the_mean_predictor_errs_about_ten_times_the_noise_floor(errors):
    assert 8 < errors["mean"] / errors["both"] < 12
    assert errors["nothing"] < errors["mean"], "the median errs less than the mean"


def test_the_floor_is_the_noise_alone(errors):
    # E|exp(0.08 z) - 1| of a normal z is about 0.08 * sqrt(2 / pi), times the mean of noiseless prices.
    noiseless = np.mean([cards.oracle(card.columns) for card in SOME])
    assert errors["both"] == pytest.approx(noiseless * 0.08 * np.sqrt(2 / np.pi), rel=0.06)


def test_no_other_multiple_of_an_oracle_s_guess_errs_less(errors):
    for sees in ("picture", "text", "nothing"):
        guesses = np.array([cards.oracle(card.columns, sees) for card in SOME])
        prices = np.array([card.price for card in SOME])
        for factor in (0.9, 1.1):
            assert np.abs(prices - factor * guesses).mean() > errors[sees]


def test_a_price_by_hand():
    seen = {"shape": "cross", "colour": "gold", "size": "large", "stars": 5, "letter": "T"}
    written = {"condition": "new", "pack": 12}
    assert cards.oracle(seen | written) == pytest.approx(14 * 3.4 * 1.3 * 1.9 * 1.15 * 1.1 * 1.5 * 3.4)
    assert cards.oracle({**seen, "condition": "new", "pack": "12"}) == cards.oracle(seen | written), "texts of a table"
    # Of 9 conditions and packs the middle one is 1.5 (1 x 1.5 or 1.5 x 1): with noise around each it is the median.
    assert cards.oracle(seen | written, "picture") == pytest.approx(14 * 3.4 * 1.3 * 1.9 * 1.15 * 1.1 * 1.8, rel=0.08)


def test_prices_have_at_most_three_digits():
    highest = 14 * np.prod([max(values.values()) for part in cards.FACTORS.values() for values in part.values()])
    assert 14 * np.exp(-0.24) > 10 and highest * np.exp(0.24) < 999
    assert all(10 <= card.price <= 999 for card in SOME)


def test_a_card_is_the_same_again_whatever_is_drawn_beside_it():
    assert cards.card(1, 7) == SOME[6]
    assert cards.card(2, 7) != SOME[6]
    assert np.array_equal(cards.draw(SOME[6], 64), cards.draw(cards.card(1, 7), 64))
    # Of a run of today: whoever changes how cards are drawn from their seed changes every figure that was published.
    assert [card.price for card in SOME[:6]] == [431, 74, 52, 292, 44, 149]


def test_everything_that_counts_is_on_the_picture_and_nothing_that_is_written():
    base = SOME[0]
    same = cards.draw(base, 64)
    for name, values in cards.FACTORS["picture"].items():
        for value in values:
            other = cards.draw(base._replace(columns=base.columns | {name: value}), 64)
            assert np.array_equal(same, other) == (value == base.columns[name]), f"{name} {value}"
    for name, values in cards.FACTORS["text"].items():
        for value in values:
            assert np.array_equal(same, cards.draw(base._replace(columns=base.columns | {name: value}), 64))


@pytest.mark.parametrize("pixels", [32, 64, 224])
def test_a_card_is_drawn_at_the_size_that_is_asked_for(pixels):
    image = cards.draw(SOME[0], pixels)
    assert image.size == (pixels, pixels) and image.mode == "RGB"
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) >= 4
