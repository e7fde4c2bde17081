"""Small random models and folders that many tests need."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab import models
from prunelab.files import write_json

GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 40}


def gpt2(seed: int = 0, **changes):
    """A random GPT-2 of a few thousand parameters, in eval mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model("gpt2", **{**GPT2, **changes}, bos_token_id=None, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()


def dense_folder(path, model, importance=None, average=None) -> Path:
    """`model` as the train stage would leave it; `importance` and `average` map names to tensors."""
    from safetensors.torch import save_file

    path = Path(path)
    model.save_pretrained(path)
    write_json(path / "prunable.json", models.prunable_tensors(model))
    if importance is not None:
        (path / "history").mkdir()
        metadata = {"options": '{"value": "absolute", "weighting": "linear", "beta": null, "window": null, "ticks": 3}'}
        save_file(importance, path / "history" / "importance.safetensors", metadata)
        save_file(average or importance, path / "history" / "average.safetensors", metadata)
    return path
