"""What a model writes: fixed prompts continued greedily and by seeded sampling, and how much it repeats itself.

Repetition is the share of word 4-grams of a text that stood in it before, as seq-rep-4 of arXiv 1908.04319 (there of
tokens; words compare over tokenizers).
"""

import numpy as np
import torch

from prunelab import stats
from prunelab.models import caches, models
from prunelab.models.workers import threads
from prunelab.quality.quality import known

NGRAM = 4
SMALL = 10_000_000  # parameters; below, waiting for a second thread made a busy machine 8 times slower


@torch.inference_mode()
def continuations(model, prompts: list[list[int]], count: int, seeds: list[int | None], temperature: float):
    """`count` further tokens of every prompt for every seed, (prompts, seeds, count) int64; seed None: greedy.

    A sample depends on its prompt and seed alone, not on what else is in the batch: prompts are run one by one, and
    every row draws from a generator of its own, on the CPU and in float64.
    """
    out = np.empty((len(prompts), len(seeds), count), dtype=np.int64)
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    with threads(1 if small else None):
        for number, prompt in enumerate(prompts):
            generators = [None if seed is None else torch.Generator().manual_seed(seed) for seed in seeds]
            choose = _chooser(generators, temperature)
            out[number] = _continue(model, prompt, count, len(seeds), choose).numpy()
    return out


def _continue(model, prompt: list[int], count: int, rows: int, choose) -> torch.Tensor:
    device, longest = next(model.parameters()).device, models.context_length(model.config)
    text = torch.tensor([prompt] * rows)
    cache, held, fresh = None, 0, text
    for _ in range(count):
        if longest and held + fresh.shape[1] > longest:
            # Positions end here. Keeping half of the context, and not all but one token of it, makes this rare.
            cache, held, fresh = None, 0, text[:, -max(1, longest // 2) :]
        output, cache = caches.step(model, fresh.to(device), cache)
        held += fresh.shape[1]
        fresh = choose(output.logits[:, -1].double().cpu())
        text = torch.cat([text, fresh], dim=1)
    return text[:, len(prompt) :]


def _chooser(generators, temperature: float):
    def choose(logits: torch.Tensor) -> torch.Tensor:
        greedy = logits.argmax(-1, keepdim=True)
        probabilities = torch.softmax(logits / temperature, dim=-1)
        for row, generator in enumerate(generators):
            if generator is not None:
                greedy[row] = torch.multinomial(probabilities[row], 1, generator=generator)
        return greedy

    return choose


def repetition(text: str) -> float:
    """Share of the text's word 4-grams that stood in it before; 0.0 for a text of fewer than five words."""
    words = text.split()
    grams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def figures(tokenizer, prompts: list[str], seeds: list[int | None], ids: np.ndarray, end) -> list[dict]:
    """Samples as they stand in quality.json, in the order of `continuations`; seed null: greedy.

    tokenizer: of the `tokenizers` library, read from the model's own folder. end: the id (or ids) of
    the end of a text, which may be 0; what comes after is not shown. None: texts have no end.
    """
    rows, ends = [], set() if end is None else {end} if isinstance(end, int) else set(end)
    for prompt, of_prompt in zip(prompts, ids, strict=True):
        for seed, tokens in zip(seeds, of_prompt.tolist(), strict=True):
            tokens = tokens[: next((i for i, token in enumerate(tokens) if token in ends), None)]
            text = tokenizer.decode(tokens, skip_special_tokens=False)
            rows.append({"prompt": prompt, "seed": seed, "text": text, "repetition": repetition(text)})
    return rows


def repetition_figures(mine: np.ndarray, dense: np.ndarray, draws: int) -> dict:
    """Mean repetition over all samples (n,) and its difference to dense, paired over (prompt, seed)."""
    diff, lo, hi = stats.paired_bootstrap(mine - dense, draws)
    return {
        "repetition": float(np.mean(mine)),
        "repetition_diff": diff,
        "repetition_diff_lo": known(lo),
        "repetition_diff_hi": known(hi),
    }
