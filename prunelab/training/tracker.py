"""Weight history: the training-aware importance of arXiv 2502.17071, accumulated while the model trains.

At tick `e` of `n` every tracked tensor adds to a running sum: `A += c(e)·v(e)`, `S += c(e)`, and `Imp = A / S`, where
`v` is |w| or w, and `c(e)` is e, sqrt(e), 1 or beta^(n-e). Beside it stands the averaged clone, the same mean of the
signed weights of *all* parameters. That is two fp32 copies at most (one where v is signed: importance is the clone),
and no history on disk but a small sample of trajectories. Several histories may follow one run: two windows cost two
such pairs of copies, and no second training.

    history = WeightHistory(model, importance=names)      # a plain loop
    for step in ...:
        train_one_step()
        history.tick(model)

    Trainer(..., callbacks=[WeightHistoryCallback(history)])      # transformers
"""

import functools
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save_file
from transformers import TrainerCallback

from prunelab.disk.files import whole_file
from prunelab.errors import InputError
from prunelab.training import lowrank

STATE_FILE = "weight_history.safetensors"
# Those put `module.` before every name; torch.compile puts `_orig_mod.` before the names of what it compiled.
WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


class WeightHistory:
    """Streaming importance, averaged clone and sampled trajectories of a model's weights.

    Args:
        model: any `torch.nn.Module`; tensors are followed by their names in `named_parameters()`. Here and in `tick` it
            may be what `torch.compile`, `DataParallel` and the like made of it: names are those of the model inside.
        importance: names of the tensors that get an importance (the prunable ones); the clone covers all parameters.
        value: `absolute` or `signed`.
        weighting: `linear` (the paper), `sqrt`, `uniform`, or `exponential` with `beta`.
        window: only the last `window` ticks count (the paper's k+1); needs `total_ticks`, the paper's n.
        trajectories: how many weights of each importance tensor are recorded at every tick, chosen by `seed`.
        named: weights that are recorded beside them: tensor (any parameter) → indices, counted in row-major order.
        device: where the sums lie, `cpu` for a GPU that has no room for them; None: each beside its parameter.

    Raises InputError for a name or an index that the model does not have, for a window without a known end, and for a
    signed importance of a frozen parameter, which the averaged clone leaves out.
    """

    def __init__(
        self,
        model,
        importance: list[str],
        *,
        value: str = "absolute",
        weighting: str = "linear",
        beta: float = 0.9,
        window: int | None = None,
        total_ticks: int | None = None,
        trajectories: int = 0,
        named: dict[str, list[int]] | None = None,
        seed: int = 0,
        device: str | None = None,
    ):
        parameters = _parameters(model)
        importance = [_own_name(model, name) for name in importance]
        if missing := sorted(set(importance) - set(parameters)):
            raise InputError(f"weight history: the model has no parameter {missing[0]!r}")
        frozen = sorted(name for name in importance if not parameters[name].requires_grad)
        if value == "signed" and frozen:
            raise InputError(
                f"weight history: {frozen[0]!r} is frozen, so it has no signed mean; leave it out of importance, or "
                "take value: absolute"
            )
        if window is not None and total_ticks is None:
            raise InputError("weight history: a window counts back from the last tick, so total_ticks must be known")
        self.value, self.weighting, self.beta, self.window = value, weighting, beta, window
        self.total_ticks, self.device = total_ticks, device
        self.ticks = 0  # seen so far
        self.weight_sum = 0.0  # S
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        zeros = functools.partial(torch.zeros_like, dtype=torch.float32, device=device)
        self._average = {name: zeros(value) for name, value in parameters.items() if value.requires_grad}
        # A signed importance is the averaged clone itself: one copy serves both.
        self._importance = (
            {name: zeros(parameters[name]) for name in importance}
            if value == "absolute"
            else {name: self._average[name] for name in importance}
        )
        generator = torch.Generator().manual_seed(seed)
        self._sampled = {
            name: torch.randperm(parameters[name].numel(), generator=generator)[:trajectories].sort().values
            for name in (importance if trajectories else [])
        }
        self._named = self._also_sampled(parameters, named or {})
        self._paths: list[torch.Tensor] = []  # one (samples,) row a tick
        self._steps: list[int] = []  # the optimizer step of each tick

    def _also_sampled(self, parameters: dict, named: dict[str, list[int]]) -> set[tuple[str, int]]:
        """Have the weights `named` recorded, too; (tensor, index) of each."""
        for name, indices in named.items():
            if name not in parameters:
                raise InputError(f"weight history: the model has no parameter {name!r}, whose weights it should follow")
            size = parameters[name].numel()
            if beyond := [index for index in indices if index >= size]:
                raise InputError(
                    f"weight history: {name!r} has {size} weights, so there is none of index {beyond[0]}; "
                    f"expected 0 to {size - 1}"
                )
            drawn = self._sampled.get(name, torch.empty(0, dtype=torch.long))
            self._sampled[name] = torch.cat([drawn, torch.tensor(indices, dtype=torch.long)]).unique()
        return {(name, index) for name, indices in named.items() for index in indices}

    @torch.no_grad()
    def tick(self, model, step: int | None = None) -> None:
        """Take the model's weights of this moment into account; `step` is only written beside the trajectories.

        Raises InputError, before anything is counted, when a parameter is gone or has another shape than at the start.
        """
        parameters = self._found(model)
        self.ticks += 1
        if self._sampled:
            # One gather a device and one copy to the host, so that a GPU is not stalled once a tensor.
            row = [
                parameters[name].flatten()[index.to(parameters[name].device)] for name, index in self._sampled.items()
            ]
            self._paths.append(torch.cat(row).float().cpu())
            self._steps.append(self.ticks if step is None else step)
        if self.window is not None and self.ticks <= self.total_ticks - self.window:
            return
        self._follow_to_other_devices(parameters)
        coefficient, decay = self._coefficient()
        self.weight_sum = self.weight_sum * decay + coefficient
        self._add(self._average, parameters, coefficient, decay, absolute=False)
        if self.value == "absolute":
            self._add(self._importance, parameters, coefficient, decay, absolute=True)

    def _found(self, model) -> dict[str, torch.Tensor]:
        """The parameters that are followed, by name. One tied to another since goes by both names."""
        parameters = _parameters(model, remove_duplicate=False)
        for name in self._average.keys() | self._importance.keys():
            shape = parameters[name].shape if name in parameters else None
            if shape != self._shapes[name]:
                found = "is gone" if shape is None else f"has become {tuple(shape)}"
                raise InputError(
                    f"weight history: {name!r} of shape {tuple(self._shapes[name])} {found} since the history began; "
                    "give tick the model that it was made of"
                )
        return parameters

    def _follow_to_other_devices(self, parameters: dict) -> None:
        """Move every sum to where its parameter is now: a trainer moves the model after the history was made."""
        if self.device is not None:
            return
        for name in self._average.keys() | self._importance.keys():
            shared = self._average.get(name) is self._importance.get(name)
            for sums in (self._average, self._importance):
                if name in sums and sums[name].device != parameters[name].device:
                    sums[name] = sums[name].to(parameters[name].device)
            if shared:
                self._importance[name] = self._average[name]

    def _coefficient(self) -> tuple[float, float]:
        """c(e) of this tick and the factor on what came before (beta^(n-e) without knowing n: decay the past)."""
        if self.weighting == "exponential":
            return 1.0, self.beta
        return {"linear": float(self.ticks), "sqrt": math.sqrt(self.ticks), "uniform": 1.0}[self.weighting], 1.0

    @staticmethod
    def _add(sums: dict, parameters: dict, coefficient: float, decay: float, absolute: bool) -> None:
        for name, total in sums.items():
            weights = parameters[name].detach().to(total.device)
            if decay != 1.0:
                total.mul_(decay)
            total.add_(weights.abs() if absolute else weights, alpha=coefficient)

    def importance(self) -> dict[str, torch.Tensor]:
        """Imp = A / S for every importance tensor, fp32, in the shape of the weights; signed values may be negative."""
        self._require_ticks()
        return {name: total / self.weight_sum for name, total in self._importance.items()}

    def average(self) -> dict[str, torch.Tensor]:
        """The averaged clone: the weighted mean of every trained parameter, fp32."""
        self._require_ticks()
        return {name: total / self.weight_sum for name, total in self._average.items()}

    def trajectories(self) -> list[dict]:
        """Rows `tick, step, tensor, index, value, named` of the sampled weights; `index` counts in row-major order,
        `named` tells those that were asked for by name from those that chance chose."""
        rows = []
        for tick, (step, path) in enumerate(zip(self._steps, self._paths, strict=True), start=1):
            values = iter(path.tolist())
            for name, index in self._sampled.items():
                rows += [
                    {"tick": tick, "step": step, "tensor": name, "index": i, "value": next(values),
                     "named": (name, i) in self._named}
                    for i in index.tolist()
                ]  # fmt: skip
        return rows

    def options(self) -> dict:
        """What a result must say about how its importance was made."""
        return {
            "value": self.value,
            "weighting": self.weighting,
            "beta": self.beta if self.weighting == "exponential" else None,
            "window": self.window,
            "ticks": self.ticks,
        }

    def _require_ticks(self) -> None:
        if self.weight_sum == 0:
            raise InputError("weight history: no tick was taken, so there is no importance yet")

    def save(self, folder) -> None:
        """Write the whole state into `folder`, so that a resumed run ends with the same figures."""
        tensors = {f"average.{name}": total for name, total in self._average.items()}
        if self.value == "absolute":
            tensors |= {f"importance.{name}": total for name, total in self._importance.items()}
        tensors |= {f"sampled.{name}": index for name, index in self._sampled.items()}
        if self._paths:
            tensors["paths"] = torch.stack(self._paths)
        state = {"options": self.options(), "weight_sum": self.weight_sum, "steps": self._steps}
        with whole_file(Path(folder) / STATE_FILE) as partial:
            save_file({n: t.contiguous() for n, t in tensors.items()}, partial, {"state": json.dumps(state)})

    def load(self, folder) -> None:
        """Continue from `save`. Raises InputError when the state is missing or was made with other options."""
        path = Path(folder) / STATE_FILE
        if not path.exists():
            raise InputError(f"{path}: no weight history in this checkpoint, so training cannot continue from it")
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
        saved = state["options"]
        if {**saved, "ticks": 0} != {**self.options(), "ticks": 0}:
            raise InputError(f"{path}: made with {saved}, this run asks for {self.options()}")
        tensors = load_file(path)
        for prefix, target in (("average", self._average), ("importance", self._importance)):
            for name, total in target.items():
                if f"{prefix}.{name}" in tensors:
                    total.copy_(tensors[f"{prefix}.{name}"])
        self._sampled = {name: tensors[f"sampled.{name}"] for name in self._sampled}
        self._paths = list(tensors["paths"]) if "paths" in tensors else []
        self.ticks, self.weight_sum, self._steps = saved["ticks"], state["weight_sum"], state["steps"]


def _parameters(model, remove_duplicate: bool = True) -> dict[str, torch.Tensor]:
    """The parameters of the model inside whatever wraps it, by its own names; low-rank updates are in the weights."""
    named = model.named_parameters(remove_duplicate=remove_duplicate)
    parameters = {_own_name(model, name): parameter for name, parameter in named}
    return lowrank.plain(parameters, model) if lowrank.is_adapted(parameters) else parameters


def _own_name(model, name: str) -> str:
    """The name that a parameter of the wrapped `model` has in the model inside."""
    inner = getattr(model, "_orig_mod", model)
    name = name.replace("_orig_mod.", "")
    return _own_name(inner.module, name.removeprefix("module.")) if isinstance(inner, WRAPPERS) else name


class WeightHistoryCallback(TrainerCallback):
    """Feeds a `WeightHistory` from a transformers `Trainer`, and keeps its state in every checkpoint.

    Ticks are taken in `on_step_end`, also those of whole epochs: the trainer saves between `on_step_end` and
    `on_epoch_end`, so a tick taken in the latter would be missing from the epoch's own checkpoint.

    Args:
        history: the accumulator, made from the model that the trainer trains.
        tick: `epoch` or `steps`; `every`: a tick every so many of them.
        readings: further accumulators of the same run, by name, which tick along: another window, another mean.
    """

    def __init__(
        self,
        history: WeightHistory,
        tick: str = "epoch",
        every: int = 1,
        readings: dict[str, WeightHistory] | None = None,
    ):
        self.history, self.unit, self.every, self.readings = history, tick, every, readings or {}

    def on_step_end(self, args, state, control, model=None, **_):
        if self.unit == "steps":
            due = state.global_step % self.every == 0
        else:
            # state.epoch is a float; at the last step of an epoch it is whole up to rounding.
            whole = round(state.epoch)
            due = abs(state.epoch - whole) < 1e-6 and whole % self.every == 0
        if due:
            for history in (*self.readings.values(), self.history):
                history.tick(model, step=state.global_step)

    def on_save(self, args, state, control, **_):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name, reading in self.readings.items():
            (folder / name).mkdir(exist_ok=True)
            reading.save(folder / name)
        self.history.save(folder)  # last: a checkpoint that holds it is whole

    def on_train_begin(self, args, state, control, **_):
        if state.global_step > 0:  # resumed
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.history.load(folder)
            for name, reading in self.readings.items():
                reading.load(folder / name)
