"""Conversations in YAML → a turn a line."""

import pytest

from prunelab.data import turns
from prunelab.errors import InputError

CONVERSATIONS = """\
categories:
- years
conversations:
- - When was it?
  - 1969
  - No
- - "Is it: true?"
  - 'It''s   a
    fact.'
- One turn alone.
- - When was it?
  - 1969
  - No
"""


def test_a_turn_is_a_line_and_a_conversation_that_comes_again_counts_once():
    assert (
        turns.strip(CONVERSATIONS, "a.yml") == "When was it?\n1969\nNo\n\nIs it: true?\nIt's a fact.\n\nOne turn alone."
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("conversations: [", "found no YAML: "),
        ("just words", "found none"),
        ("categories: [a]", r"found \['categories'\]"),
        ("conversations: [[a, {b: c}]]", "found another thing as the conversation number 1"),
    ],
)
def test_what_holds_no_conversations_is_told_by_its_file(text, found):
    with pytest.raises(InputError, match=f"^a.yml: expected `conversations:`, a list of lists of turns, {found}"):
        turns.strip(text, "a.yml")
