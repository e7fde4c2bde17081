"""Markdown → plain text: the words as they are read, without the marks that lay them out."""

import html
import re

# A backslash takes a mark's meaning away; so does a code span. Both are set aside as private-use characters until the
# marks are gone. One offset keeps them apart from real text: nothing in Unicode's private area is text.
_SET_ASIDE = 0xE000
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)[^\n]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$\n?|\Z)", re.MULTILINE | re.DOTALL)
_LINE_MARKS = re.compile(
    r"^(?:[ \t]*(?:[-*_][ \t]*){3,}$"  # a rule across the page
    r"|[ \t]*#{1,6}(?:[ \t]+|$)"  # a heading
    r"|(?:[ \t]*>[ \t]?)+"  # a quotation
    r"|[ \t]*[-*+][ \t]+)",  # an entry of a list
    re.MULTILINE,
)
_HEADING_END = re.compile(r"^([ \t]*#{1,6}[ \t].*?)[ \t]+#+[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:[ \t]+\"[^\"]*\")?\)")
_AUTO_LINK = re.compile(r"<((?:https?|mailto):[^<>\s]+)>")
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_ENTITY = re.compile(r"&#?\w+;")
# Emphasis is a run of * or _ at the edge of a word. Its partner isn't looked for: stage directions run over lines, and
# real files have `__[Reads]_`. A run between two letters (snake_case, 2*3) or two blanks is text.
_EMPHASIS = re.compile(r"(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)")


def strip(text: str) -> str:
    """`text` without Markdown's marks: headings, emphasis, links (their words stay), rules, quotations, bullets, tags.

    Line breaks stay where they are, blanks at line ends go, several blank lines become one, and there is none at either
    end. Code keeps its characters. After commonmark.org/help, but emphasis need not be balanced.
    """
    text = text.replace("\r\n", "\n").expandtabs(4)
    text = _FENCE.sub(lambda match: _hide(match[2]), text)
    text = _ESCAPE.sub(lambda match: _hide(match[1]), text)
    text = _CODE_SPAN.sub(lambda match: _hide(match[2].strip() if match[2].strip() else match[2]), text)
    text = _AUTO_LINK.sub(lambda match: _hide(match[1]), text)
    text = _TAG.sub("", text)
    text = _LINE_MARKS.sub("", _HEADING_END.sub(r"\1", text))
    text = _LINK.sub(r"\1", text)
    text = _EMPHASIS.sub("", text)
    text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _show(text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _hide(text: str) -> str:
    return "".join(chr(_SET_ASIDE + ord(c)) if "!" <= c <= "~" and not c.isalnum() else c for c in text)


def _show(text: str) -> str:
    return re.sub("[\ue021-\ue07e]", lambda match: chr(ord(match[0]) - _SET_ASIDE), text)
