"""The question sets that ship with the project: their format, and that nothing but knowing gives an answer away."""

import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from prunelab.data.questions import read_questions

FOLDER = Path(__file__).parents[2] / "questions"
FILES = sorted(FOLDER.glob("*.jsonl"))
CHOSEN = [path for path in FILES if path.stem != "short"]


def test_the_sets_are_there():
    assert [path.stem for path in FILES] == ["arithmetic", "first-aid", "reading", "science", "short", "translation"]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in readme for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_set_has_sixty_to_a_hundred_questions_none_of_them_twice(path):
    rows = read_questions(path)
    assert 60 <= len(rows) <= 100
    assert len({row["query"].casefold() for row in rows}) == len(rows)
    assert all(row["query"] == row["query"].strip() and row["query"].endswith(":") for row in rows)


@pytest.mark.parametrize("path", CHOSEN, ids=lambda path: path.stem)
def test_neither_place_nor_length_gives_the_right_choice_away(path):
    rows = read_questions(path)
    assert all(len({choice.casefold() for choice in row["choices"]}) == len(row["choices"]) == 4 for row in rows)
    assert all(choice == choice.strip() for row in rows for choice in row["choices"])
    places = Counter(row["gold"] for row in rows)
    assert set(places) == set(range(4)) and max(places.values()) - min(places.values()) <= 1
    lengths = [[len(choice) for choice in row["choices"]] for row in rows]
    right = sum(one[row["gold"]] for one, row in zip(lengths, rows, strict=True))
    assert 0.9 <= right / (sum(map(sum, lengths)) / 4) <= 1.1
    for extreme in (max, min):  # taking the longest, or the shortest, is no better than guessing
        alone = [
            one.count(extreme(one)) == 1 and one[row["gold"]] == extreme(one)
            for one, row in zip(lengths, rows, strict=True)
        ]
        assert sum(alone) / len(rows) <= 0.3


def test_the_arithmetic_is_right_and_no_other_choice_is():
    operations = {"+": Fraction.__add__, "-": Fraction.__sub__, "×": Fraction.__mul__, "÷": Fraction.__truediv__}
    for row in read_questions(FOLDER / "arithmetic.jsonl"):
        a, operation, b = re.fullmatch(r"Question: What is (\d+) (.) (\d+)\?\nAnswer:", row["query"]).groups()
        result = operations[operation](Fraction(a), Fraction(b))
        assert [Fraction(choice) == result for choice in row["choices"]] == [i == row["gold"] for i in range(4)]


def test_questions_of_a_passage_share_its_beginning():
    passages = Counter(row["query"].partition("\nQuestion:")[0] for row in read_questions(FOLDER / "reading.jsonl"))
    assert set(passages.values()) == {4} and all(name.startswith("Passage: ") for name in passages)


def test_short_answers_are_short_and_not_in_their_question():
    for row in read_questions(FOLDER / "short.jsonl"):
        asked = row["query"].rpartition("Question:")[2].casefold()
        assert all(len(answer.split()) <= 3 for answer in row["answers"])
        assert not any(re.search(rf"\b{re.escape(answer.casefold())}\b", asked) for answer in row["answers"])
