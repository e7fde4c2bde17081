"""Corruptions: seeded, nested, of the strength they say; their cost in bits per byte, by hand."""

import itertools
import math

import numpy as np
import pytest

from prunelab.errors import InputError
from prunelab.quality import robustness
from prunelab.quality.windows import PADDING
from prunelab.training.characters import character_tokenizer

TEXT = "Now is the winter of our discontent made glorious summer by this sun of York, and all the clouds. " * 40


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_the_same_seed_corrupts_alike_and_another_one_otherwise(kind):
    assert robustness.corrupt(TEXT, kind, 20, seed=3) == robustness.corrupt(TEXT, kind, 20, seed=3)
    assert robustness.corrupt(TEXT, kind, 20, seed=3) != robustness.corrupt(TEXT, kind, 20, seed=4)
    assert robustness.corrupt(TEXT, kind, 0, seed=3) == TEXT


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_more_strength_leaves_less_of_the_text(kind):
    words = ["".join(letters) for letters in itertools.islice(itertools.permutations("abcdefgh", 5), 0, 6000, 15)]
    kept = []
    for percent in (0, 5, 10, 20, 50):
        found = set(robustness.corrupt(" ".join(words), kind, percent, seed=1).split())
        kept.append(sum(word in found for word in words))
    assert kept[0] == len(words)
    assert all(weaker > stronger for weaker, stronger in itertools.pairwise(kept))


def test_a_stronger_corruption_hits_everything_a_weaker_one_does():
    weak, strong = (robustness.corrupt(TEXT, "case", percent, seed=1).split() for percent in (10, 30))
    clean = TEXT.split()
    hit = [{i for i, word in enumerate(clean) if word != other[i]} for other in (weak, strong)]
    assert hit[0] < hit[1]
    dropped = [robustness.corrupt(TEXT, "drop", percent, seed=1).split() for percent in (10, 30)]
    remaining = iter(dropped[0])
    assert all(word in remaining for word in dropped[1]), "what is left at 30 % is a part of what is left at 10 %"


def test_the_strength_is_the_share_that_is_hit():
    words = TEXT.split()
    assert len(robustness.corrupt(TEXT, "drop", 20, seed=0).split()) / len(words) == pytest.approx(0.8, abs=0.03)
    changed = robustness.corrupt(TEXT, "case", 20, seed=0).split()
    assert np.mean([a != b for a, b in zip(words, changed, strict=True)]) == pytest.approx(0.2, abs=0.03)
    # Half of the typos type a wrong letter; doubled and missing ones even out.
    found = robustness.corrupt(TEXT, "typos", 20, seed=0, letters="#")
    letters = sum(c.isalpha() for c in TEXT)
    assert found.count("#") / letters == pytest.approx(0.1, abs=0.02)
    assert sum(c.isalpha() for c in found) / letters == pytest.approx(1 - 0.05, abs=0.02)  # those replaced


def test_typos_type_only_the_letters_they_are_given_and_leave_other_characters_alone():
    found = robustness.corrupt("1234 5678, (90)!", "typos", 100, seed=0)
    assert found == "1234 5678, (90)!"
    assert set(robustness.corrupt("aaaa aaaa", "typos", 100, seed=0, letters="β")) <= set("aβ ")


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_no_text_becomes_empty(kind):
    for text in ("word", " \n ", "two words"):
        assert robustness.corrupt(text, kind, 100, seed=0) or (kind == "typos" and text == "word")


def test_windows_hold_the_clean_texts_first_and_are_padded_at_the_end():
    tokenizer = character_tokenizer(TEXT + TEXT.upper())
    cut = robustness.corrupted_windows(tokenizer, [TEXT[:30], TEXT[50:80]], 30, ["drop", "case"], [20, 60], seed=1)
    assert cut.tokens.shape == (2 * (1 + 2 * 2), 30)
    assert tokenizer.decode(cut.tokens[0].tolist()) == TEXT[:30]
    dropped = robustness.corrupt(TEXT[:30], "drop", 60, seed=1)
    row = cut.tokens[2 * 2].tolist()
    assert row[len(dropped) :] == [PADDING] * (30 - len(dropped)) and len(dropped) < 30
    assert tokenizer.decode(row[: len(dropped)]) == dropped
    assert cut.bytes[2 * 2] == len(dropped) - 1  # the first character is not scored


def test_a_text_of_which_nothing_is_left_to_score_is_refused():
    with pytest.raises(InputError, match=r"clean at 0 %.*'a'"):
        robustness.corrupted_windows(character_tokenizer(TEXT), ["Now", "a"], 30, ["drop"], [20], seed=1)


def test_a_context_too_small_for_corrupted_text_is_told_with_the_settings_to_change():
    lost = next(seed for seed in range(99) if len(robustness.corrupt("Ki", "typos", 10, seed, letters="ik")) < 2)
    with pytest.raises(InputError) as caught:
        robustness.corrupted_windows(character_tokenizer("Kings"), ["Ki"], 2, ["typos"], [10], lost)
    assert str(caught.value) == (
        "quality.robustness: typos at 10 % leaves less than two tokens of 'Ki'; raise quality.context (a text is a "
        "window of that many tokens, now 2), or switch it off: quality.robustness.texts: 0"
    )


def test_two_tokens_of_one_character_leave_no_byte_to_score():
    class HalvesOfCharacters:
        is_fast = True

        def __call__(self, text, **_):
            places = [(i, i + 1) for i in range(len(text)) for _ in "12"]
            return {"input_ids": [0, 1] * len(text), "offset_mapping": places}

    with pytest.raises(InputError, match="clean at 0 % leaves less than two tokens of '🎉'"):
        robustness.corrupted_windows(HalvesOfCharacters(), ["🎉"], 8, ["drop"], [20], seed=1)


def test_differences_and_rises_by_hand():
    # Two texts of 8 scored bytes; clean 8 ln 2 nats = 1 bit a byte, corrupted 2 and 3; padding counts nothing.
    nats = 8 * math.log(2)
    nll = np.array([[nats / 2, nats / 2], [nats, np.nan], [nats, nats], [nats * 3, np.nan]], dtype=np.float32)
    found = robustness.bits(nll, np.array([8, 8, 8, 8]), cell_count=2)
    assert found == pytest.approx(np.array([[1, 1], [2, 3]]))
    dense = np.array([[0.5, 0.5], [1.5, 2.0]])
    (row,) = robustness.figures(found, dense, ["typos"], [5], draws=200)
    assert (row["kind"], row["strength_percent"], row["texts"]) == ("typos", 5, 2)
    assert row["bits_per_byte"] == pytest.approx(2.5)
    assert row["rise"] == pytest.approx(1.5)  # 1 and 2
    assert row["bits_diff"] == pytest.approx(0.75)  # 2 - 1.5 and 3 - 2
    assert row["bits_diff_lo"] <= 0.75 <= row["bits_diff_hi"]
    assert row["rise_diff"] == pytest.approx(0.25)  # 1 - 1 and 2 - 1.5
    assert row["rise_diff_lo"] <= 0.25 <= row["rise_diff_hi"]


def test_a_ruined_model_rises_less_than_dense_and_is_worse_all_the_same():
    """With random weights left, 5 bits a byte are 5 bits whatever is done to the text."""
    ruined, dense = np.array([[5.0, 5.1], [5.0, 5.2]]), np.array([[1.0, 1.2], [2.0, 2.4]])
    (row,) = robustness.figures(ruined, dense, ["drop"], [20], draws=200)
    assert row["rise_diff_hi"] < 0 < row["bits_diff_lo"]
    assert row["bits_diff"] == pytest.approx(2.9)  # 3 and 2.8
