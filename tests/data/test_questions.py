"""Files of questions: what is one, what is told of a line that is none."""

import pytest

from prunelab.data.questions import read_questions
from prunelab.errors import InputError


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 2: expected {query, choices, gold}"),
        ('{"query": "a", "gold": 0}', "line 2: expected {query, choices, gold}, found 'choices'"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "line 2: .* at least two"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "line 2: gold is 2, .* one of 2"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "line 2: gold is True"),
        ('"a"', "line 2: expected {query, choices, gold}, found a text"),
        ("[]", "line 2: expected {query, choices, gold}, found a JSON array"),
        ('{"query": null, "choices": ["b", "c"], "gold": 0}', "line 2: expected a text as `query`, found null"),
        ('{"query": " \\n", "choices": ["b", "c"], "gold": 0}', "line 2: .* `query` .* nothing but blanks"),
        ('{"query": "a", "choices": "bc", "gold": 0}', "line 2: .* a list of at least two, found a text"),
        ('{"query": "a", "choices": [1, 2], "gold": 0}', "line 2: expected a text as choice 0, found a number"),
        ('{"query": "a", "choices": ["a", null], "gold": 0}', "line 2: expected a text as choice 1, found null"),
        ('{"query": "a", "choices": ["a", 2], "gold": 0}', "line 2: expected a text as choice 1, found a number"),
        (
            '{"query": "a", "choices": ["a", " "], "gold": 0}',
            "line 2: expected a text as choice 1, found nothing in it",
        ),
        ('{"query": "a", "choices": ["b", "c", "b"], "gold": 2}', "line 2: expected one right choice, found 'b' more"),
        ('{"query": "\\ud83d", "choices": ["b", "c"], "gold": 0}', "line 2: expected a text as `query`, found half a"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, complaint):
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"query": "a", "choices": ["b", "c"], "gold": 1}\n' + line)
    with pytest.raises(InputError, match=complaint):
        read_questions(path)


def test_questions_are_read_as_all_texts_are(tmp_path):
    path = tmp_path / "quiz.jsonl"
    odd = '{"query": "a\u2028b\x85c\\r\\nd", "choices": ["\ufeffb", "c", "c"], "gold": 0}'
    path.write_bytes(f'\ufeff{{"query": "", "choices": ["b", "c"], "gold": 1}}\r\n\r\n{odd}\n\n'.encode())
    assert read_questions(path) == [
        {"query": "", "choices": ["b", "c"], "gold": 1, "line": 1},
        {"query": "a\u2028b\x85c\nd", "choices": ["b", "c", "c"], "gold": 0, "line": 3},  # equal wrong ones do no harm
    ]
    path.write_bytes(b'{"query": "", "choices": ["b", "c"], "gold": 1}\n{"query": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"quiz\.jsonl: expected UTF-8 text, found byte 0xe9 in line 2"):
        read_questions(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"query": "a", "choices": ["b", "c"], "gold": 1}', "line 2: expected an answer to write as before"),
        ('{"query": "a", "answer": 3}', "line 2: expected a text as answer 0, found a number"),
        ('{"query": "a", "answer": " "}', "line 2: expected answers of one line"),
        ('{"query": "a", "answers": []}', "line 2: expected `answers` to be a list of at least one"),
        ('{"query": "a", "answers": "b"}', "line 2: expected `answers` to be a list"),
        ('{"query": "a", "answers": ["b\\nc"]}', "line 2: expected answers of one line"),
        ('{"query": "a", "answer": "b", "answers": ["c"]}', "line 2: expected `answer` or `answers`, found both"),
        ('{"answer": "b"}', "line 2: expected {query, choices, gold}, found 'query' missing"),
    ],
)
def test_a_line_without_an_answer_to_write_is_named(tmp_path, line, complaint):
    path = tmp_path / "short.jsonl"
    path.write_text('{"query": "a", "answers": ["b", "bee"]}\n' + line)
    with pytest.raises(InputError, match=complaint):
        read_questions(path)
    path.write_text('{"query": "a", "answers": ["b", "bee"]}\n{"query": "c", "answer": "d"}')
    assert [row["answers"] for row in read_questions(path)] == [["b", "bee"], ["d"]]
