"""A model as one ONNX file that takes and returns its cache, and ONNX Runtime behind a transformers-like call.

Inputs: `input_ids` (batch, tokens) int64 and, for every block, `past.<i>.keys` and `past.<i>.values` (batch, heads,
past, head size). Outputs: `logits` (batch, tokens, vocabulary), `present.<i>.keys` and `present.<i>.values`. The first
call gives a cache of length 0. Batch, tokens and past may be of any size; the mask is causal, prompts are not padded.
"""

import contextlib
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

TOLERANCE = 1e-3  # of logits, relative to the largest: another library sums in another order
PROBE = (5, 1, 1)  # tokens of the calls that check the file: a prompt, then one at a time


class _Step(nn.Module):
    """The model as a function of tensors alone: masks and positions follow from their shapes."""

    def __init__(self, model, blocks: int):
        super().__init__()
        self.model, self.blocks = model, blocks

    def forward(self, input_ids, *past):
        from transformers import DynamicCache

        batch, tokens, seen = input_ids.shape[0], input_ids.shape[1], past[0].shape[2]
        cache = DynamicCache()
        for block in range(self.blocks):
            cache.update(past[2 * block], past[2 * block + 1], block)
        position = torch.arange(tokens) + seen
        visible = torch.arange(tokens + seen)[None, :] <= position[:, None]
        mask = torch.where(visible, 0.0, torch.finfo(past[0].dtype).min)
        out = self.model(
            input_ids=input_ids,
            position_ids=position[None].expand(batch, tokens),
            attention_mask=mask[None, None].expand(batch, 1, tokens, tokens + seen),
            past_key_values=cache,
            use_cache=True,
        )
        return (out.logits, *_tensors(out.past_key_values))


def _tensors(cache) -> list[torch.Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def export(model, path) -> float:
    """Write `model` (fp32, on the CPU, eval) to `path` and check it against torch.

    Returns the largest difference of logits, relative to the largest logit, over a prompt and single tokens with the
    cache. Raises InputError where the model cannot be exported, or the file computes something else.
    """
    ids = torch.randint(model.get_input_embeddings().num_embeddings, (2, sum(PROBE)),
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    with torch.no_grad():
        past = _tensors(model(input_ids=ids[:, :4], use_cache=True).past_key_values)
    blocks = len(past) // 2
    any_size = torch.export.Dim.DYNAMIC
    sizes = ({0: any_size, 1: any_size}, tuple({0: any_size, 2: any_size} for _ in past))
    with _quiet():
        try:
            program = torch.onnx.export(
                _Step(model, blocks).eval(),
                (ids[:, :3], *past),
                dynamo=True,
                dynamic_shapes=sizes,
                input_names=["input_ids", *_names("past", blocks)],
                output_names=["logits", *_names("present", blocks)],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(f"onnx: {type(model).__name__} cannot be exported: {reason}") from error
        program.save(str(path))
    apart = _check(model, Session(path, model.config), ids)
    if not apart <= TOLERANCE:
        raise InputError(
            f"onnx: the exported {type(model).__name__} computes logits {apart:.1e} (relative) from torch's, more than "
            f"{TOLERANCE:.0e}; it is of no use"
        )
    return apart


def _names(kind: str, blocks: int) -> list[str]:
    return [f"{kind}.{block}.{part}" for block in range(blocks) for part in ("keys", "values")]


@torch.inference_mode()
def _check(model, session: "Session", ids: torch.Tensor) -> float:
    worst = 0.0
    mine = theirs = None
    for part in ids.split(list(PROBE), dim=1):
        mine = session(input_ids=part, past_key_values=mine.past_key_values if mine else None)
        theirs = model(input_ids=part, past_key_values=theirs.past_key_values if theirs else None, use_cache=True)
        worst = max(worst, float((mine.logits - theirs.logits).abs().max() / theirs.logits.abs().max()))
    return worst


class Session:
    """An ONNX file in ONNX Runtime, called as a transformers model is; `past_key_values` is a list of arrays."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path, config):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        self.config = config

    def get_input_embeddings(self):
        return SimpleNamespace(num_embeddings=self.config.get_text_config().vocab_size)

    def forward(self, input_ids: torch.Tensor, past_key_values=None, use_cache: bool = True):
        """Token ids (batch, tokens) → `logits` (batch, tokens, vocabulary) and `past_key_values`."""
        if past_key_values is None:
            shapes = [entry.shape for entry in self._inputs[1:]]
            past_key_values = [np.zeros((len(input_ids), s[1], 0, s[3]), np.float32) for s in shapes]
        names = [entry.name for entry in self._inputs]
        logits, *past = self._session.run(None, dict(zip(names, [input_ids.numpy(), *past_key_values], strict=True)))
        return SimpleNamespace(logits=torch.from_numpy(logits), past_key_values=past)

    __call__ = forward


def session(model) -> Session:
    """`model` exported, checked and opened; the file is gone, ONNX Runtime holds what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model.float(), path)
        return Session(path, model.config)


@contextlib.contextmanager
def _quiet():
    """The exporter tells of every step and of each library it would have liked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
