"""How good a model is on worse text: typos, dropped words, wrong case, at several strengths.

Two questions, and the first decides: is a variant worse than dense *on the same corrupted text*? And has it lost more
than dense over clean text? A ruined model, which has nothing left to lose, answers the second with no.

Every clean window's text is corrupted and tokenised anew, so that a sweep of variants needs no tokenizer. What is
compared is bits per *byte*: a typo splits a word into more and easier tokens, which would flatter a loss per token.

Corruptions are nested: each letter or word draws one seeded number u and is hit where u < strength, so a stronger
corruption hits everything that a weaker one does.
"""

import math
import re
import zlib

import numpy as np

from prunelab import stats
from prunelab.errors import InputError
from prunelab.quality.quality import known
from prunelab.quality.windows import PADDING, Windows, tokenise


def corrupt(text: str, kind: str, percent: float, seed: int, letters: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    """`text` with about `percent` of its letters (typos) or words (drop, case) hit; the same for the same seed.

    letters: what a typo may type. 0 percent returns the text itself.
    """
    # crc32: a seed of its own for each text and kind that is the same in every process, which hash() is not.
    generator = np.random.default_rng((seed, zlib.crc32(f"{kind}:{text}".encode())))
    return KINDS[kind](text, percent / 100, generator, letters)


def _typos(text: str, share: float, generator, letters: str) -> str:
    """A letter is replaced, followed by a wrong one, doubled, or left out."""
    hits, kinds = generator.random(len(text)), generator.integers(0, 4, len(text))
    typed = [letters[i] for i in generator.integers(0, len(letters), len(text))]
    out = []
    for letter, wrong, hit, kind in zip(text, typed, hits, kinds, strict=True):
        if hit < share and letter.isalpha():
            letter = (wrong, letter + wrong, letter + letter, "")[kind]
        out.append(letter)
    return "".join(out)


def _drop(text: str, share: float, generator, letters: str) -> str:
    """Words vanish with the space behind them; the least likely to go stays, so that no text becomes empty."""
    words = _words(text)
    hits = generator.random(len(words))
    return "".join(word for word, hit in zip(words, hits, strict=True) if hit >= share or hit == hits.max())


def _case(text: str, share: float, generator, letters: str) -> str:
    """Words in the other case: `Word` becomes `wORD`, as with a stuck shift key."""
    words = _words(text)
    hits = generator.random(len(words))
    return "".join(word.swapcase() if hit < share else word for word, hit in zip(words, hits, strict=True))


def _words(text: str) -> list[str]:
    """The text cut behind the space that follows each word."""
    return re.findall(r"\s*\S+\s*", text) or [text]


KINDS = {"typos": _typos, "drop": _drop, "case": _case}


def cells(kinds: list[str], strengths: list[int]) -> list[tuple[str, int]]:
    """(kind, percent) of every corruption in the order of all arrays here; the clean text is the first."""
    return [("clean", 0), *((kind, percent) for kind in kinds for percent in strengths)]


def corrupted_windows(tokenizer, texts: list[str], context: int, kinds, strengths, seed: int) -> Windows:
    """Windows (cells x texts, at most `context` tokens) of every text in every cell, short ones padded.

    The clean texts are tokenised here once more, because a text cut out of another may begin with other tokens.
    """
    letters = "".join(sorted({c for text in texts for c in text.lower() if c.isalpha()})) or "a"
    rows = []
    for kind, percent in cells(kinds, strengths):
        for text in texts:
            changed = corrupt(text, kind, percent, seed, letters) if percent else text
            ids, ends = tokenise(tokenizer, changed, special=False)
            ids, ends = ids[:context], ends[:context]
            if len(ids) < 2 or ends[-1] == ends[0]:  # one character may be several tokens: no byte is scored then
                raise InputError(
                    f"quality.robustness: {kind} at {percent} % leaves less than two tokens of {text!r}; raise "
                    f"quality.context (a text is a window of that many tokens, now {context}), or switch it off: "
                    "quality.robustness.texts: 0"
                )
            rows.append((ids, ends))
    tokens = np.full((len(rows), context), PADDING, dtype=np.int32)
    for row, (ids, _) in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    sizes = np.array([ends[-1] - ends[0] for _, ends in rows])
    return Windows(tokens, sizes, np.zeros((len(rows), 2), dtype=np.int64))


def bits(nll: np.ndarray, sizes: np.ndarray, cell_count: int) -> np.ndarray:
    """Bits per byte (cells, texts) of scored corrupted windows; nll: (cells x texts, context - 1) nats."""
    return (np.nansum(nll, axis=1, dtype=np.float64) / math.log(2) / sizes).reshape(cell_count, -1)


def figures(found: np.ndarray, dense: np.ndarray, kinds, strengths, draws: int) -> list[dict]:
    """Per corruption: the model's bits per byte, minus dense's (`bits_diff`), and its rise over clean text.

    found, dense: (cells, texts) bits per byte. `bits_diff` above zero: worse than dense on the same corrupted text.
    `rise_diff` is how much more it rose than dense's did; below zero it may be that less was left to lose. All
    intervals are paired over texts.
    """
    rows = []
    for cell, (kind, percent) in enumerate(cells(kinds, strengths)):
        if kind == "clean":
            continue
        compared = {
            "bits_diff": found[cell] - dense[cell],
            "rise": found[cell] - found[0],
            "rise_diff": found[cell] - found[0] - (dense[cell] - dense[0]),
        }
        ends = {name: stats.paired_bootstrap(values, draws) for name, values in compared.items()}
        rows.append(
            {
                "kind": kind,
                "strength_percent": percent,
                "texts": found.shape[1],
                "bits_per_byte": float(found[cell].mean()),
                **{
                    f"{name}{end}": known(value)
                    for name, triple in ends.items()
                    for end, value in zip(("", "_lo", "_hi"), triple, strict=True)
                },
            }
        )
    return rows
