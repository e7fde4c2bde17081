"""The loss on further texts, of other kinds than the study's own, and on its own in windows of other lengths.

How robust a model is to varied input is told text by text: pruning may cost little on prose and much on code. All
figures are of whole windows, and paired with the dense model's on the same ones.

    quality.texts          [code]  `texts_windows` windows of each, of `texts_context` tokens (null: `context`)
    quality.also_contexts  [128]   windows of 128 tokens of the study's test text, as much of it as `max_windows` are
"""

import numpy as np

from prunelab.quality import quality
from prunelab.quality.quality import Scores
from prunelab.quality.windows import Windows, cut, tokenise

ONLY_OF_THE_OWN = ("kl_to_dense", "top1_agreement")  # figures that are not asked for here


def check(model, wanted) -> None:
    """Raises InputError for windows longer than what the model was built for; wanted: the settings' `quality`."""
    if wanted.texts and wanted.texts_context:
        quality.check_context(model, wanted.texts_context, "quality.texts_context")
    for context in wanted.also_contexts:
        quality.check_context(model, context, "quality.also_contexts")


def prepare(tokenizer, further: dict[str, str], tokenised: tuple[np.ndarray, np.ndarray], wanted) -> dict:
    """The windows as arrays, for `Reference.extra`.

    further: the texts by their names. tokenised: the study's own text (windows.tokenise). wanted: the settings'
    `quality` section. Raises InputError for a text that is shorter than one window.
    """
    arrays = {}
    for name, text in further.items():
        ids, ends = tokenise(tokenizer, text)
        context = wanted.texts_context or wanted.context
        key = "quality.texts_context" if wanted.texts_context else "quality.context"
        found = cut(ids, ends, context, wanted.texts_windows, name=f"the text {name} of quality.texts", key=key)
        arrays |= _arrays(name, found)
        arrays[f"texts.{name}.unknown"] = np.array([_unknown(tokenizer, found.tokens)])
    for context in wanted.also_contexts:
        limit = wanted.max_windows and max(1, wanted.max_windows * wanted.context // context)
        arrays |= _arrays(f"c{context}", cut(*tokenised, context, limit, key="quality.also_contexts"))
    return arrays


def _arrays(name: str, found: Windows) -> dict[str, np.ndarray]:
    return {f"texts.{name}.tokens": found.tokens, f"texts.{name}.bytes": found.bytes}


def _unknown(tokenizer, tokens: np.ndarray) -> float:
    """Share of tokens that stand for what the tokenizer doesn't know; a loss on them says little."""
    return 0.0 if tokenizer.unk_token_id is None else float((tokens == tokenizer.unk_token_id).mean())


def ask(model, variant: str, asked: dict[str, np.ndarray], wanted) -> dict[str, Scores]:
    """The scores of a model made `ready` on everything that `prepare` cut, by name; `variant`: for errors."""
    scores = {}
    for name in [*wanted.texts, *(f"c{context}" for context in wanted.also_contexts)]:
        tokens = asked[f"texts.{name}.tokens"]
        scores[name] = quality.score(model, tokens, f"{variant}, {name}", batch_tokens=wanted.batch_tokens)
    return scores


def kept(scores: dict[str, Scores]) -> dict[str, np.ndarray]:
    """The dense model's losses as arrays (windows,), for `Reference.extra`."""
    return {f"texts.{name}.loss": one.loss for name, one in scores.items()}


def figures(scores: dict[str, Scores], dense: dict[str, np.ndarray], wanted) -> dict:
    """The keys `texts` and `also_contexts` of quality.json; dense: what `prepare` and `kept` gave."""

    def of(name: str) -> dict:
        tokens, sizes = dense[f"texts.{name}.tokens"], dense[f"texts.{name}.bytes"]
        windows = Windows(tokens, sizes, np.zeros((len(tokens), 2), dtype=np.int64))
        found = quality.summary(scores[name], windows, dense[f"texts.{name}.loss"], wanted.bootstrap_draws)
        return {key: value for key, value in found.items() if key not in ONLY_OF_THE_OWN}

    further = [
        {"text": name, **of(name), "unknown_percent": 100 * float(dense[f"texts.{name}.unknown"][0])}
        for name in wanted.texts
    ]
    return {
        "texts": further,
        "also_contexts": [{"context": context, **of(f"c{context}")} for context in wanted.also_contexts],
    }
