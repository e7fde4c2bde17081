"""Drawn texts: right sums, enough of them, the same on every machine."""

import itertools
import re

import pytest

from prunelab.data import drawn
from prunelab.errors import InputError
from prunelab.study import params, sources
from tests.helpers import studies


def test_every_sum_is_right():
    text, checked = drawn.arithmetic(3), 0
    for one, sign, other, result in re.findall(r"(\d+) ([+*/-]) (\d+) = (\d+)", text):
        one, other = int(one), int(other)
        expected = {"+": one + other, "-": one - other, "*": one * other, "/": one // max(other, 1)}[sign]
        assert int(result) == expected
        checked += 1
    for more, word, less, answer in re.findall(r"What is (\d+) (plus|minus) (\d+)\? Answer: (\d+)", text):
        assert int(answer) == (int(more) + int(less) if word == "plus" else int(more) - int(less))
        checked += 1
    for had, verb, moved, left in re.findall(r"has (\d+) \w+ and (gets|gives) (\d+) .*has (\d+) \w+\.", text):
        assert int(left) == (int(had) + int(moved) if verb == "gets" else int(had) - int(moved)) > 0
        checked += 1
    for percent, whole, part in re.findall(r"(\d+) % of (\d+) is (\d+)", text):
        assert 100 * int(part) == int(percent) * int(whole)
        checked += 1
    lines = text.split("\n")
    sequences = [line.split(", ") for line in lines if re.fullmatch(r"\d+(, \d+){5}", line)]
    for numbers in sequences:
        assert len({int(b) - int(a) for a, b in itertools.pairwise(numbers)}) == 1
    assert checked + len(sequences) >= len(lines) > 1000  # a product stands there with its quotient


def test_a_drawn_text_is_long_enough_and_the_same_for_a_seed():
    source = sources.FurtherText(kind="drawn", name="arithmetic", seed=1)
    (document,), facts = drawn.documents(source)
    assert facts["bytes"] == len(document.text.encode()) >= 60_000
    assert facts["licence"] and facts["seed"] == 1
    assert facts["sha256"] == "f609fb8b34079333b093b635179e634ec89b5cf2b7f1ccc920643209021aabf1"  # on every machine
    assert drawn.arithmetic(2) != document.text == drawn.arithmetic(1)


def test_what_can_be_drawn_is_what_settings_may_name():
    assert set(drawn.TEXTS) == set(sources.DRAWN)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            {"kind": "drawn", "name": "arithmetics", "seed": 1},
            "nothing called 'arithmetics' can be drawn; allowed",
        ),
        ({"kind": "drawn", "name": "arithmetic"}, "seed: arithmetic is drawn and needs one"),
        ({"kind": "drawn", "name": "arithmetic", "seed": 1, "files": "*"}, "files: says nothing of kind: drawn"),
        ({"kind": "path", "name": "x.txt", "seed": 1}, "seed: 1 says nothing of kind: path"),
    ],
)
def test_what_cannot_be_drawn_is_told(source, line):
    raw = studies.raw("default")
    raw["fetch"]["texts"]["sums"] = source
    with pytest.raises(InputError, match=f"^p: fetch.texts.sums.*{line}"):
        params.of_raw(raw, "p")


@pytest.mark.parametrize(
    ("section", "change", "line"),
    [
        ("quality", {"texts": ["cod"]}, r"quality\.texts: 'cod' is not in fetch\.texts \(did you mean 'code'\?\)"),
        ("quality", {"also_contexts": [64]}, r"quality\.also_contexts: 64 is `context` already"),
        ("fetch", {"texts": {"c128": {"kind": "path", "name": "x"}}}, "'c128' is no name of a text"),
        (
            "fetch",
            {"texts": {"more": {"kind": "wheel", "name": "x==1"}}},
            r"texts\.more\.sha256: wheel 'x==1' is pin",
        ),
    ],
)
def test_texts_that_do_not_fit_the_study_are_told(section, change, line):
    raw = studies.raw("default")
    raw[section] |= change
    with pytest.raises(InputError, match=line):
        params.of_raw(raw, "p")
