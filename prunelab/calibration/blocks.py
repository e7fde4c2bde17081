"""A model on disk, one decoder block in memory at a time.

The model is built without weights. Embeddings, final norm and what else is outside its blocks (a vision tower) are
loaded once to compute what the first block sees; the blocks are passed over meanwhile, which tells what each is called
with for every batch (masks, positions, ...). From then on a block can be loaded, run on stored hidden states and let
go, whatever the model's size. Nothing here knows an architecture by name.

    model = BlockModel("models/s1/dense")
    states = model.enter({"input_ids": tokens}, batch=4)          # what the first block sees
    for index in range(len(model.blocks)):
        with model.loaded(index):
            for number in range(len(states)):
                states[number] = model.run(index, states[number], number)
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from tqdm import tqdm

from prunelab.calibration.hidden import HiddenStates
from prunelab.calibration.samples import Samples, inputs, own_tokens, split
from prunelab.errors import InputError
from prunelab.models import loading, models, workers
from prunelab.models.composites import LANGUAGE
from prunelab.models.tensors import Tensors

LARGE_BYTES = 2_000_000_000  # from here on memory counts for more than the few percent of time that saving it costs


class _Ended(Exception):
    """All that a batch can tell has been seen."""


class BlockModel:
    """The model in folder `path` (plain Hugging Face, safetensors), in eval mode, without weights until asked.

    Args:
        weights: folder whose safetensors are read, where it is not `path` itself (the best checkpoint, say).
        precision: of the forward passes: `fp32`, `bf16`, or `auto`: bf16 where this machine computes it natively.
        device: None takes the GPU when there is one.
        tower: whose blocks, of a model that sees pictures: `language` or `vision`.

    Raises InputError when the folder holds no model, a file is cut off or corrupt, no decoder blocks are found, or
    their tensors are not in the files.
    """

    def __init__(self, path, weights=None, precision: str = "auto", device=None, tower: str = LANGUAGE):
        path, self.weights = Path(path), Path(weights or path)
        self.config = loading.config_of(path)
        tensors = Tensors(self.weights)
        stored = set(tensors.names())
        if tensors.nbytes >= LARGE_BYTES:
            _give_freed_memory_back()
        bf16 = precision == "bf16" or (precision == "auto" and models.computes_bf16())
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with init_empty_weights(include_buffers=False):
            self.model = loading.of_config(self.config, dtype=self.dtype)
        self.model.eval().requires_grad_(False)
        self.stack, self.blocks = models.decoder_blocks(self.model, tower)
        self.pruned: dict[str, torch.Tensor] = {}  # weights that are taken in place of the files', by their names
        # Buffers that no file holds (rotary frequencies) are real already; only their place may be wrong.
        for module in self.model.modules():
            for leaf, buffer in module.named_buffers(recurse=False):
                setattr(module, leaf, buffer.to(self.device))
        names = list(self.model.state_dict())
        head = self.model.get_output_embeddings()
        self._head = [name for name in names if head is not None and self._owner(name)[0] is head]
        # Behind a vision tower's blocks nothing is run, so the language model's are not needed.
        self._ends_early = tower != LANGUAGE
        later = [self.stack] + ([models.decoder_blocks(self.model)[0]] if self._ends_early else [])
        inside = tuple(f"{stack}." for stack in later)
        self._outside = [name for name in names if not name.startswith(inside) and name not in self._head]
        self._of_block = [
            [name for name in names if name.startswith(f"{self.stack}.{index}.")] for index in range(len(self.blocks))
        ]
        if missing := sorted(set(loading.state_names(self.model)) - stored):
            raise InputError(
                f"{self.weights}: {len(missing)} tensors of {type(self.model).__name__} are not in its safetensors, "
                f"such as {missing[0]}; blocks are read one by one from what the stage train wrote (dvc repro train)"
            )
        self._calls: list[list[tuple | None]] = []  # of every batch: (args, kwargs) of every block
        self._own: list[torch.Tensor | None] = []  # of every batch: which places are no filling; None: all
        self._extra: int | None = None  # how many values a block returns behind the hidden states; None: no tuple

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return self.model.get_submodule(path), leaf

    def _fill(self, names: Iterable[str]) -> None:
        """Load the parameters and buffers `names` from the files onto the device."""
        # Opened anew each time: what a closed file had mapped leaves this process.
        tensors = Tensors(self.weights)
        for name in names:
            if name not in tensors:
                continue  # a buffer that is computed, or a head that is tied
            module, leaf = self._owner(name)
            old, new = getattr(module, leaf), self.pruned[name] if name in self.pruned else tensors[name]
            if new.shape != old.shape:
                raise InputError(
                    f"{self.weights}: {name} has shape {list(new.shape)}, its config says {list(old.shape)}; "
                    "config.json and safetensors are of different models"
                )
            new = new.to(self.device, self.dtype if new.is_floating_point() else new.dtype)
            if leaf in module._buffers:
                module._buffers[leaf] = new
            else:
                module._parameters[leaf] = nn.Parameter(new, requires_grad=False)

    def _empty(self, names: Iterable[str]) -> None:
        for name in names:
            module, leaf = self._owner(name)
            if leaf in module._parameters:
                module._parameters[leaf] = nn.Parameter(module._parameters[leaf].to("meta"), requires_grad=False)

    @contextlib.contextmanager
    def loaded(self, index: int):
        """Yield block `index` with its weights on the device; afterwards they are let go."""
        self._fill(self._of_block[index])
        try:
            yield self.blocks[index]
        finally:
            self._empty(self._of_block[index])

    @contextlib.contextmanager
    def outside(self, head: bool = False):
        """Everything but the blocks is loaded: embeddings, final norm and, with `head`, the output layer."""
        names = [*self._outside, *(self._head if head else [])]
        self._fill(names)
        if head:
            self._complete_head()
        try:
            yield
        finally:
            self._empty(names)

    def _complete_head(self) -> None:
        """Give tied tensors, which the files hold once, their place in the output layer."""
        for target, source in self.model.all_tied_weights_keys.items():
            module, leaf = self._owner(target)
            module._parameters[leaf] = self.model.get_parameter(source)

    def linears(self, index: int) -> dict[str, nn.Module]:
        """The linear layers of block `index`, by the name of their weight in the files."""
        return {
            f"{self.stack}.{index}.{path}.weight": module
            for path, module in self.blocks[index].named_modules()
            if models.is_linear(module)
        }

    @torch.no_grad()
    def enter(self, samples: Samples, batch: int, folder=None) -> HiddenStates:
        """What the first block sees of `samples`, in batches of `batch` samples.

        The hidden states live in memory, or in a file in `folder`. Raises InputError for a model that does more between
        its blocks than to hand hidden states on.
        """
        states, batches = HiddenStates(folder), split(samples, batch)
        base, handed_on = self.model.base_model, None
        self._calls, self._own = [], [own_tokens(part) for part in batches]

        def record(index, hidden, args, kwargs):
            nonlocal handed_on
            if self._calls[-1][index] is not None:
                raise InputError(
                    f"{type(self.model).__name__}: it runs block {index} more than once for a text, so its blocks "
                    "cannot be run one at a time; take methods that look at no calibration text"
                )
            # Most models call a block with the same for every text: then it is held once.
            known = self._calls[0][index] if len(self._calls) > 1 else None
            self._calls[-1][index] = known if known and _equal(known, (args, kwargs)) else (args, kwargs)
            if index == 0:
                if not len(states):
                    out = type(self.blocks[0]).forward(self.blocks[0], hidden, *args, **kwargs)
                    self._extra = len(out) - 1 if isinstance(out, tuple) else None
                states.append(hidden)
                handed_on = hidden
            elif not _equal(hidden, handed_on):
                raise InputError(
                    f"{type(self.model).__name__}: it changes the hidden states between blocks {index - 1} and {index} "
                    "(as DeepStack adds a picture's features there), so its blocks cannot be run one at a time; take "
                    "methods that look at no calibration text"
                )
            if self._ends_early and index + 1 == len(self.blocks):
                raise _Ended
            return hidden

        with self.outside(head=base is self.model), self.loaded(0), self.passed_over(record):
            for part in batches:
                self._calls.append([None] * len(self.blocks))
                with contextlib.suppress(_Ended):
                    base(**inputs(part, self.device, self.dtype), use_cache=False)
        return states

    @contextlib.contextmanager
    def passed_over(self, stand_in: Callable):
        """Within, every block answers `stand_in(index, hidden, args, kwargs)` instead of computing."""

        def answer(index, hidden, *args, **kwargs):
            out = stand_in(index, hidden, args, kwargs)
            return out if self._extra is None else (out, *[None] * self._extra)

        for index, block in enumerate(self.blocks):
            block.forward = functools.partial(answer, index)
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def run(self, index: int, hidden: torch.Tensor, number: int) -> torch.Tensor:
        """The output of the loaded block `index` for the hidden states of batch `number`, on the device."""
        args, kwargs = self._calls[number][index]
        out = self.blocks[index](hidden.to(self.device), *args, **kwargs)
        return out if self._extra is None else out[0]

    def own_tokens(self, number: int) -> torch.Tensor | None:
        """(samples, length) bool: which places of batch `number` are tokens of its samples; None where all are."""
        own = self._own[number]
        return None if own is None else own.to(self.device)


def workers_for(model: BlockModel, states: HiddenStates) -> int:
    """How many batches of `states` run side by side."""
    return workers.number_of(model.device, len(states))


def run(model: BlockModel, index: int, states: HiddenStates, observer=None, keep: bool = True) -> None:
    """Run the loaded block `index` on all batches of `states`; with `keep` they become what comes out of it."""

    def work(worker: int, numbers) -> None:
        for number in numbers:
            with observer.batch(worker, model.own_tokens(number)) if observer else contextlib.nullcontext():
                out = model.run(index, states[number], number)
            if keep:
                states[number] = out

    workers.share(work, len(states), workers_for(model, states))


def progress(model: BlockModel, what: str, backwards: bool = False):
    """The numbers of the model's blocks, with a progress bar on a terminal."""
    numbers = range(len(model.blocks))
    # Not reversed(tqdm(...)): a bar that is switched off then counts forwards.
    return tqdm(numbers[::-1] if backwards else numbers, desc=what, unit="block", disable=None)


def _give_freed_memory_back() -> None:
    """From now on, tensors that are let go leave this process, where the C library is glibc.

    By itself it keeps what was freed, up to 32 MB a piece, for later; pieces of many sizes from several threads then
    add up to twice what is in use. A fixed threshold ends that (man mallopt): larger pieces are mapped one by one.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: has its own ways
            ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


def _equal(one, other) -> bool:
    """Whether two nests of arguments hold the same values."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return one == other
