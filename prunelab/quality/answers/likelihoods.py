"""How likely a model finds given continuations of a prompt, and how it goes on by itself; every token is read once.

    stem          what several prompts begin with (a passage, examples)  its keys and values serve all of them
    prompt        what stands behind it, of prompts that are equally     its keys and values serve all continuations
                  long, so that nothing is padded before an answer
    continuations padded behind their end, where it changes nothing      all but their last token are read

A model whose cache can't be taken up again (a state, a sliding window) reads whole sequences instead, and so is read a
prompt that doesn't fit into the context with its answers: its beginning is cut off, as lm-eval does.
"""

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import torch

from prunelab.models import caches, models
from prunelab.quality.heads import parts
from prunelab.quality.quality import CHUNK_BYTES, side_by_side, workers_of
from prunelab.quantised.layers import dense_products

SHARED = 16  # tokens that prompts must begin with alike to be worth a pass of their own
FILLER = 0  # the id of what stands behind the end of a continuation; nobody sees it


class Asked(NamedTuple):
    prompt: list[int]  # at least one token
    continuations: list[list[int]]  # at least one token each
    write: int = 0  # tokens to go on by itself, greedily


class Found(NamedTuple):
    likelihoods: list[float]  # nats below zero, one a continuation
    written: list[int]


def ask(
    model, items: list[Asked], name: str, *, batch_tokens: int, ended: Callable[[list[int]], bool] = lambda _: False
) -> list[Found]:
    """What a model made `quality.ready` finds, in the order of `items`; ended: whether what was written is complete.

    name: for the progress bar. What one item gets depends on the others, threads and batches by rounding alone: a
    quantised model computes by dense products, as for its loss.
    """
    device = next(model.parameters()).device
    reader = _Reader(model, ended, device)
    workers = workers_of(device, max(1, batch_tokens // 64))
    pieces = _pieces(items, reader, max(1, batch_tokens // workers))
    counts = [len(stem) + sum(_tokens(items[i]) - len(stem) for i in numbers) for stem, numbers in pieces]
    found: list[Found | None] = [None] * len(items)

    def answer(piece: tuple[list[int], list[int]]) -> None:
        stem, numbers = piece
        for number, one in zip(numbers, reader.answer(stem, [items[i] for i in numbers]), strict=True):
            found[number] = one

    with dense_products(model):
        side_by_side(answer, pieces, counts, workers, name)
    return found


def _tokens(item: Asked) -> int:
    """Tokens that are read of an item where none is shared."""
    return len(item.prompt) + sum(len(one) - 1 for one in item.continuations) + item.write


def _pieces(items: list[Asked], reader: "_Reader", batch_tokens: int) -> list[tuple[list[int], list[int]]]:
    """(stem, numbers of the items behind it), the longest first, so that no thread is left alone with one."""
    pieces, single = [], []
    for stem, numbers in _families(items):
        if stem and reader.goes_on and all(reader.fits(items[i]) for i in numbers):
            pieces += [(stem, part) for part in _parts(items, numbers, batch_tokens - len(stem), len(stem))]
        else:
            single += numbers
    single.sort(key=lambda i: (reader.fits(items[i]), len(items[i].prompt)))
    for _, alike in groupby(single, key=lambda i: (reader.fits(items[i]), len(items[i].prompt))):
        pieces += [([], part) for part in _parts(items, list(alike), batch_tokens, 0)]
    return sorted(pieces, key=lambda piece: -len(piece[0]) - sum(_tokens(items[i]) for i in piece[1]))


def _families(items: list[Asked]) -> list[tuple[list[int], list[int]]]:
    """Items whose prompts begin alike, next to each other once sorted; an empty stem where one stands alone."""
    families: list[tuple[list[int], list[int]]] = []
    for number in sorted(range(len(items)), key=lambda i: items[i].prompt):
        prompt = items[number].prompt
        if families:
            stem, numbers = families[-1]
            begun = stem if stem else items[numbers[0]].prompt
            # Short of its last token: what an item adds to the stem must give the first of its answer.
            most = min(len(begun), len(prompt) - 1, *(len(items[i].prompt) - 1 for i in numbers))
            same = next((i for i in range(most) if begun[i] != prompt[i]), most)
            if same >= max(SHARED, len(stem) // 2):  # not: two of one passage, cut down to what all passages share
                families[-1] = (prompt[:same], [*numbers, number])
                continue
        families.append(([], [number]))
    return families


def _parts(items: list[Asked], numbers: list[int], batch_tokens: int, stem: int) -> list[list[int]]:
    """`numbers` in parts of at most so many tokens behind the stem, at least one item each."""
    parts_, room = [], 0
    for number in numbers:
        tokens = _tokens(items[number]) - stem
        if not parts_ or tokens > room:
            parts_.append([])
            room = batch_tokens
        parts_[-1].append(number)
        room -= tokens
    return parts_


class _Reader:
    """One model, its body and head, and whether its cache can be taken up again (`goes_on`)."""

    def __init__(self, model, ended: Callable[[list[int]], bool], device: torch.device):
        self.body, self.head = parts(model)
        self.ended, self.device = ended, device
        self.context = models.context_length(model.config)
        with torch.inference_mode():
            _, cache = self._step([[FILLER, FILLER]], None)
        self.goes_on = caches.goes_back(cache)

    def fits(self, item: Asked) -> bool:
        """Whether the whole prompt stands in the context before every answer."""
        longest = max([item.write, *(len(one) - 1 for one in item.continuations)])
        return self.goes_on and (self.context is None or len(item.prompt) + longest <= self.context)

    def answer(self, stem: list[int], items: list[Asked]) -> list[Found]:
        """Of items that all fit behind the stem, or that stand alone."""
        if not self.fits(items[0]):
            return [self._whole(item) for item in items]
        cache = self._step([stem], None)[1] if stem else None
        found: list[Found | None] = [None] * len(items)
        in_order = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
        for _, alike in groupby(in_order, key=lambda i: len(items[i].prompt)):
            numbers = list(alike)
            for number, one in zip(numbers, self._alike(cache, len(stem), [items[i] for i in numbers]), strict=True):
                found[number] = one
        return found

    def _alike(self, cache, begun: int, items: list[Asked]) -> list[Found]:
        """Of items with prompts of one length, whose first `begun` tokens the one row of `cache` holds."""
        behind = None if cache is None else caches.rows(cache, torch.zeros(len(items), dtype=torch.int64))
        hidden, kept = self._step([item.prompt[begun:] for item in items], behind)
        first = self._log_probabilities(hidden[:, -1])
        likelihoods = self._continued(first, kept, [item.continuations for item in items])
        written: list[list[int]] = [[] for _ in items]
        if writing := [row for row, item in enumerate(items) if item.write]:
            most = max(items[row].write for row in writing)
            tokens = self._written(first[writing], caches.rows(kept, torch.tensor(writing)), most)
            for row, one in zip(writing, tokens, strict=True):
                written[row] = one[: items[row].write]
        return [Found(*one) for one in zip(likelihoods, written, strict=True)]

    def _continued(self, first: torch.Tensor, cache, continuations: list[list[list[int]]]) -> list[list[float]]:
        """Log-likelihoods behind prompts of which `first` (prompts, vocabulary) holds the next token's."""
        rows = [(p, one) for p, of_prompt in enumerate(continuations) for one in of_prompt]
        nats = [float(first[p, one[0]]) for p, one in rows]
        longer = [i for i, (_, one) in enumerate(rows) if len(one) > 1]
        if longer:
            width = max(len(rows[i][1]) for i in longer) - 1
            ids = [(rows[i][1][:-1] + [FILLER] * width)[:width] for i in longer]
            hidden, _ = self._step(ids, caches.rows(cache, torch.tensor([rows[i][0] for i in longer])))
            places = [(row, at) for row, i in enumerate(longer) for at in range(len(rows[i][1]) - 1)]
            targets = torch.tensor([rows[longer[row]][1][at + 1] for row, at in places], device=self.device)
            flat = hidden[[row for row, _ in places], [at for _, at in places]]
            for (row, _), value in zip(places, self._of_targets(flat, targets), strict=True):
                nats[longer[row]] += value
        values = iter(nats)
        return [[next(values) for _ in of_prompt] for of_prompt in continuations]

    def _written(self, first: torch.Tensor, cache, most: int) -> list[list[int]]:
        """The likeliest token after the other, at most `most`, until `ended` says of every row that it is complete."""
        written: list[list[int]] = [[] for _ in range(len(first))]
        scores = first
        for _ in range(most):
            chosen = scores.argmax(-1).tolist()
            for tokens, token in zip(written, chosen, strict=True):
                tokens.append(token)
            if len(written[0]) == most or all(self.ended(tokens) for tokens in written):
                break
            hidden, cache = self._step([[token] for token in chosen], cache)
            scores = self._log_probabilities(hidden[:, -1])
        return written

    def _whole(self, item: Asked) -> Found:
        """The same without a cache: whole sequences, one at a time, without what doesn't fit into the context."""
        nats = []
        for one in item.continuations:
            whole = (item.prompt + one)[-(self.context or len(item.prompt) + len(one)) - 1 :]
            hidden = self.body(input_ids=torch.tensor([whole[:-1]], device=self.device), use_cache=False)[0][0]
            nats.append(sum(self._of_targets(hidden[-len(one) :], torch.tensor(one, device=self.device))))
        written: list[int] = []
        while len(written) < item.write and not (written and self.ended(written)):
            ids = (item.prompt + written)[-(self.context or len(item.prompt) + item.write) :]
            hidden = self.body(input_ids=torch.tensor([ids], device=self.device), use_cache=False)[0]
            written.append(int(self._log_probabilities(hidden[:, -1]).argmax()))
        return Found(nats, written)

    def _step(self, ids: list[list[int]], cache):
        out, kept = caches.step(self.body, torch.tensor(ids, device=self.device), cache)
        return out[0], kept

    def _log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.head(hidden), dim=-1)

    def _of_targets(self, flat: torch.Tensor, targets: torch.Tensor) -> list[float]:
        """Log-likelihood of each target (n,) behind hidden states (n, d), in pieces of a few MB of logits."""
        size = max(1, CHUNK_BYTES // (4 * self.head.vocabulary(flat)))
        found: list[float] = []
        for start in range(0, len(flat), size):
            part = slice(start, start + size)
            found += self._log_probabilities(flat[part]).gather(-1, targets[part, None])[:, 0].tolist()
        return found
