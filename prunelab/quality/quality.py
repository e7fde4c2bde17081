"""How good a model still is: loss on held-out windows, and how far its predictions moved from the dense model's.

The decoder runs on batches of windows, and its last hidden states go through the head in chunks of a few MB, from which
loss, divergence and agreement are taken at once: no logit outlives its chunk.

Bits per byte = total nats / ln 2 / UTF-8 bytes of the scored text: the one loss that compares over tokenizers.
KL is KL(dense || variant) of the next-token distribution, in nats, averaged over tokens.
"""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from prunelab import stats
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.models.workers import threads
from prunelab.quality.heads import Head, split
from prunelab.quality.windows import PADDING, Windows

CHUNK_BYTES = 16 << 20  # fp32 logits at once, three such tensors a thread: half as many cost 5 %, twice as many win 3 %


class DenseStates(NamedTuple):
    """The dense model's predictions on the first windows: its last hidden states, and the head that reads them."""

    hidden: torch.Tensor  # (windows, context - 1, d)
    head: Head


class Scores(NamedTuple):
    nll: np.ndarray  # (windows, context - 1) float32, nats a token; nan where a window is padded
    loss: np.ndarray  # (windows,) float64, mean nats a token
    kl: np.ndarray | None  # (KL windows,) float64, mean nats a token
    agreement: np.ndarray | None  # (windows,) float64, share of tokens with the dense model's first choice
    choice: np.ndarray | None  # (windows, context - 1) int32, this model's own first choices
    states: DenseStates | None  # what a variant's KL needs of this model


# What quality.json calls the number that a model computes in, which is the one that it is stored and timed in.
PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def ready(model):
    """The model in evaluation mode, in the precision that it was loaded in, on the GPU when there is one."""
    return model.eval().to(device="cuda" if torch.cuda.is_available() else "cpu")


def precision(model) -> str:
    """What `model` computes in: `fp32`, `bf16` and so on; of a quantised one that of its activations."""
    return PRECISIONS[model.dtype]


def check_context(model, context: int, key: str = "quality.context") -> None:
    """Raises InputError, which names the setting `key`, when a window is longer than what the model was built for."""
    longest = models.context_length(model.config)
    if longest is not None and context > longest:
        raise InputError(f"{key}: {context} tokens, but this model's context is {longest}; at most that")


def score(
    model,
    tokens: np.ndarray,
    name: str,
    *,
    batch_tokens: int,
    dense: DenseStates | None = None,
    dense_choice: np.ndarray | None = None,
    leave: int | None = None,
) -> Scores:
    """Score windows `tokens` (windows, context) int32 with a model made `ready`.

    name: of the variant, for errors and the progress bar. dense: the first len(dense.hidden) windows get a KL.
    dense_choice: (windows, context - 1), the dense model's most probable tokens. leave: this *is* the dense model; keep
    its choices, and its states on the first `leave` windows. Hidden states and head are kept as computed, so nothing is
    rounded; for a vocabulary smaller than the hidden state the logits themselves are smaller and are kept instead.
    Raises InputError, which names the variant, when a loss is not finite.
    """
    check_context(model, tokens.shape[1])
    body, head = split(model)
    device = next(model.parameters()).device
    count, length = tokens.shape[0], tokens.shape[1] - 1
    nll = np.full((count, length), np.nan, dtype=np.float32)
    border = len(dense.hidden) if dense else min(leave or 0, count)
    kl = np.zeros((border, length), dtype=np.float32)
    agree = np.zeros((count, length), dtype=bool)
    choice = np.zeros((count, length), dtype=np.int32)
    dense_head = dense.head.to(device) if dense else None

    def score_batch(rows: slice) -> torch.Tensor | None:
        batch = torch.from_numpy(tokens[rows].astype(np.int64)).to(device)
        hidden = body(batch[:, :-1].clamp(min=0))
        flat, target = hidden.flatten(0, 1), batch[:, 1:].flatten().clamp(min=0)
        inside = rows.stop <= border
        reference = dense.hidden[rows].to(device).flatten(0, 1) if dense and inside else None
        chosen = None
        if dense_choice is not None:
            chosen = torch.from_numpy(dense_choice[rows].astype(np.int64)).to(device).flatten()
        for part in _slices(len(flat), max(1, CHUNK_BYTES // (4 * head.vocabulary(flat)))):
            # Not logsumexp: 3 times slower where logits are so wide that exp() leaves denormal numbers.
            logp = torch.log_softmax(head(flat[part]), dim=-1)
            at = slice(rows.start * length + part.start, rows.start * length + part.stop)
            nll.reshape(-1)[at] = -logp.gather(-1, target[part, None])[:, 0].cpu()
            if chosen is not None:
                # Not argmax, which a CPU does slowly; a tie with the dense model's choice is an agreement.
                agree.reshape(-1)[at] = (logp.gather(-1, chosen[part, None])[:, 0] >= logp.amax(-1)).cpu()
            if leave is not None:
                choice.reshape(-1)[at] = logp.argmax(-1).cpu()
            if reference is not None:
                dense_logp = torch.log_softmax(dense_head(reference[part]), dim=-1)
                kl.reshape(-1)[at] = (dense_logp.exp() * (dense_logp - logp)).sum(-1).cpu()
        if leave is not None and inside:
            return (head(flat) if head.is_narrow else flat).reshape(len(batch), length, -1).cpu()
        return None

    workers = workers_of(device, batch_tokens // (length + 1))
    pieces = _batches(count, max(1, batch_tokens // (length + 1) // workers), border)
    counts = [(piece.stop - piece.start) * length for piece in pieces]
    kept = [found for found in side_by_side(score_batch, pieces, counts, workers, name) if found is not None]
    scored = tokens[:, 1:] != PADDING
    if (broken := scored & ~np.isfinite(nll)).any():
        windows = np.flatnonzero(broken.any(axis=1))
        raise InputError(
            f"{name}: the loss is not finite in {len(windows)} of {count} windows, first in window {windows[0]}; "
            "its weights overflow or hold values that are not numbers"
        )
    nll[~scored] = np.nan
    states = None
    if leave is not None:
        hidden = torch.cat(kept) if kept else torch.empty(0, length, 1)
        states = DenseStates(hidden, Head() if head.is_narrow else head.to("cpu"))
    return Scores(
        nll,
        np.nanmean(nll, axis=1, dtype=np.float64),
        kl.mean(axis=1, dtype=np.float64) if dense and border else None,
        agree.mean(axis=1) if dense_choice is not None else None,
        choice if leave is not None else None,
        states,
    )


def workers_of(device: torch.device, windows: int) -> int:
    """How many batches run side by side when `windows` may be in flight: on a GPU one, else up to one a thread."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), windows))


def side_by_side(function, pieces: list, counts: list[int], workers: int, name: str) -> list:
    """`function` of every piece, in order, by `workers` threads that compute with a share of the threads each.

    counts: the tokens of each piece.

    Threads that share one operation wait for each other thousands of times a batch, which a busy neighbour turns into
    2 to 8 times the seconds; threads that score windows of their own never wait (and are 1.15 x faster in quiet).
    On stderr a bar with tokens/s and the time left, where that is a terminal.
    """
    bar = tqdm(total=sum(counts), desc=name, unit="tok", unit_scale=True, disable=None, file=sys.stderr, leave=False)

    @torch.inference_mode()  # holds for one thread alone, so each call enters it
    def watched(piece, count: int):
        found = function(piece)
        bar.update(count)
        return found

    with threads(max(1, torch.get_num_threads() // workers)), bar, ThreadPoolExecutor(workers) as executor:
        return list(executor.map(watched, pieces, counts))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _batches(count: int, size: int, border: int) -> list[slice]:
    """Slices of at most `size` windows, none of which crosses `border`."""
    return _slices(border, size) + [slice(border + s.start, border + s.stop) for s in _slices(count - border, size)]


def summary(scores: Scores, windows: Windows, dense_loss: np.ndarray, draws: int) -> dict:
    """The figures of one model as they stand in quality.json; `dense_loss`: (windows,) of the same windows.

    Unknown is None: no KL without windows for it, no interval from a single window.
    """
    nats = float(np.nansum(scores.nll, dtype=np.float64))
    loss = nats / windows.scored
    diff, lo, hi = stats.paired_bootstrap(scores.loss - dense_loss, draws)
    return {
        "windows": len(windows.tokens),
        "tokens": windows.scored,
        "bytes": int(windows.bytes.sum()),
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else None,  # beyond, no float holds it
        "bits_per_byte": nats / math.log(2) / int(windows.bytes.sum()),
        "loss_diff": diff,
        "loss_diff_lo": known(lo),
        "loss_diff_hi": known(hi),
        # Rounding may leave a KL of zero at -1e-9.
        "kl_to_dense": max(0.0, float(scores.kl.mean())) if scores.kl is not None else None,
        "top1_agreement": float(scores.agreement.mean()) if scores.agreement is not None else None,
    }


def context_curve(nll: np.ndarray, dense_nll: np.ndarray, draws: int) -> list[dict]:
    """Loss by how many tokens of the window stand before the predicted one: 1, 2-3, 4-7, 8-15 …

    nll, dense_nll: (windows, context - 1), without padding. Differences are paired over windows.
    """
    rows, start = [], 1
    while start <= nll.shape[1]:
        # Position p of nll has seen p + 1 tokens.
        part = slice(start - 1, min(2 * start - 1, nll.shape[1]))
        mine, dense = (values[:, part].mean(axis=1, dtype=np.float64) for values in (nll, dense_nll))
        diff, lo, hi = stats.paired_bootstrap(mine - dense, draws)
        rows.append(
            {
                "tokens_before_from": start,
                "tokens_before_to": part.stop,
                "loss": float(mine.mean()),
                "loss_diff": diff,
                "loss_diff_lo": known(lo),
                "loss_diff_hi": known(hi),
            }
        )
        start *= 2
    return rows


def known(value: float) -> float | None:
    """None instead of nan, which JSON does not know."""
    return None if math.isnan(value) else value
