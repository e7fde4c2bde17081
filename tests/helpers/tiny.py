"""Small random models and folders that many tests need."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.disk.files import write_json
from prunelab.models import loading, models

GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 40}


def gpt2(seed: int = 0, **changes):
    """A random GPT-2 of a few thousand parameters, in eval mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model("gpt2", **{**GPT2, **changes}, bos_token_id=None, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()


def dense_folder(path, model, importance=None, average=None) -> Path:
    """`model` as the train stage would leave it; `importance` and `average` map names to tensors.

    What `average` does not name is averaged to what the model has.
    """
    from safetensors.torch import save_file

    path = Path(path)
    loading.save(model, path)
    write_json(path / "prunable.json", models.prunable_tensors(model))
    if importance is not None:
        (path / "history").mkdir()
        metadata = {"options": '{"value": "absolute", "weighting": "linear", "beta": null, "window": null, "ticks": 3}'}
        save_file(importance, path / "history" / "importance.safetensors", metadata)
        state = model.state_dict()
        whole = {name: state[name].float().clone() for name in loading.state_names(model)} | (average or importance)
        save_file(whole, path / "history" / "average.safetensors", metadata)
    return path


LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NEOX = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
LETTERS = "\n ,.abcdefghijklmnopqrstuvwxyz"


def published(path, architecture: str = "llama", dtype=torch.float32, tensors=None, config=None, **settings) -> Path:
    """A random model as somebody publishes one: the hub's names, a tokenizer of letters.

    settings: of the config (default: a small Llama). tensors: a function that changes the stored ones. config: entries
    of config.json that are changed behind the model's back.
    """
    import json

    from safetensors.torch import load_file, save_file

    from prunelab.training.characters import character_tokenizer

    torch.manual_seed(0)
    tokenizer = character_tokenizer(LETTERS)
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    settings = {"vocab_size": len(tokenizer), **none, **(settings or LLAMA)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(6 if parameter.dim() > 1 else 1)
    path = Path(path)
    loading.save(model.to(dtype), path, published=True)
    tokenizer.save_pretrained(path)
    if tensors:
        changed = tensors(load_file(path / "model.safetensors"))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path / "model.safetensors")
    if config:
        said = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps(said | config), encoding="utf-8")
    return path
