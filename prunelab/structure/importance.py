"""How much a unit (structure.py) or a whole block matters: the lowest are removed first.

Importances of units, summed over what belongs to a unit. W is the reader, `(out, in)`; x its inputs, over tokens:

    flap        Var(x_j) · Σ_i W_ij²          arXiv 2312.11983; what stays constant can be replaced by a bias
    wanda       ‖x_j‖₂ · Σ_i |W_ij|           arXiv 2306.11695, summed over a column
    taylor      Σ |W · dL/dW|                 over all weights of the unit, summed over calibration batches
    norms       ‖gate_j‖₁ · ‖up_j‖₁           of an MLP's rows; without a gate ‖fc1_j‖₁ alone
    variance    Var(gate_j) + Var(up_j)
    maxabs      max |gate_j| + max |up_j|
    history     Σ Imp                         of tracker.py, over all weights of the unit
    random      the control

FLAP standardises its scores within a layer in order to compare layers; with one width for all, that changes no order.
Blocks: ShortGPT's influence, `1 - E[cos(h_in, h_out)]` (arXiv 2403.03853).
"""

import contextlib
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import torch

from prunelab.calibration.observer import counted
from prunelab.calibration.samples import Samples, inputs, own_tokens, with_labels
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.structure.structure import Site


class Inputs:
    """Mean and variance of a layer's inputs over all tokens seen, in one pass, fp32 (Chan's update)."""

    def __init__(self):
        self.count, self.mean, self._m2 = 0, 0.0, 0.0

    def add(self, x: torch.Tensor) -> None:
        """x (…, in)."""
        x = x.detach().flatten(0, -2).float()
        n, mean = len(x), x.mean(0)
        delta = mean - self.mean
        total = self.count + n
        self._m2 = self._m2 + ((x - mean) ** 2).sum(0) + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """(in,), over tokens (dividing by their number)."""
        return self._m2 / self.count

    @property
    def norm(self) -> torch.Tensor:
        """(in,): the Euclidean norm over all tokens."""
        return (self._m2 + self.count * self.mean**2).sqrt()


class Evidence(NamedTuple):
    """What the importances look at besides the weights; what a method does not need stays None."""

    inputs: dict[str, Inputs] | None = None  # of every reader, by module name
    taylor: dict[str, torch.Tensor] | None = None  # Σ |W·dL/dW| by tensor name
    history: dict[str, torch.Tensor] | None = None  # Imp by tensor name
    seed: int = 0


@torch.no_grad()
def watch_inputs(model, sites: list[Site], batches: Iterable[Samples]) -> dict[str, Inputs]:
    """Run `batches` of samples and return the statistics of every reader's inputs over their tokens."""
    seen = {site.reader.module: Inputs() for site in sites}
    own: torch.Tensor | None = None  # of the batch at work

    def add(into: Inputs, reached: torch.Tensor) -> None:
        into.add(counted(reached, own))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, into=into: add(into, args[0]))
        for name, into in seen.items()
    ]
    with _unhooked(hooks):
        for batch in batches:
            own = _own_tokens(model, batch)
            model.base_model(**inputs(batch, model.device, model.dtype), use_cache=False)
    return seen


def _own_tokens(model, batch: Samples) -> torch.Tensor | None:
    own = own_tokens(batch)
    return None if own is None else own.to(model.device)


def watch_gradients(model, sites: list[Site], batches: Iterable[Samples]) -> dict[str, torch.Tensor]:
    """Σ over batches of |W·dL/dW| of every weight that a unit cuts; L is the mean loss of the batch, nats a token."""
    weights = {f"{part.module}.weight" for site in sites for part in (*site.makers, site.reader)}
    parameters = dict(model.named_parameters())
    needed = {name: parameter.requires_grad for name, parameter in parameters.items()}
    total = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in weights}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in weights)
        with torch.enable_grad():
            for batch in batches:
                model(**with_labels(batch, model.device, model.dtype), use_cache=False).loss.backward()
                for name in weights:
                    total[name] += (parameters[name].detach() * parameters[name].grad).abs()
                    parameters[name].grad = None
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(needed[name])
    return total


@torch.no_grad()
def influence(model, batches: Iterable[Samples]) -> torch.Tensor:
    """(blocks,): 1 - the mean cosine, over tokens, of a block's input and output hidden states."""
    _, blocks = models.decoder_blocks(model)
    cosines = torch.zeros(len(blocks), dtype=torch.float64)
    own: torch.Tensor | None = None  # of the batch at work
    tokens = 0

    def hook(index):
        def add(_, args, kwargs, output):
            entered = hidden_of(args, kwargs)
            left = output if torch.is_tensor(output) else output[0]
            cosine = torch.nn.functional.cosine_similarity(entered.float(), left.float(), dim=-1)
            cosines[index] += (cosine if own is None else cosine[own]).double().sum().cpu()

        return add

    hooks = [block.register_forward_hook(hook(i), with_kwargs=True) for i, block in enumerate(blocks)]
    with _unhooked(hooks):
        for batch in batches:
            own = _own_tokens(model, batch)
            tokens += batch["input_ids"].numel() if own is None else int(own.sum())
            model.base_model(**inputs(batch, model.device, model.dtype), use_cache=False)
    return (1 - cosines / tokens).float()


def hidden_of(args: tuple, kwargs: dict) -> torch.Tensor:
    """The hidden states among what a block was called with."""
    return args[0] if args else kwargs["hidden_states"]


@contextlib.contextmanager
def _unhooked(hooks):
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def of_units(model, site: Site, kind: str, evidence: Evidence) -> torch.Tensor:
    """(units,) importance of `kind` (a key of UNITS). Raises InputError where it does not apply."""
    return UNITS[kind](model, site, evidence).float().cpu()


def _reader(model, site: Site) -> torch.Tensor:
    """The reader's weight (out, in), fp32."""
    weight = model.get_submodule(site.reader.module).weight.detach().float()
    return weight.T if site.reader.transposed else weight


def _by_unit(columns: torch.Tensor, site: Site) -> torch.Tensor:
    """Sums of the reader's columns (in,) that belong to each unit."""
    return columns.view(site.units, site.reader.size).sum(1)


def _flap(model, site, evidence):
    return _by_unit(evidence.inputs[site.reader.module].variance * (_reader(model, site) ** 2).sum(0), site)


def _wanda(model, site, evidence):
    return _by_unit(evidence.inputs[site.reader.module].norm * _reader(model, site).abs().sum(0), site)


def _summed(site: Site, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """(units,): the sum of `values` over all weights of each unit."""
    total = 0.0
    for name, dim, size in site.cuts(lambda name: False):
        tensor = values[name].float()
        total = total + tensor.sum(1 - dim).view(site.units, size).sum(1)
    return total


def _taylor(model, site, evidence):
    return _summed(site, evidence.taylor)


def _history(model, site, evidence):
    return _summed(site, {name: evidence.history[name].abs() for name, _, _ in site.cuts(lambda name: False)})


def _random(model, site, evidence):
    """Seeded by the reader's name, so that one block's draw does not depend on another's."""
    digest = hashlib.sha256(f"{evidence.seed}/{site.reader.module}".encode()).digest()
    return torch.rand(site.units, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1))


def _rows(model, site: Site) -> list[torch.Tensor]:
    """The makers' weights, each (neurons, in), fp32."""
    if any(maker.size != 1 for maker in site.makers):
        raise InputError(f"{site.reader.module}: norms, variance and maxabs are importances of neurons, not of heads")
    weights = [(model.get_submodule(maker.module).weight.detach().float(), maker.transposed) for maker in site.makers]
    return [weight.T if transposed else weight for weight, transposed in weights]


def _norms(model, site, evidence):
    return torch.stack([rows.abs().sum(1) for rows in _rows(model, site)]).prod(0)


def _variance(model, site, evidence):
    return sum(rows.var(1) for rows in _rows(model, site))


def _maxabs(model, site, evidence):
    return sum(rows.abs().amax(1) for rows in _rows(model, site))


UNITS = {
    "flap": _flap,
    "wanda": _wanda,
    "taylor": _taylor,
    "norms": _norms,
    "variance": _variance,
    "maxabs": _maxabs,
    "history": _history,
    "random": _random,
}
