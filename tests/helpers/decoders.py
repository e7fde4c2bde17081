"""Small random decoders of many architectures: what works on these finds its way by structure."""

from pathlib import Path

import torch

from prunelab.models import models
from tests.helpers import tiny

VOCABULARY = 64
CONTEXT = 48
_COMMON = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_COMMON |= {"max_position_embeddings": CONTEXT}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
CONFIGS = {
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "word_embed_proj_dim": 24,  # as in OPT-350M: projections outside the blocks
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},  # Conv1D
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,  # biases
    "qwen3": _HEADS,  # norms of query and key
    "gemma": _HEADS,  # scaled, tied embeddings
    "gemma3_text": {**_HEADS, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    "gpt_neox": _COMMON,  # fused query, key and value; attention and MLP in parallel
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # ALiBi, blocks that return tuples
    "phi3": {**_GROUPED, "pad_token_id": 0},  # fused gate and up
}


def random_model(architecture: str, seed: int = 0):
    """A random decoder of `architecture`, in eval mode; its biases and norms are random too."""
    torch.manual_seed(seed)
    extra = {"bos_token_id": None, "eos_token_id": None}
    model = models.build(architecture, {**CONFIGS[architecture], "vocab_size": VOCABULARY}, **extra).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The usual initialisation is so small that every block is nearly the identity.
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def dense_folder(path, architecture: str) -> Path:
    """A random decoder of `architecture` as the train stage would leave it."""
    return tiny.dense_folder(path, random_model(architecture))


def samples(count: int = 6, length: int = 32, seed: int = 0) -> torch.Tensor:
    """(count, length) random token ids."""
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


REAL = Path(__file__).parents[3] / "shared" / "data" / "stories260K-hf"  # a trained Llama of 260 K parameters
