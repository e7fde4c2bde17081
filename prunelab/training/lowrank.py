"""Low-rank updates (LoRA) in the place of weights while a model trains, and the plain weights that they amount to.

    W' = W + (alpha / r) · B A      W as it was, frozen; A (r, in) and B (out, r) in fp32 are trained

The layers are peft's; A and B stand beside `base_layer` in the model's state. Whoever follows, writes or reads weights
sees `plain` of it: the names and shapes of the model that peft was given, with W' in their places.
"""

from collections.abc import Iterable, Mapping

import torch

from prunelab.errors import InputError

ALPHA = 2  # times the rank: the usual scale of the updates
BASE, FIRST, SECOND = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def adapt(model, tensors: list[dict], rank: int, new: Iterable[str] = ()):
    """Put low-rank updates on the layers of `tensors` (prunable.json) in `model`, in place; everything else is frozen.

    new: how the names of parameters begin that are trained whole, because they were never trained before. Returns
    peft's model around it, for `merge`. Raises InputError where peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("train.parameters: lora needs peft: pip install -e '.[recovery]'") from None
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        target_modules=[tensor["name"].removesuffix(".weight") for tensor in tensors],
        fan_in_fan_out=any(tensor["transposed"] for tensor in tensors),
    )
    adapted = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(new)):
            parameter.requires_grad_(True)
    return adapted


def merge(adapted):
    """The model that `adapt` was given, its weights as they are now."""
    return adapted.merge_and_unload()


@torch.no_grad()
def plain(named: Mapping[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """The weights that those of the adapted `model` amount to, by the names that they had before; others as they are.

    What has an update requires gradients as its update does; it is another tensor than the model's, of this moment.
    """
    found, transposed = {}, any(type(module).__name__ == "Conv1D" for module in model.modules())
    for name, value in named.items():
        if FIRST in name or SECOND in name:
            continue
        path, base, leaf = name.partition(BASE)
        first, second = (named.get(f"{path}{part}") for part in (FIRST, SECOND))
        if base and leaf == "weight" and first is not None:
            update = (second.float() @ first.float()) * ALPHA
            weight = value.float() + (update.T if transposed else update)
            found[f"{path}.{leaf}"] = weight.to(value.dtype).requires_grad_(first.requires_grad)
        else:
            found[f"{path}.{leaf}" if base else name] = value
    return found


def is_adapted(names: Iterable[str]) -> bool:
    return any(FIRST in name for name in names)
