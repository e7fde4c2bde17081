"""Pruning while a model trains: gradual magnitude (arXiv 1710.01878) and movement (arXiv 2005.07683), as callbacks.

    Trainer(..., callbacks=[GradualMagnitude("blocks", Schedule(sparsity=0.5))])

The sparsity rises along a cubic from 0 to its target between two moments of the run; masks are drawn anew every so
many optimizer steps, and removed weights stay zero in every forward pass. As callbacks they go into any `Trainer`, and
their state into its checkpoints.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from prunelab.disk.files import whole_file
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.pruning import masks
from prunelab.pruning.decisions import Decision
from prunelab.recipes import variants

STATE_FILE = "movement.safetensors"


class Schedule(NamedTuple):
    """When how much is gone: s(t) = s_f·(1 - (1 - progress)³), progress from 0 at `begin` to 1 at `end`."""

    sparsity: float  # s_f, of all weights concerned
    begin: float = 0.2  # share of the run's steps after which pruning begins
    end: float = 0.8  # and after which it is complete; the rest of the run recovers
    every: int = 10  # optimizer steps between two masks

    def at(self, step: int, steps: int) -> float | None:
        """The sparsity to reach after optimizer step `step` of `steps`; None where the masks stay as they are.

        Also the step at which the end falls draws masks, so that the target is met whatever `every` is.
        """
        begin, end = round(self.begin * steps), round(self.end * steps)
        if not begin <= step <= end or ((step - begin) % self.every and step != end):
            return None
        return self.sparsity * (1 - (1 - (step - begin) / max(1, end - begin)) ** 3)


class Pruner(TrainerCallback):
    """Keeps masks on the linear weights in the decoder blocks of the model that a trainer trains.

    Args:
        scope: which linear layers of the decoder blocks: blocks (all) | attention | mlp.
        jointly: ranks all weights together; otherwise every tensor loses the same share.
        towers: whose blocks, of a model that sees pictures (`prune.towers`).
    """

    def __init__(self, scope: str, schedule: Schedule, jointly: bool = False, towers: Sequence[str] = ("language",)):
        self.scope, self.schedule, self.jointly, self.towers = scope, schedule, jointly, tuple(towers)
        self.names: list[str] = []  # of the weights, known once the model is
        self.masks: dict[str, torch.Tensor] = {}  # bool, True where a weight is kept

    @property
    def decisive(self) -> list:
        """All that decides what it does, for the fingerprint of a run."""
        return [type(self).__name__, self.scope, *self.schedule, self.jointly, *self.towers]

    def on_train_begin(self, args, state, control, model=None, **_):
        tensors = models.prunable_tensors(model, self.towers)
        self.names = [tensor["name"] for tensor in tensors if self.scope in ("blocks", tensor["role"])]
        if round(self.schedule.begin * state.max_steps) >= round(self.schedule.end * state.max_steps):
            raise InputError(
                f"prune.gradual: {state.max_steps} training steps leave none between begin_percent "
                f"{round(100 * self.schedule.begin)} and end_percent {round(100 * self.schedule.end)}"
            )

    def _weights(self, model) -> dict[str, torch.nn.Parameter]:
        return {name: model.get_parameter(name) for name in self.names}

    def _draw(self, scores: dict[str, torch.Tensor], sparsity: float) -> None:
        """Masks that keep the highest of `scores` (each in its weight's shape)."""
        if self.jointly:
            keep = masks.lowest(torch.cat([score.flatten() for score in scores.values()]), sparsity)
            parts = keep.split([score.numel() for score in scores.values()])
            self.masks = {n: part.view(scores[n].shape) for n, part in zip(scores, parts, strict=True)}
        else:
            self.masks = {name: masks.lowest(score, sparsity) for name, score in scores.items()}


class GradualMagnitude(Pruner):
    """The smallest weights go; what is gone stays zero, so later masks contain earlier ones."""

    @torch.no_grad()
    def on_train_begin(self, args, state, control, model=None, **_):
        super().on_train_begin(args, state, control, model=model)
        if state.global_step:  # resumed: the zeros are the mask
            self.masks = {name: weight != 0 for name, weight in self._weights(model).items()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **_):
        weights = self._weights(model)
        sparsity = self.schedule.at(state.global_step, state.max_steps)
        if sparsity is not None:
            # The optimizer has moved removed weights a little (momentum): they rank lowest all the same.
            held = {n: w * self.masks[n] if n in self.masks else w for n, w in weights.items()}
            self._draw({name: weight.abs() for name, weight in held.items()}, sparsity)
        for name, keep in self.masks.items():
            weights[name].mul_(keep)


class Movement(Pruner):
    """Weights that training drives towards zero go: the score S accumulates -(∂L/∂W)·W, with the mask in W's forward.

    The gradient reaches the score of every weight (straight through the mask) but the weight itself only where it is
    kept; a removed weight keeps its value aside and may come back as long as masks are drawn.
    """

    def __init__(self, scope: str, schedule: Schedule, jointly: bool = True, towers: Sequence[str] = ("language",)):
        super().__init__(scope, schedule, jointly, towers)
        self.scores: dict[str, torch.Tensor] = {}
        self._aside: dict[str, torch.Tensor] = {}  # the weights without masks

    @torch.no_grad()
    def on_train_begin(self, args, state, control, model=None, **_):
        super().on_train_begin(args, state, control, model=model)
        weights = self._weights(model)
        self.scores = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        self._aside = {name: weight.detach().clone() for name, weight in weights.items()}
        if state.global_step:
            self.load(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        for name, weight in self._weights(model).items():
            self.scores[name] -= weight.grad.float() * self._aside[name].float()
            weight.copy_(self._aside[name])
            if name in self.masks:
                weight.grad.mul_(self.masks[name])

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **_):
        weights = self._weights(model)
        for name, weight in weights.items():
            self._aside[name].copy_(weight)
        sparsity = self.schedule.at(state.global_step, state.max_steps)
        if sparsity is not None:
            self._draw(self.scores, sparsity)
        for name, keep in self.masks.items():
            weights[name].mul_(keep)

    def on_save(self, args, state, control, **_):
        tensors = {f"scores.{name}": score for name, score in self.scores.items()}
        tensors |= {f"aside.{name}": weight for name, weight in self._aside.items()}
        tensors |= {f"masks.{name}": keep for name, keep in self.masks.items()}
        with whole_file(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE) as partial:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial)

    def load(self, folder) -> None:
        """Continue from what `on_save` wrote. Raises InputError when it is not there."""
        path = Path(folder) / STATE_FILE
        if not path.exists():
            raise InputError(f"{path}: no movement scores in this checkpoint, so training cannot continue from it")
        for key, tensor in load_file(path).items():
            kind, _, name = key.partition(".")
            if kind == "masks":
                self.masks[name] = tensor.to(self._aside[name].device)
            else:
                {"scores": self.scores, "aside": self._aside}[kind][name].copy_(tensor)


PRUNERS = {"gradual-magnitude": GradualMagnitude, "movement": Movement}


def prune(settings, task, data, out, plan) -> dict:
    """Train the study's model again with a pruner beside it, and write the variant of `plan` into folder `out`.

    task: as of `training.run`.
    Everything else (start, windows, steps, seed) is as for the dense model. Returns what sparsity.json says.
    """
    from prunelab.pruning import pruning
    from prunelab.training import training  # here, because a Trainer of one's own needs only the callbacks

    wanted = settings.prune.gradual
    schedule = Schedule(
        variants.parse_rate(plan.variant.rate).sparsity,
        wanted.begin_percent / 100,
        wanted.end_percent / 100,
        wanted.every_steps,
    )
    pruner = PRUNERS[plan.variant.method](
        plan.scope, schedule, jointly=plan.allocation == "global", towers=settings.prune.towers
    )

    def decide(scope, weights, shares):
        return (Decision(tensor, pruner.masks[tensor["name"]]) for tensor in scope)

    folder = Path(out).with_name(f".{Path(out).name}.trained")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        training.run(settings, task, Path(data), folder, plan.seed, [pruner])
        return pruning.prune(folder, out, plan._replace(checkpoint="last"), decide=decide)
    finally:
        shutil.rmtree(folder)
