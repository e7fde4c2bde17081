"""Models that see pictures: a vision tower whose output takes places among the token embeddings of a language model.

transformers loads such a *composite* with AutoModelForImageTextToText. Which part of it is the language model is found
by structure: it is the decoder whose embedding turns the model's token ids into vectors.
"""

import inspect

from torch import nn

from prunelab.errors import InputError
from prunelab.models import owncode

LANGUAGE, VISION = "language", "vision"


def is_composite(config) -> bool:
    """Whether a model of `config` (or of a raw config.json, a dict) sees pictures beside text."""
    from transformers.models.auto import modeling_auto

    said = config if isinstance(config, dict) else config.to_dict()
    pictures = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(said.get("model_type"))
    if pictures is None or said.get("vision_config") is None:
        return False
    # Of a family that has both, config.json says which of them the weights are.
    named = said.get("architectures") or [pictures]
    return pictures in named or modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(said["model_type"]) not in named


def auto_class(config):
    """The library's Auto class for models of `config`."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if owncode.is_own(config):
        return {"AutoModelForCausalLM": AutoModelForCausalLM}.get(
            owncode.auto_name(config), AutoModelForImageTextToText
        )
    return AutoModelForImageTextToText if is_composite(config) else AutoModelForCausalLM


def class_of(config):
    """The concrete class for models of `config`."""
    from transformers.models.auto import modeling_auto

    if owncode.is_own(config):
        return owncode.class_of(config)
    mapping = (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if is_composite(config)
        else modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    return mapping[type(config)]


def text_config(config):
    """The part of `config` that describes the language model: all of it where it sees no pictures."""
    return config.get_text_config(decoder=True) if is_composite(config) else config


def with_text_config(config, text):
    """The config of a composite like `config` with another language model."""
    old = text_config(config)
    if old is config:
        return text
    key = next(key for key in config.sub_configs if getattr(config, key) is old)
    return type(config).from_dict({**config.to_dict(), key: text.to_dict()})


def language_model(model) -> tuple[str, nn.Module]:
    """The part of `model` that reads and writes text, and its name: all of it, "", where it sees no pictures.

    Raises InputError where a composite has none that can be told from the rest.
    """
    if not hasattr(model, "config") or not is_composite(model.config):  # any module may be asked for its blocks
        return "", model
    decoder = model.get_decoder()
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    if not name or decoder.get_input_embeddings() is not model.get_input_embeddings():
        raise InputError(
            f"{type(model).__name__}: expected a language model inside it that embeds the tokens, found none "
            "(get_decoder); such models cannot be pruned here"
        )
    return name, decoder


def belongs(model, tower: str):
    """A function that says of a module's name whether it is in this part of `model`, `language` or `vision`."""
    name, _ = language_model(model)
    if not name:
        return lambda _: tower == LANGUAGE
    return lambda module: module.startswith(f"{name}.") == (tower == LANGUAGE)


def ways_to_attend(model) -> list[dict]:
    """What a composite must be told beside token ids so that these are read as text, in the ways that there are.

    Some attend in both directions over what `token_type_ids` call a picture, or the prompt: 1 in Gemma 3, 0 in
    PaliGemma. Of a model that is causal in text, one of the two is.
    """
    takes_types = "token_type_ids" in inspect.signature(type(model).forward).parameters
    return [{"token_type_ids": 0}, {"token_type_ids": 1}] if takes_types and is_composite(model.config) else [{}]
