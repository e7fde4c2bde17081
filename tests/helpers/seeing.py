"""One small random model of every family of models that see pictures, with its processor, made without a hub.

All have a language model of 2 blocks and a vision tower of 2, see 4 tokens of a picture (Idefics3: 5 times 4, it cuts
pictures up) and read characters. Weights are larger than at a usual start and biases are not zero, so that every part
matters.
"""

import functools
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

TEXT = "\n $,.:0123456789abcdefghijklmnopqrstuvwxyz"
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8,
}  # fmt: skip
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = SimpleNamespace(pixels=16, patch=8, width=24, layers=2, heads=2)  # as the settings `price.tower`
PLACES = {"LLaVA": 4, "Idefics3": 20, "PaliGemma": 4, "Gemma 3": 4, "Qwen2.5-VL": 4}  # tokens of a picture


@functools.cache
def model_of(family: str) -> Path:
    """A folder with the model of `family`, made once a process; nobody writes into it."""
    _kept.append(tempfile.TemporaryDirectory())
    return published(Path(_kept[-1].name) / "model", family)


_kept: list[tempfile.TemporaryDirectory] = []


def published(folder, family: str) -> Path:
    """A model of `family` (of PLACES) as somebody publishes one: weights by the hub's names, tokenizer, processor."""
    from prunelab.models import loading

    torch.manual_seed(0)
    model, save_processor = {
        "LLaVA": _llava, "Idefics3": _idefics3, "PaliGemma": _paligemma, "Gemma 3": _gemma3, "Qwen2.5-VL": _qwen,
    }[family]()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    folder = Path(folder)
    loading.save(model.eval(), folder, published=True)
    save_processor(folder)
    return folder


def prompt_of(family: str, text: str) -> str:
    """A prompt in the form that models of the family are asked in."""
    return f"<|vision_start|>{{picture}}<|vision_end|>{text}" if family.startswith("Qwen") else f"{{picture}}{text}"


def rows(folder, family: str, count: dict[str, int] | None = None) -> Path:
    """The folder `folder` as the stage fetch leaves it, with random pictures, prompts of two lengths and prices."""
    from PIL import Image

    from prunelab.disk.files import write_json

    place = Path(folder) / "price"
    (place / "pictures").mkdir(parents=True)
    dice = np.random.default_rng(3)
    number = 0
    for part, rows in (count or {"train": 8, "validation": 3, "test": 5}).items():
        lines = []
        for _ in range(rows):
            number += 1
            picture = Image.fromarray(dice.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            picture.save(place / "pictures" / f"{number}.png")
            price, rooms = int(dice.integers(100, 999)), int(dice.integers(8, 12))
            lines.append(
                {
                    "id": f"rows#{number}", "where": f"rows.csv, line {number}", "item": str(number),
                    "picture": f"pictures/{number}.png", "sha256": "", "price": float(price),
                    "columns": {"rooms": rooms}, "prompt": prompt_of(family, f"{rooms} rooms:"), "answer": f"{price}",
                }
            )  # fmt: skip
        (place / f"{part}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    write_json(place / "manifest.json", {"pass_on": True})
    return Path(folder)


def tokenizer(*special: str, **named: str):
    """One of characters, with an end, padding, and the special tokens of a family, `named` by what it calls them."""
    from transformers import PreTrainedTokenizerFast

    from prunelab.tasks.price.seeing import composing

    made = composing.characters([TEXT])
    made.add_special_tokens({"additional_special_tokens": [*special]}, replace_extra_special_tokens=False)
    if not named:
        return made
    own = {"unk_token": made.unk_token, "eos_token": made.eos_token, "pad_token": made.pad_token}
    return PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, **own, extra_special_tokens=named)


def _llava():
    from prunelab.models import models
    from prunelab.tasks.price.seeing import composing

    words = tokenizer()
    language = models.build("llama", LLAMA, vocab_size=len(words))
    model, processor = composing.compose(SMALL, language, words)
    return model, processor.save_pretrained


def _idefics3():
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    words = tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places)
    config = Idefics3Config(
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        text_config={"model_type": "llama", **LLAMA, **_none(), "vocab_size": len(words), "pad_token_id": 0},
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(image_processor=pictures, tokenizer=words, image_seq_len=4)
    return Idefics3ForConditionalGeneration(config), processor.save_pretrained


def _paligemma():
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer()
    words.add_special_tokens({"bos_token": "<bos>"})
    pictures = SiglipImageProcessorPil(size={"height": 16, "width": 16}, image_seq_length=4)
    processor = PaliGemmaProcessor(image_processor=pictures, tokenizer=words)  # adds a thousand tokens of places
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **TOWER, "image_size": 16, "patch_size": 8},
        text_config={"model_type": "gemma", **LLAMA, **_none(), "vocab_size": len(words)},
        projection_dim=32,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return PaliGemmaForConditionalGeneration(config), processor.save_pretrained


def _gemma3():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image>"}
    words = tokenizer("<start_of_image>", "<end_of_image>", **named)
    pictures = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(image_processor=pictures, tokenizer=words, image_seq_length=4)
    text = {
        **LLAMA, **_none(), "vocab_size": len(words), "sliding_window": 8, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **TOWER, "image_size": 16, "patch_size": 4},
        text_config=text,
        mm_tokens_per_image=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config), processor.save_pretrained


def _qwen():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    vision = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = {key: value for key, value in LLAMA.items() if key != "head_dim"}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**text, **_none(), "vocab_size": len(words), "rope_parameters": rope},
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 256, "longest_edge": 256}, patch_size=4, merge_size=2, temporal_patch_size=2
    )

    def save_processor(folder) -> None:  # its own class cannot be made without torchvision; these are its files
        words.save_pretrained(folder)
        pictures.save_pretrained(folder)
        path = Path(folder) / "preprocessor_config.json"
        said = json.loads(path.read_text(encoding="utf-8")) | {"processor_class": "Qwen2_5_VLProcessor"}
        path.write_text(json.dumps(said), encoding="utf-8")

    return Qwen2_5_VLForConditionalGeneration(config), save_processor


def _none() -> dict:
    return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def settings(trained: dict | None = None, tower: bool = False, **sections: dict):
    """Settings of a study of prices that trains a fetched model, or a new Llama behind a `tower`, for two steps.

    trained: entries of `train`; sections: entries of others.
    """
    from prunelab.study.params import Settings
    from tests.helpers import studies

    raw = studies.raw("default")
    raw |= {"task": "price", "study": "seeing"}
    raw["fetch"] |= {"text": None, "split": None}
    raw["price"] = {
        "rows": {"kind": "path", "name": "rows", "pass_on": True},
        "columns": {"picture": "picture", "price": "price", "item": None},
        "prompt": "{picture}{rooms} rooms:", "answer": "{price}", "currency": "$", "decimals": 0, "tabular": ["rooms"],
        "split": {"validation_percent": 20, "test_percent": 20, "seed": 1},
        "tower": dict(vars(SMALL)) if tower else None,
    }  # fmt: skip
    raw["train"] |= {
        "context": 96, "epochs": 2, "windows_per_epoch": 4, "batch_size": 4, "warmup_steps": 0,
        "evaluate_every_epochs": 1, "validation_windows": None, "precision": "fp32", "learning_rate": 1e-3,
    }  # fmt: skip
    if tower:
        raw["train"] |= {"architecture": "llama", "config": dict(LLAMA)}
    else:
        raw["fetch"]["model"] = {"kind": "path", "name": "model"}
        raw["train"] |= {"start": "fetched", "tokenizer": "fetched", "architecture": None, "config": {}}
    raw["train"] |= trained or {}
    raw["calibrate"] = {
        "samples": 6, "length": 96, "seed": 1, "propagate": "dense", "batch_tokens": 128, "precision": "fp32",
        "hidden_states": "memory", "owl_outlier_multiple": 5.0, "owl_span": 0.08,
    }  # fmt: skip
    raw["prune"] |= {"methods": ["magnitude", "wanda", "systematic"], "rates": [50], "further": []}
    for name, changes in sections.items():
        raw[name] |= changes
    return Settings.model_validate(raw)
