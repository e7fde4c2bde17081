"""A physically smaller model as an ordinary Hugging Face folder, proved equal to the masked one before it is kept.

A cut is a config, a state and a stand-in: what the full-size model must do to compute the same. The smaller model is
written, loaded again with `from_pretrained` as any user would, and its logits are compared with those of the stand-in.
An architecture whose blocks do something unknown here is refused instead of silently broken.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from prunelab.errors import InputError, in_one_line
from prunelab.models import composites, loading, models
from prunelab.structure import importance, structure
from prunelab.structure.structure import Site

PROBE_TOKENS = 16
# How far logits may be apart, relative to the largest: a sum over fewer terms is rounded differently.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
BIAS_KEYS = {"mlp-width": "mlp_bias", "head-width": "attention_bias"}  # that make a config's layers have biases
LISTS_OF_IDS = ("_id", "_ids", "_token_id")


class Cut(NamedTuple):
    """A smaller model, not yet written."""

    config: object
    state: dict[str, torch.Tensor]
    stand_in: Callable  # changes the full-size model in place into one that computes the same
    facts: dict  # for sparsity.json


def width(model, kind: str, sites: list[Site], kept: list[torch.Tensor], means: dict | None = None) -> Cut:
    """Cut `sites` (kind `mlp-width` or `head-width`) down to the units `kept`, one ascending index tensor a site.

    means: with the mean inputs (in,) of every reader, what the removed units contributed on average is added to the
    reader's bias (FLAP), where the architecture has or can have one.
    """
    count, text = len(kept[0]), composites.text_config(model.config)
    if kind == "mlp-width":
        changes = {structure.width_key(text, sites[0].units): count}
    else:
        changes = _head_changes(text, sites[0], count)
    state = structure.cut_state(model, sites, kept)
    shifts = _shifts(model, sites, kept, means) if means is not None else {}
    flag = BIAS_KEYS[kind]
    compensation = None if means is None else "added to the existing biases"
    if shifts and any(f"{reader}.bias" not in state for reader in shifts):
        if getattr(text, flag, None) is False and _fits(text, {**changes, flag: True}):
            changes[flag] = True
            compensation = f"biases added to the model (config: {flag})"
        else:
            shifts, compensation = {}, f"none: layers of {text.model_type!r} cannot have the bias it needs"
    config = resized(model.config, changes, kind)
    for name, tensor in _skeleton(config, kind).state_dict().items():
        if name not in state and name.endswith(".bias"):  # the flag gives biases to all layers of the kind
            state[name] = torch.zeros(tensor.shape, dtype=model.dtype)
    for reader, shift in shifts.items():
        bias = state[f"{reader}.bias"]
        state[f"{reader}.bias"] = (bias.float() + shift.to(bias.device)).to(bias.dtype)

    def stand_in(full):
        structure.mask_units(full, sites, kept)
        for reader, shift in shifts.items():
            full.get_submodule(reader).register_forward_hook(
                lambda _, args, output, shift=shift: output + shift.to(output)
            )

    facts = {"units_before": sites[0].units, "units_kept": count, "bias_compensation": compensation}
    return Cut(config, state, stand_in, facts | {"config_changes": _own_names(text, changes)})


def depth(model, removed: list[int]) -> Cut:
    """The model without the blocks `removed`. Layer indices count anew, so caches are as long as what is left."""
    stack, blocks = models.decoder_blocks(model)
    kept = [index for index in range(len(blocks)) if index not in removed]
    text = composites.text_config(model.config)
    changes = {"num_hidden_layers": len(kept)}
    for key, value in text.to_dict().items():  # what is said per layer: kinds of attention, position embeddings …
        if isinstance(value, list) and len(value) == len(blocks) and not key.endswith(LISTS_OF_IDS):
            changes[key] = [value[index] for index in kept]
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{stack}."):
            state[name] = tensor
            continue
        number, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if int(number) in kept:
            state[f"{stack}.{kept.index(int(number))}.{rest}"] = tensor

    def stand_in(full):
        for index in removed:
            models.decoder_blocks(full)[1][index].register_forward_hook(_pass_by, with_kwargs=True)

    facts = {"blocks_before": len(blocks), "blocks_kept": len(kept), "blocks_removed": sorted(removed)}
    facts["config_changes"] = _own_names(text, changes)
    return Cut(resized(model.config, changes, "depth"), state, stand_in, facts)


def _pass_by(block, args, kwargs, output):
    """In place of a block's output: what entered it."""
    hidden = importance.hidden_of(args, kwargs)
    return hidden if torch.is_tensor(output) else (hidden, *output[1:])


def _head_changes(config, site: Site, groups: int) -> dict:
    heads_a_group = config.num_attention_heads // site.units
    changes = {"num_attention_heads": groups * heads_a_group, "head_dim": site.reader.size // heads_a_group}
    if getattr(config, "num_key_value_heads", None):
        changes["num_key_value_heads"] = groups
    return changes


def _shifts(model, sites, kept, means) -> dict[str, torch.Tensor]:
    """What the removed units added on average to each reader's output: W[:, removed] · mean, (out,) fp32."""
    shifts = {}
    for site, units in zip(sites, kept, strict=True):
        weight = model.get_submodule(site.reader.module).weight.detach().float()
        weight = weight.T if site.reader.transposed else weight
        gone = torch.ones(site.units, dtype=torch.bool)
        gone[units] = False
        columns = gone.repeat_interleave(site.reader.size).to(weight.device)
        shifts[site.reader.module] = (weight[:, columns] @ means[site.reader.module].to(weight)[columns]).cpu()
    return shifts


def resized(config, changes: dict, name: str):
    """`config` with `changes` of its language model. Raises InputError when the architecture refuses them."""
    return composites.with_text_config(config, _resized(composites.text_config(config), changes, name))


def _resized(config, changes: dict, name: str):
    try:
        return _changed(config, changes)
    except Exception as error:  # the library has a dozen kinds for a value it does not like
        # Llama's config wants its hidden size to be a multiple of the heads though its layers do not; Mistral's is the
        # same architecture without that wish, as long as there are no biases.
        if config.model_type == "llama" and not config.attention_bias and not config.mlp_bias:
            return _as_mistral(config, changes)
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{name}: the config of {config.model_type!r} refuses {changes}: {reason}") from None


def _own_names(config, changes: dict) -> dict:
    """The changes under the keys of this architecture, such as GPT-2's n_layer for num_hidden_layers."""
    return {config.attribute_map.get(key, key): value for key, value in changes.items()}


def _changed(config, changes: dict):
    changed = type(config).from_dict({**config.to_dict(), **_own_names(config, changes)})
    changed.validate()
    return changed


def _as_mistral(config, changes: dict):
    from transformers import MistralConfig

    content = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    for key in ("attention_bias", "mlp_bias", "pretraining_tp"):
        content.pop(key, None)
    return MistralConfig.from_dict({**content, **changes, "sliding_window": None})


def _fits(config, changes: dict) -> bool:
    try:
        _changed(config, changes)
    except Exception:
        return False
    return True


def _skeleton(config, name: str):
    """The model of `config` without memory for its weights."""
    try:
        with torch.device("meta"):
            return loading.of_config(config)
    except (ValueError, AssertionError, RuntimeError, TypeError, KeyError) as error:
        reason = in_one_line(error).rstrip(".")
        raise InputError(
            f"{name}: a config of {config.model_type!r} cannot say it ({reason}); use mlp-width or depth"
        ) from error


def require_shapes(cut: Cut, name: str) -> None:
    """Raises InputError when a model of the cut's config has other tensors than its state: the config cannot say it."""
    expected = {key: list(tensor.shape) for key, tensor in _skeleton(cut.config, name).state_dict().items()}
    found = {key: list(tensor.shape) for key, tensor in cut.state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise InputError(
            f"{name}: a config of {cut.config.model_type!r} cannot say it: {wrong[0]} would be {found.get(wrong[0])}, "
            f"but models of any such config have {expected.get(wrong[0])}; use mlp-width or depth"
        )


def write(cut: Cut, full, folder: Path, name: str) -> float:
    """Write the smaller model into the existing `folder`, load it again, compare with the full-size `full`.

    `full` is changed into the stand-in. Returns the largest difference of logits relative to the largest logit.
    Raises InputError when the two do not agree.
    """
    require_shapes(cut, name)
    small = loading.of_state(cut.config, cut.state, full.dtype, name)
    small.generation_config = full.generation_config
    loading.save(small, folder)
    del small
    again = loading.of_folder(folder)
    cut.stand_in(full)
    apart = difference(again, full.eval())
    if not apart <= TOLERANCE[full.dtype] and full.dtype == torch.float32:
        # Thirty blocks amplify the rounding of sums taken in another order; in float64 only what is wrong remains.
        apart = _difference_in_float64(again, full, apart)
    if not apart <= TOLERANCE[full.dtype]:
        raise InputError(
            f"{name}: the smaller model's logits are {apart:.1e} (relative) from the masked model's; "
            f"{type(full).__name__} does something that prunelab's structures do not know"
        )
    return apart


def _difference_in_float64(one, other, known: float) -> float:
    """`difference` of both in float64, for which an architecture may have no kernels: then what is `known`."""
    for model in (one, other):
        model.set_experts_implementation("eager")  # the fused product of experts knows no float64
    try:
        return difference(one.double(), other.double())
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise
        return known
    finally:
        other.float()


@torch.inference_mode()
def difference(one, other) -> float:
    """The largest difference of two models' logits on a fixed probe, relative to the largest logit."""
    length = min(PROBE_TOKENS, models.context_length(one.config) or PROBE_TOKENS)
    size = one.get_input_embeddings().num_embeddings
    ids = torch.randint(size, (2, length), generator=torch.Generator().manual_seed(0))
    a, b = (model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu() for model in (one, other))
    return float((a - b).abs().max() / b.abs().max())
