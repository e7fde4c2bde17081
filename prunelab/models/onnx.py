"""A model as one ONNX file that takes and returns its cache, and ONNX Runtime behind a transformers-like call.

Names and axes are those that Optimum writes, so that Optimum, transformers.js and generic servers load the file.
Inputs: `input_ids` (batch, tokens), `attention_mask` (batch, past + tokens) with 0 for padding, `position_ids` (batch,
tokens) where the model uses them, all int64, and for every block `past_key_values.<i>.key` and `.value` (batch, heads,
past, head size), of length 0 in the first call. Outputs: `logits` (batch, tokens, vocabulary), `present.<i>.key` and
`.value`. Batch, tokens and past may be of any size, and prompts may be padded on the left.

The model builds its own masks, a kind for each of its layers (sliding windows, chunks, local attention). The cache
holds the whole past in every layer: what lies behind a window is masked, not dropped.
"""

import contextlib
import copy
import inspect
import io
import logging
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from prunelab.errors import InputError
from prunelab.models import caches, models

TOLERANCE = 1e-3  # of logits, relative to the largest: another library sums in another order
PROBE_TOKENS = 16  # of the sequences that check the file; more where a window is longer
SEEN, TOKENS, PAST = 4, 3, "past_sequence_length"  # sizes of the traced call, and what an axis is called
TOTAL = f"{PAST} + sequence_length"
WAY_OUT = "set export.onnx: false, and take onnx out of runtimes.names"


class _Step(nn.Module):
    """The model as a function of tensors alone, in the order of the file's inputs."""

    def __init__(self, model, positions: bool):
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, input_ids, attention_mask, position_ids, *past):
        from transformers import DynamicCache

        cache = DynamicCache()  # without a config: every layer keeps the whole past
        for block, (keys, values) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(keys, values, block)
        # Said to the exporter, which cannot know: the mask is as long as what is seen.
        torch._check(attention_mask.shape[1] == past[0].shape[2] + input_ids.shape[1])
        more = {"position_ids": position_ids} if self.positions else {}
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **more
        )
        return (out.logits, *(tensor for layer in out.past_key_values.layers for tensor in (layer.keys, layer.values)))


def export(model, path) -> float:
    """Write `model` (fp32, on the CPU, eval) to `path` and check it against torch.

    Returns the largest difference of logits, relative to the largest logit, over sequences longer than any window, read
    at once, in pieces behind pasts of several lengths, and padded. Raises InputError where the model cannot be
    exported, or the file computes something else.
    """
    positions = "position_ids" in inspect.signature(model.forward).parameters
    example = _example(model)
    names = _names("past_key_values", len(example) // 2)
    tokens = {0: "batch_size", 1: "sequence_length"}
    axes = (tokens, {0: "batch_size", 1: TOTAL}, tokens, tuple({0: "batch_size", 2: PAST} for _ in example))
    inputs = (
        torch.zeros(2, TOKENS, dtype=torch.int64),
        torch.ones(2, SEEN + TOKENS, dtype=torch.int64),
        torch.arange(SEEN, SEEN + TOKENS).repeat(2, 1),
        *example,
    )
    with _experts_one_by_one(model), _quiet():
        try:
            any_size = torch.utils._pytree.tree_map_only(str, lambda name: torch.export.Dim.DYNAMIC, axes)
            traced = torch.export.export(_Step(model, positions).eval(), inputs, dynamic_shapes=any_size)
            program = torch.onnx.export(
                traced,
                dynamic_shapes=axes,
                input_names=["input_ids", "attention_mask", "position_ids", *names],
                output_names=["logits", *_names("present", len(example) // 2)],
                verbose=False,
            )
        except Exception as error:
            # Of any kind, because it runs the model's code. What it writes is pages long and about its own insides.
            kind = type(error.__cause__ or error).__name__
            raise _refusal(model, f"torch's exporter gives up ({kind})") from error
        graph = program.model.graph
        for unused in [value for value in graph.inputs if not value.uses()]:
            graph.inputs.remove(unused)  # positions of a model that only takes them: a client need not make them
        for present in graph.outputs[1:]:
            present.shape[2] = TOTAL  # one name for the sum, whichever way round it was traced
        program.save(str(path))
    try:
        apart = _check(model, Session(path, model.config), positions)
    except _runtime_errors() as error:
        raise _refusal(model, f"ONNX Runtime cannot run it ({type(error).__name__})") from error
    if not apart <= TOLERANCE:
        raise InputError(
            f"onnx: the exported {type(model).__name__} computes logits {apart:.1e} (relative) from torch's, more than "
            f"{TOLERANCE:.0e}; it is of no use: {WAY_OUT}"
        )
    return apart


@torch.no_grad()
def _example(model) -> list[torch.Tensor]:
    """A past of SEEN tokens and two rows, key and value of every block. Raises InputError for another kind of cache."""
    _, cache = caches.step(model, torch.zeros(2, SEEN, dtype=torch.int64))
    layers = caches.growing(cache)
    if layers is None or len(layers) < len(cache.layers):
        raise _refusal(model, "from token to token it keeps something else than a key and a value in every block")
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return [torch.zeros(2, tensor.shape[1], SEEN, tensor.shape[3]) for tensor in tensors]


def _names(kind: str, blocks: int) -> list[str]:
    return [f"{kind}.{block}.{part}" for block in range(blocks) for part in ("key", "value")]


def _refusal(model, why: str) -> InputError:
    return InputError(f"onnx: {type(model).__name__} cannot be exported: {why}; {WAY_OUT}")


@torch.inference_mode()
def _check(model, session: "Session", positions: bool) -> float:
    """The largest difference to torch, which reads each sequence at once and without a cache."""
    length = _probe_tokens(model.config)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.get_input_embeddings().num_embeddings, (2, length), generator=generator)
    wanted = model(input_ids=ids, use_cache=False).logits
    worst = 0.0
    pieces = [5, 1, length - 8, 1, 1]  # behind a past of 0, 5, 6 tokens, and of more than any window
    for rows, parts in ((1, [length]), (2, pieces), (1, pieces), (2, [length])):
        worst = max(worst, _apart(_read(session, ids[:rows], parts), wanted[:rows]))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    more = {"position_ids": position_ids(mask, length)} if positions else {}
    wanted = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
    found = _read(session, ids, [length - 2, 1, 1], mask)
    return max(worst, _apart(found[:1, 3:], wanted[:1, 3:]), _apart(found[1:], wanted[1:]))


def _read(session: "Session", ids: torch.Tensor, parts: list[int], mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of ids, read in parts of that many tokens."""
    past, seen, found = None, 0, []
    for part in ids.split(parts, dim=1):
        seen += part.shape[1]
        out = session(input_ids=part, past_key_values=past, attention_mask=None if mask is None else mask[:, :seen])
        past = out.past_key_values
        found.append(out.logits)
    return torch.cat(found, dim=1)


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _probe_tokens(config) -> int:
    """Tokens of a sequence that looks past every window of the model, where its context is longer than one."""
    config = config.get_text_config()
    limit = models.context_length(config)
    windows = [
        value
        for name, value in config.to_dict().items()
        if type(value) is int and ("window" in name or "chunk" in name) and (limit is None or value < limit)
    ]
    return min(limit or np.inf, max([PROBE_TOKENS, *(window + 8 for window in windows)]))


def position_ids(mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """Positions (batch, tokens) of the last tokens under a mask (batch, past + tokens); padding has none and gets 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens:]


class Session:
    """An ONNX file in ONNX Runtime, called as a transformers model is; `past_key_values` is a list of arrays."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path, config):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what it cannot do, it also raises
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._past = {
            entry.name: entry.shape for entry in self._session.get_inputs() if entry.name.startswith("past_key_values")
        }
        self.config = config

    def get_input_embeddings(self):
        return SimpleNamespace(num_embeddings=self.config.get_text_config().vocab_size)

    def forward(self, input_ids: torch.Tensor, past_key_values=None, attention_mask=None, use_cache: bool = True):
        """Token ids (batch, tokens) → `logits` (batch, tokens, vocabulary) and `past_key_values`.

        attention_mask: (batch, past + tokens), 0 for padding; None where nothing is padded.
        """
        batch, tokens = input_ids.shape
        if past_key_values is None:
            past_key_values = [
                np.zeros((batch, heads, 0, size), np.float32) for _, heads, _, size in self._past.values()
            ]
        if attention_mask is None:
            attention_mask = torch.ones(batch, past_key_values[0].shape[2] + tokens, dtype=torch.int64)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "position_ids" in self._inputs:
            feed["position_ids"] = position_ids(attention_mask, tokens)
        feed = {name: tensor.numpy(force=True) for name, tensor in feed.items() if name in self._inputs}
        logits, *past = self._session.run(None, feed | dict(zip(self._past, past_key_values, strict=True)))
        return SimpleNamespace(logits=torch.from_numpy(logits), past_key_values=past)

    __call__ = forward


def session(model) -> Session:
    """`model` exported, checked and opened; the file is gone, ONNX Runtime holds what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(copy.deepcopy(model).to("cpu", torch.float32), path)
        return Session(path, model.config)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises, each kind a direct child of Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


@contextlib.contextmanager
def _experts_one_by_one(model):
    """Experts as batched products: the grouped one that is used else has no counterpart in ONNX."""
    before = getattr(model.config, "_experts_implementation", None)
    if before is None:
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


@contextlib.contextmanager
def _quiet():
    """The exporter tells of every step, of each library it would have liked, and of what it could not trace."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
    finally:
        logging.disable(before)
