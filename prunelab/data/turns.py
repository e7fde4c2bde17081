"""Conversations in YAML, as the ChatterBot corpus has them, → plain text: a turn a line, a blank line between two."""

from prunelab.errors import InputError

EXPECTED = "expected `conversations:`, a list of lists of turns"


def strip(text: str, name: str) -> str:
    """The turns in the YAML `text`; a conversation that stands there again counts once: copies are no more text.

    Raises InputError, which calls the file `name`, where it holds no conversations.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        # base: every scalar is a text. "No" is an answer here, and 1969 a year in words.
        content = YAML(typ="base", pure=True).load(text)
    except YAMLError as error:
        raise InputError(f"{name}: {EXPECTED}, found no YAML: {' '.join(str(error).split())}") from None
    found = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{name}: {EXPECTED}, found {sorted(content) if isinstance(content, dict) else 'none'}")
    told: dict[str, None] = {}
    for number, conversation in enumerate(found, start=1):
        turns = [conversation] if isinstance(conversation, str) else conversation  # one turn, and no list of it
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise InputError(f"{name}: {EXPECTED}, found another thing as the conversation number {number}")
        told["\n".join(" ".join(turn.split()) for turn in turns if turn.strip())] = None
    told.pop("", None)
    return "\n\n".join(told)
