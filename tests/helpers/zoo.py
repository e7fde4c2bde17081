"""The architectures of docs/architectures.md: one small config each, with what is special about it switched on.

All have 2 blocks, a width of 32 and 64 positions; windows are of 8 tokens, so that a probe of 24 looks past them.
Dropout is off, so that a plain loop trains the same model.
"""

import torch

POSITIONS, WINDOW = 64, 8
_DIMS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_MHA = {**_DIMS, "max_position_embeddings": POSITIONS}
_GROUPED = {**_MHA, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
_OPT = {
    "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "dropout": 0.0,
    "max_position_embeddings": POSITIONS, "word_embed_proj_dim": 32,
}  # fmt: skip
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
_GPT |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_SLIDING = {"sliding_window": WINDOW}
_MIXED = {**_SLIDING, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_dropout": 0.0}
_FALCON |= {"attention_dropout": 0.0, "ffn_hidden_size": 48, "max_position_embeddings": POSITIONS}

# name in the table → (transformers' model_type, config)
ARCHITECTURES = {
    "OPT": ("opt", _OPT),
    "OPT, 350m's shape": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "GPT-2": ("gpt2", _GPT),
    "GPT-Neo": ("gpt_neo", {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "window_size": WINDOW,
        "max_position_embeddings": POSITIONS, "attention_types": [[["global", "local"], 1]],
        "resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0,
    }),
    "GPT-J": ("gptj", {**_GPT, "rotary_dim": 4}),
    "GPT-NeoX": ("gpt_neox", {**_MHA, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "BLOOM": ("bloom", {
        "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    }),
    "Falcon": ("falcon", _FALCON),
    "Falcon, grouped": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "MPT": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": POSITIONS}),
    "Llama": ("llama", _GROUPED),
    "Llama, tied": ("llama", {**_GROUPED, "tie_word_embeddings": True}),
    "Mistral": ("mistral", {**_HEADS, **_SLIDING}),
    "Qwen2": ("qwen2", {**_GROUPED, **_MIXED, "use_sliding_window": True}),
    "Qwen3": ("qwen3", _HEADS),
    "Gemma": ("gemma", _HEADS),
    "Gemma 2": ("gemma2", {**_HEADS, **_MIXED, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("gemma3_text", {**_HEADS, **_MIXED, "query_pre_attn_scalar": 8}),
    "Phi": ("phi", {**_GROUPED, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "Phi-3": ("phi3", {**_GROUPED, **_SLIDING}),
    "StarCoder2": ("starcoder2", {
        **_GROUPED, **_SLIDING, "residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0,
    }),
    "GPTBigCode": ("gpt_bigcode", _GPT),
    "OLMo": ("olmo", _GROUPED),
    "OLMo 2": ("olmo2", _GROUPED),
    "Cohere": ("cohere", _GROUPED),
    "Granite": ("granite", {**_GROUPED, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 2}),
    "SmolLM3": ("smollm3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "StableLM": ("stablelm", {**_GROUPED, "use_qkv_bias": True, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "XGLM": ("xglm", {
        "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "dropout": 0.0, "attention_dropout": 0.0,
        "activation_dropout": 0.0, "layerdrop": 0.0, "max_position_embeddings": POSITIONS,
    }),
    "Mixtral": ("mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2-MoE": ("qwen2_moe", {**_GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0]}),
    "Qwen3-MoE": ("qwen3_moe", {**_GROUPED, **_EXPERTS}),
    "GPT-OSS": ("gpt_oss", {**_HEADS, **_MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "expand": 2}),
}  # fmt: skip


def random_model(name: str, vocabulary: int):
    """A random model of `name` with no special tokens, in eval mode; every part of it matters.

    Built by the library alone, not by what is tested. The usual start is so small that blocks are nearly the identity,
    and leaves biases at zero.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture, config = ARCHITECTURES[name]
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **config, vocab_size=vocabulary, **special)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return model
