"""One small random model of every architecture that structured pruning promises, all with 3 blocks and 48 tokens."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_LLAMA = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
_MHA = {"num_hidden_layers": 3, "num_attention_heads": 6, "hidden_size": 24, "max_position_embeddings": 32}
CONFIGS = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "llama-odd": {**_LLAMA, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4, "hidden_size": 32},
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8},
    "opt": {**_MHA, "ffn_dim": 32, "word_embed_proj_dim": 24},
    "gpt2": {"n_layer": 3, "n_head": 6, "n_embd": 24, "n_positions": 32},
    "gpt_neox": {**_MHA, "intermediate_size": 32},
}
HEADS_OF_THEIR_OWN = ("llama", "llama-odd", "mistral", "qwen2", "qwen3")  # a config can tell them of fewer heads
IDS = torch.randint(48, (4, 16), generator=torch.Generator().manual_seed(1))


def build(name: str, **changes):
    """Weights are larger than at a usual start and biases are not zero, so that every part of a block matters."""
    torch.manual_seed(0)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(name.partition("-")[0], **{**CONFIGS[name], **changes}, vocab_size=48, **special)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
            else:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model
