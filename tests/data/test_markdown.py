"""Markdown stripping, on samples by hand. What real plays look like is in test_fetch."""

import pytest

from prunelab.data import markdown

PLAY = """# Hamlet

## ACT I

### SCENE I. Elsinore. A platform before the castle.

_Enter PETER of Pomfret; FRANCISCO at his
post_

**BERNARDO**\x20\x20
Who's there?

**ALICE & BOB**\x20\x20
_\\[Aside]_ Nay, answer me:\x20\x20
stand,'\\--and unfold yourself.


*Exeunt.*
"""


def test_a_play_becomes_the_words_that_are_printed():
    assert markdown.strip(PLAY) == (
        "Hamlet\n\nACT I\n\nSCENE I. Elsinore. A platform before the castle.\n\n"
        "Enter PETER of Pomfret; FRANCISCO at his\npost\n\n"
        "BERNARDO\nWho's there?\n\n"
        "ALICE & BOB\n[Aside] Nay, answer me:\nstand,'--and unfold yourself.\n\n"
        "Exeunt."
    )


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("__[Reads]_", "[Reads]"),  # unbalanced, as real files have it
        ("[Within]_", "[Within]"),
        ("*[He draws.]*", "[He draws.]"),
        ("***both***", "both"),
        ("snake_case and 2*3 and a * b", "snake_case and 2*3 and a * b"),
        (r"\*not emphasis\* \_nor this\_", "*not emphasis* _nor this_"),
        (r"1\. A lively flourish", "1. A lively flourish"),
        ("#hashtag", "#hashtag"),
        ("## Heading ##", "Heading"),
        ("see [the words](http://a.b/c_d_e) here", "see the words here"),
        ('![a picture](p.png "title")', "a picture"),
        ("<https://a.b/c_d>", "https://a.b/c_d"),
        ("one<br>two <b>bold</b> a < b > c", "onetwo bold a < b > c"),
        ("child,' &amp; c. R&D &c. &copy;", "child,' & c. R&D &c. ©"),
        ("> quoted\n> > deeper", "quoted\ndeeper"),
        ("- one\n* two\n+ three\n4. four", "one\ntwo\nthree\n4. four"),
        ("above\n\n* * *\n\nbelow", "above\n\nbelow"),
        ("`a_b*c*` and ``x ` y``", "a_b*c* and x ` y"),
        ("```python\n# no heading\nx = _y_\n```\nafter", "# no heading\nx = _y_\nafter"),
        ("line  \r\nbreak\\\\", "line\nbreak\\"),
        ("—dash & 'quotes' stay; [so do brackets]", "—dash & 'quotes' stay; [so do brackets]"),
        ("   \n\n", ""),
    ],
)
def test_marks_go_and_words_stay(marked, plain):
    assert markdown.strip(marked) == plain


def test_plain_text_stays_as_it_is():
    verse = "What, has this thing appear'd again to-night?\n\nI have seen nothing; 'tis but our fantasy:--"
    assert markdown.strip(verse) == verse
    assert markdown.strip(markdown.strip(PLAY)) == markdown.strip(PLAY)
