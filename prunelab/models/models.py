"""Build a causal language model, and find the linear layers of its decoder blocks by structure.

Decoder blocks are the longest `ModuleList` of equal modules; the prunable tensors are the weights of the linear layers
inside them (`Linear`, and GPT-2's `Conv1D`, a transposed linear). Embeddings, a tied head, norms and biases
are outside. In a model that sees pictures each of its towers has blocks of its own (composites.py).
"""

import contextlib
import difflib
import re
from collections.abc import Sequence

import torch
from torch import nn

from prunelab.errors import InputError
from prunelab.models import composites

# How configs name the ids of special tokens: pad_token_id, image_token_index, mask_index, suppress_tokens, …
SPECIAL = re.compile(r"_token_ids?$|_token_index$|^(bos|eos|pad|unk|mask|sep|cls)_index$|^(begin_)?suppress_tokens$")


def build(architecture: str, config: dict, **extra):
    """A randomly initialised causal LM of `architecture` (a transformers model_type) with `config`.

    It has no special tokens but those that `config` or `extra` name: an architecture's defaults are ids of its
    published tokenizer, and here they would turn letters into padding. Where a config insists on a number it gets the
    last token's, which a character tokenizer keeps for unknown letters.
    Raises InputError for an unknown architecture, and for a config that it does not take, ignores, or cannot be built
    with.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(architecture, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), n=3)
        raise InputError(
            f"train.architecture: transformers has no causal LM {architecture!r}; nearest: {', '.join(near) or 'none'}"
        )
    with told(architecture, config):
        known = AutoConfig.for_model(architecture)
        _require_decoder(known, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        names = {name for name in known.to_dict() if not name.startswith("_")} | set(known.attribute_map)
        for key in config:
            if key not in names:
                near = difflib.get_close_matches(str(key), sorted(names), n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(f"train.config.{key}: unknown to the config of {architecture!r}{hint}")
        made = AutoConfig.for_model(architecture, **{**config, **extra})
        for key, value in config.items():
            if isinstance(value, (bool, int, float, str)) and key not in extra and getattr(made, key) != value:
                raise InputError(
                    f"train.config.{key}: {value!r} is not what {architecture!r} makes of it ({getattr(made, key)!r}); "
                    "another key decides it, or says it too"
                )
        said = config.keys() | extra.keys()
        for key in filter(SPECIAL.search, said):
            if isinstance(token := getattr(made, key), int) and not 0 <= token < made.vocab_size:
                raise InputError(f"train.config.{key}: {token} is none of the {made.vocab_size} tokens of the text")
        _leave_out_special_tokens(made, said)
        model = AutoModelForCausalLM.from_config(made)
    if model.generation_config is not None:
        for name in model.generation_config.to_dict():
            if SPECIAL.search(name) and name not in said:
                setattr(model.generation_config, name, None)
    return model


def _require_decoder(config, known) -> None:
    """Raises InputError for models that are more than a decoder of text, whose parts would be built and never run."""
    try:
        text = config.get_text_config(decoder=True)
    except ValueError:  # several of them
        text = None
    if text is not config:
        inner = getattr(text, "model_type", None)
        way = f"take {inner!r}, its decoder" if inner in known and inner != config.model_type else "take another"
        raise InputError(f"train.architecture: {config.model_type!r} is more than a decoder of text; {way}")


def _leave_out_special_tokens(config, said) -> None:
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    for name in {"bos_token_id", "eos_token_id", "pad_token_id", *filter(SPECIAL.search, config.to_dict())} - said:
        try:
            setattr(config, name, None)
        except StrictDataclassFieldValidationError:
            setattr(config, name, config.vocab_size - 1)


@contextlib.contextmanager
def told(architecture: str, config: dict):
    """Whatever the library raises while it builds or runs a model of `config` becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of any kind: the config is all that the user had a say in
        raise InputError(_reason(architecture, config, error)) from error


def _reason(architecture: str, config: dict, error: Exception) -> str:
    """One line on why a model of `config` cannot be had, with the key where it can be told."""
    text = " ".join(str(error).split())
    if field := re.match(r"Validation error for field '(\w+)': \w+: (?:Field '\w+' )?(.*)", text):
        return f"train.config.{field[1]}: {architecture!r} refuses it: {field[2]}"
    if isinstance(error, KeyError):
        for key, value in config.items():
            if value == error.args[0]:
                return f"train.config.{key}: {architecture!r} knows no {value!r}"
    text = re.sub(r"^Class validation error for validator '\w+': \w+: ", "", text)
    heads, groups = (
        next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        for keys in (("num_attention_heads", "n_head", "n_heads"), ("num_key_value_heads",))
    )
    if heads and groups and heads % groups:
        return f"train.config.num_key_value_heads: {groups} does not divide the {heads} heads of attention ({text})"
    kind = "" if isinstance(error, ValueError) or "ValidationError" in type(error).__name__ else type(error).__name__
    return f"train.config: {architecture!r} refuses it: {' '.join(filter(None, (kind, text)))[:300]}"


def computes_bf16() -> bool:
    """Whether this machine multiplies bf16 natively; emulated, it is several times slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# Their tables of positions begin behind the padding token, so that many fewer can be used.
COUNT_FROM_PADDING = (
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def context_length(config) -> int | None:
    """The longest sequence a model of this config takes, in tokens; None where it sets no limit.

    ALiBi (BLOOM, some Falcons) and state-space models have none, whatever a published config says it was trained with.
    """
    config = config.get_text_config()
    by_distance = config.model_type == "bloom" or getattr(config, "alibi", False)
    if by_distance or getattr(config, "position_embedding_type", None) == "alibi":
        return None
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:  # XLNet says -1 where there is no limit
            before = config.pad_token_id + 1 if config.pad_token_id is not None else 0
            return length - (before if config.model_type in COUNT_FROM_PADDING else 0)
    return None


def decoder_blocks(model, tower: str = composites.LANGUAGE) -> tuple[str, nn.ModuleList]:
    """The name and the list of decoder blocks, of a model that sees pictures those of one `tower`.

    Raises InputError that names what was looked for.
    """
    belongs = composites.belongs(model, tower)
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(block) for block in module}) == 1
        and any(is_linear(inner) for inner in module[0].modules())
        and belongs(name)
    ]
    # A list inside another's block (experts, say) is not the stack itself.
    outer = [(n, m) for n, m in candidates if not any(n.startswith(other + ".") for other, _ in candidates)]
    if not outer:
        what = "decoder blocks" if tower == composites.LANGUAGE else f"blocks of a {tower} tower"
        raise InputError(
            f"{type(model).__name__}: no {what} found; looked for a ModuleList of modules of one type "
            "that hold Linear or Conv1D layers"
        )
    return max(outer, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def is_linear(module) -> bool:
    """A linear layer, as `Linear` or as the transposed `Conv1D` of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def prunable_tensors(model, towers: Sequence[str] = (composites.LANGUAGE,)) -> list[dict]:
    """What prunable.json holds: `name, block, role, transposed, shape` of every linear weight in the blocks.

    towers: of a model that sees pictures, the parts whose blocks count (`prune.towers`). Where more than the language
    model is asked for each entry has a `tower` too; its blocks are numbered on behind those of the tower before.
    """
    tensors, before = [], 0
    for tower in towers:
        stack, blocks = decoder_blocks(model, tower)
        for index, block in enumerate(blocks):
            for path, module in block.named_modules():
                if is_linear(module):
                    tensors.append(
                        {
                            "name": f"{stack}.{index}.{path}.weight",
                            "block": before + index,
                            "role": "attention" if "attn" in path or "attention" in path else "mlp",
                            "transposed": not isinstance(module, nn.Linear),
                            "shape": list(module.weight.shape),
                            **({"tower": tower} if tuple(towers) != (composites.LANGUAGE,) else {}),
                        }
                    )
        before += len(blocks)
    return tensors
