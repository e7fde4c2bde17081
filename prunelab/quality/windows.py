"""Text as the fixed windows of tokens on which every model of a study is scored.

The field's protocol: the text is tokenised once, with the tokenizer's own special tokens, and cut into non-overlapping
windows; a rest shorter than a window is left out. The first token of a window has nothing before it and is not scored.
"""

from typing import NamedTuple

import numpy as np

from prunelab.errors import InputError

PADDING = -1  # fills windows that are shorter than the longest; never scored


class Windows(NamedTuple):
    tokens: np.ndarray  # (windows, context) int32, PADDING at the end of short ones
    bytes: np.ndarray  # (windows,) int64: UTF-8 bytes of the text that the scored tokens stand for
    spans: np.ndarray  # (windows, 2) int64: where the window, unscored token included, lies in the text, in bytes

    @property
    def scored(self) -> int:
        """How many tokens are scored: all but the first of each window."""
        return int((self.tokens[:, 1:] != PADDING).sum())


def tokenise(tokenizer, text: str, special: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (n,) int32 and, for each, the UTF-8 bytes of text up to its end (n,) int64.

    special: with the special tokens that the tokenizer puts around a text.

    Raises InputError for a tokenizer that cannot say where its tokens lie in the text.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__}: bytes are counted by token offsets, which only fast ones know")
    # verbose: it warns of a text "too long" for the model.
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int32)
    ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    # A special token has no place in the text, (0, 0); a character split over several tokens belongs to the first.
    ends = np.maximum.accumulate(ends)
    size = np.fromiter((len(character.encode()) for character in text), dtype=np.int64, count=len(text))
    return ids, np.concatenate([[0], np.cumsum(size)])[ends]


def cut(
    ids: np.ndarray,
    byte_ends: np.ndarray,
    context: int,
    limit: int | None,
    first: int = 0,
    name: str = "the held-out text",
    key: str = "quality.context",
) -> Windows:
    """Non-overlapping windows of `context` tokens, at most `limit` of them, evenly spaced over the text.

    The `first` windows are themselves evenly spaced over the rest, so that a costly measure may take these alone.
    Raises InputError, which calls the text `name` and the setting `key`, when it is shorter than one window.
    """
    count = len(ids) // context
    if not count:
        raise InputError(f"{key}: {context} tokens a window, but {name} has only {len(ids)}")
    chosen = spread(count, limit)
    leading = spread(len(chosen), first) if first else np.empty(0, dtype=np.int64)
    chosen = np.concatenate([chosen[leading], np.delete(chosen, leading)])
    rows = chosen[:, None] * context + np.arange(context)
    ends = byte_ends[rows]
    starts = np.concatenate([[0], byte_ends])[rows[:, 0]]
    return Windows(ids[rows], ends[:, -1] - ends[:, 0], np.stack([starts, ends[:, -1]], axis=1))


def spread(count: int, wanted: int | None) -> np.ndarray:
    """At most `wanted` of the indices 0 … count-1, evenly spaced, ascending."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.arange(wanted) * count // wanted
