"""First-order importance |W·∂L/∂W| of a model's weights over calibration samples, one block in memory at a time.

Forward, the hidden states before every block are kept; the loss is taken once through the output layer; then the
blocks are loaded in reverse, run again and differentiated. That is the work of four forward passes, and
samples·length·width·(blocks + 1) hidden states, on disk where they do not fit.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from prunelab.calibration.blocks import BlockModel, progress, run, workers_for
from prunelab.calibration.hidden import HiddenStates
from prunelab.calibration.samples import Samples, split, with_labels
from prunelab.errors import InputError
from prunelab.models import workers


def write(model: BlockModel, names: set[str], samples: Samples, out, disk=None) -> None:
    """Write `gradients-*.safetensors` into `out`: for each of the weights `names` Σ over samples of |W·∂L/∂W|, fp32.

    L is the mean loss of one sample's tokens, of its labels where it has some; samples run one at a time, so that the
    sum does not depend on how they are batched. `disk`: folder for the hidden states; None keeps them in memory.
    Raises InputError when a gradient is not finite.
    """
    before = _forward(model, samples, disk)
    gradients = _of_loss(model, samples, before.pop(), disk)
    for index in progress(model, "differentiating", backwards=True):
        states = before.pop()
        with model.loaded(index):
            weights = {name: module.weight for name, module in model.linears(index).items() if name in names}
            sums = _of_block(model, index, weights, states, gradients)
        states.close()
        for name, total in sums.items():
            if not torch.isfinite(total).all():
                raise InputError(f"{name}: its gradient is not finite over the calibration text; try precision: fp32")
        save_file({name: total.cpu() for name, total in sums.items()}, Path(out) / f"gradients-{index:05d}.safetensors")
    gradients.close()


def _of_block(model: BlockModel, index: int, weights: dict, states: HiddenStates, gradients: HiddenStates) -> dict:
    """Σ |W·∂L/∂W| of the loaded block's `weights`; `gradients` go from behind the block to before it."""
    for weight in weights.values():
        weight.requires_grad_(True)

    def work(worker: int, numbers) -> dict:
        sums = {name: torch.zeros(weight.shape, device=model.device) for name, weight in weights.items()}
        for number in numbers:
            hidden = states[number].to(model.device).requires_grad_(True)
            found = torch.autograd.grad(
                model.run(index, hidden, number),
                [hidden, *weights.values()],
                gradients[number].to(model.device),
                allow_unused=True,
            )
            gradients[number] = found[0]
            for (name, weight), gradient in zip(weights.items(), found[1:], strict=True):
                if gradient is None:
                    raise InputError(f"{name}: the calibration text never reaches it; leave it out of prune.scope")
                sums[name] += (weight.detach().float() * gradient.float()).abs()
        return sums

    first, *others = workers.share(work, len(states), workers_for(model, states))
    for sums in others:
        for name, part in sums.items():
            first[name] += part
    return first


@torch.no_grad()
def _forward(model: BlockModel, samples: Samples, disk) -> list[HiddenStates]:
    """The hidden states before every block, and behind the last one, a sample a batch."""
    before = [model.enter(samples, 1, disk)]
    for index in progress(model, "running"):
        after = HiddenStates(disk)
        for number in range(len(before[-1])):
            after.append(before[-1][number])
        with model.loaded(index):
            run(model, index, after)
        before.append(after)
    return before


def _of_loss(model: BlockModel, samples: Samples, last: HiddenStates, disk) -> HiddenStates:
    """∂L/∂h of the hidden states `last` behind the last block, a sample a batch."""
    gradients = HiddenStates(disk)
    with model.outside(head=True):
        for number, sample in enumerate(split(samples, 1)):
            hidden = last[number].to(model.device).requires_grad_(True)

            def stand_in(index, passing, args, kwargs, hidden=hidden):
                return hidden if index == len(model.blocks) - 1 else passing

            with model.passed_over(stand_in):
                loss = model.model(**with_labels(sample, model.device, model.dtype), use_cache=False).loss
            gradients.append(torch.autograd.grad(loss, hidden)[0])
    last.close()
    return gradients
