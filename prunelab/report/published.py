"""Published WikiText-2 perplexities of pruned models, to print beside our own.

Raw test split, non-overlapping windows of 2048 tokens (LLaMA-2: 4096), sparsity inside the decoder blocks. Figures of
the papers of SparseGPT (arXiv 2301.00774) and Wanda (2306.11695); a pair is the spread of the two and later reprints.
"""

import re
from typing import NamedTuple

# model: (context, {(method, rate): perplexity or (low, high)})
_OPT = {
    ("dense", None): (27.66, 22.00, 14.62, 12.47, 10.86),
    ("magnitude", "50"): (193.4, 97.8, 1700.0, 265.0, 969.0),
    ("sparsegpt", "50"): ((36.7, 36.9), (31.6, 31.8), (17.5, 17.6), 13.4, 11.5),
    ("wanda", "50"): (39.3, 36.4, 18.3, 14.3, 12.0),
    ("magnitude", "2of4"): (341.5, 417.0, 427.0, 1200.0, 264.0),
    ("sparsegpt", "2of4"): (60.7, 50.7, 23.8, 17.2, 14.1),
    ("wanda", "2of4"): (81.6, 116.0, 27.8, 21.4, 16.0),
}
_SIZES = ("125m", "350m", "1.3b", "2.7b", "6.7b")
PERPLEXITY = {
    f"opt-{size}": (2048, {key: figures[i] for key, figures in _OPT.items()}) for i, size in enumerate(_SIZES)
}
PERPLEXITY["llama-2-7b"] = (
    4096,
    {
        ("dense", None): 5.12,
        ("magnitude", "50"): 14.89,
        ("sparsegpt", "50"): 6.51,
        ("wanda", "50"): 6.42,
        ("magnitude", "2of4"): 54.59,
        ("sparsegpt", "2of4"): 10.17,
        ("wanda", "2of4"): 11.02,
    },
)


class Reproduction(NamedTuple):
    """One published figure beside ours; `deviation_percent` is 0 inside the published spread."""

    variant: str
    published: str
    ours: float
    deviation_percent: float


def model_name(settings) -> str | None:
    """The key of PERPLEXITY that the study's dense model is, if it is one of them, fetched and not trained further."""
    if settings.fetch.model is None or settings.train.epochs or settings.fetch.text is None:
        return None
    name = settings.fetch.model.name.lower().rstrip("/")
    return next((known for known in PERPLEXITY if re.search(rf"(^|[/_]){re.escape(known)}(-hf)?$", name)), None)


def beside(model: str, rows: list[dict]) -> list[Reproduction]:
    """Published figures and ours, for the variants of `rows` that were published for `model`."""
    found = []
    for row in rows:
        figure = PERPLEXITY[model][1].get((row["method"], row["rate"]))
        if figure is None or row["perplexity"] is None or row["seed"] != rows[0]["seed"]:
            continue
        low, high = figure if isinstance(figure, tuple) else (figure, figure)
        nearest = min(max(row["perplexity"], low), high)
        words = f"{low:g}" if low == high else f"{low:g}–{high:g}"
        found.append(Reproduction(row["variant"], words, row["perplexity"], 100 * (row["perplexity"] / nearest - 1)))
    return found


def differences(model: str, settings, quality: dict) -> list[str]:
    """What keeps our figures from being comparable with the published ones; empty when nothing does."""
    context, told = PERPLEXITY[model][0], []
    if quality.get("context") != context:
        told.append(f"our windows hold {quality.get('context')} tokens, the published ones {context}")
    if "wikitext" not in settings.fetch.text.name.lower():
        told.append(f"our text is {settings.fetch.text.name}, the published one the raw test split of WikiText-2")
    if settings.quality.max_windows is not None:
        told.append(f"we evaluated {quality.get('windows')} windows, not the whole text")
    return told
