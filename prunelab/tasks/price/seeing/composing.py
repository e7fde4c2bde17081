"""Give a language model eyes: a small CLIP vision tower and a projector before it, as LLaVA has them.

What comes out is an ordinary LLaVA model with an ordinary processor, which transformers loads without this package.
Tower and projector are new, so they must be trained; the language model is a random one or a fetched one.
"""

import tempfile
from pathlib import Path

import torch

from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.tasks.price.seeing.processing import Processor, of_folder
from prunelab.training.characters import character_tokenizer

PICTURE, END, PAD = "<image>", "<end>", "<pad>"
NEW = ("model.vision_tower.", "model.multi_modal_projector.")  # what of the composite is no part of the language model


def characters(texts):
    """A tokenizer with a token for each character of `texts`, a picture, the end of an answer, and padding."""
    tokenizer = character_tokenizer("".join(sorted(set().union(*map(set, texts)))))
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": PAD, "additional_special_tokens": [PICTURE]})
    return tokenizer


def compose(tower, language, tokenizer):
    """(model, processor): the causal LM `language` behind a new vision tower of the settings `price.tower`.

    `tokenizer` is that of the language model and gets a token for a picture where it has none; the initial weights are
    drawn from torch's generator. Raises InputError where LLaVA's class cannot hold the language model: it has a plain
    linear layer as its head.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    probe = torch.arange(16)[None] % language.get_input_embeddings().num_embeddings
    with torch.no_grad():
        expected = language.eval()(input_ids=probe, use_cache=False).logits
    _add_picture(tokenizer, language)
    vision = CLIPVisionConfig(
        hidden_size=tower.width, intermediate_size=4 * tower.width, num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads, image_size=tower.pixels, patch_size=tower.patch, projection_dim=tower.width,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(PICTURE),
        image_seq_length=(tower.pixels // tower.patch) ** 2,
        vision_feature_layer=-1,  # not the last but one, as the published models have it: no layer is for nothing
        vision_feature_select_strategy="default",  # without the class token
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
    )
    with loading.quiet(), models.told(language.config.model_type, {}):
        model = LlavaForConditionalGeneration(config).eval()
    _fill(model, language, probe, expected)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = _padding(tokenizer)
    return model, _processor(tower, tokenizer, model)


def _add_picture(tokenizer, language) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [PICTURE]}, replace_extra_special_tokens=False)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        with loading.quiet():
            language.resize_token_embeddings(len(tokenizer), mean_resizing=False)


@torch.no_grad()
def _fill(model, language, probe: torch.Tensor, expected: torch.Tensor) -> None:
    """Put the weights of `language` into `model`. Raises InputError where it then reads a text otherwise."""
    inner = model.model.language_model
    missing, foreign = inner.load_state_dict(language.base_model.state_dict(), strict=False)
    head = language.get_output_embeddings()
    plain = not missing and not foreign and head is not None and head.weight.shape == model.lm_head.weight.shape
    if plain:
        model.lm_head.weight.copy_(head.weight)
        model.tie_weights()
        found = model(input_ids=probe, use_cache=False).logits
        plain = torch.allclose(found[..., : expected.shape[-1]], expected, rtol=1e-4, atol=1e-4)
    if not plain:
        raise InputError(
            f"price.tower: a {language.config.model_type!r} is more than a decoder with a linear head, so LLaVA cannot "
            "hold it; take a llama, mistral or qwen2, or a model that sees pictures by itself"
        )


def _processor(tower, tokenizer, model) -> Processor:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    # The whole picture, whatever its sides: a centre crop would cut off what has a price.
    size = {"height": tower.pixels, "width": tower.pixels}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    inner = LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=tower.patch, image_token=PICTURE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    _require_same_tokens(inner, model)
    return Processor(inner, model.config)


def _require_same_tokens(inner, model) -> None:
    """Raises InputError where whoever loads the folder would read its texts as other tokens, as some classes do."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        Processor(inner, model.config).save_pretrained(folder)
        loaded = of_folder(Path(folder), "price.tower").tokenizer
    text = "".join(inner.tokenizer.convert_ids_to_tokens(range(min(len(inner.tokenizer), 512)))) + " 1,2 \n a"
    if loaded(text)["input_ids"] != inner.tokenizer(text)["input_ids"] or len(loaded) != len(inner.tokenizer):
        raise InputError(
            f"train.architecture: the tokenizer of a {model.config.text_config.model_type!r} is read otherwise in a "
            f"LLaVA model's folder ({type(loaded).__name__}); take another, such as llama"
        )


def _padding(tokenizer) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
