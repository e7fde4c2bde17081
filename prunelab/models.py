"""Build a causal language model, and find the linear layers of its decoder blocks by structure.

Decoder blocks are the longest `ModuleList` of equal modules; the prunable tensors are the weights of the linear layers
inside them (`Linear`, and GPT-2's `Conv1D`, a transposed linear). Embeddings, a tied head, norms and biases
are outside.
"""

from torch import nn

from prunelab.errors import InputError


def build(architecture: str, config: dict, **extra):
    """A randomly initialised causal LM of `architecture` (a transformers model_type) with `config`.

    Raises InputError for an unknown architecture and for a config key or value that it does not take.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        import difflib

        near = difflib.get_close_matches(architecture, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), n=3)
        raise InputError(
            f"train.architecture: transformers has no causal LM {architecture!r}; nearest: {', '.join(near) or 'none'}"
        )
    known = AutoConfig.for_model(architecture)
    for key in config:
        if not hasattr(known, key):
            raise InputError(f"train.config.{key}: unknown to the config of {architecture!r}")
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **config, **extra))
    except (ValueError, TypeError) as error:
        raise InputError(f"train.config: {architecture!r} refuses it: {error}") from error


def computes_bf16() -> bool:
    """Whether this machine multiplies bf16 natively; emulated, it is several times slower than fp32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def context_length(config) -> int | None:
    """The longest sequence a model of this config takes, in tokens; None where it sets no limit."""
    for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        if isinstance(length := getattr(config, name, None), int):
            return length
    return None


def decoder_blocks(model) -> tuple[str, nn.ModuleList]:
    """The name and the list of decoder blocks. Raises InputError that names what was looked for."""
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(block) for block in module}) == 1
        and any(is_linear(inner) for inner in module[0].modules())
    ]
    # A list inside another's block (experts, say) is not the stack itself.
    outer = [(n, m) for n, m in candidates if not any(n.startswith(other + ".") for other, _ in candidates)]
    if not outer:
        raise InputError(
            f"{type(model).__name__}: no decoder blocks found; looked for a ModuleList of modules of one type "
            "that hold Linear or Conv1D layers"
        )
    return max(outer, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def is_linear(module) -> bool:
    """A linear layer, as `Linear` or as the transposed `Conv1D` of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def prunable_tensors(model) -> list[dict]:
    """What prunable.json holds: `name, block, role, transposed, shape` of every linear weight in the blocks."""
    stack, blocks = decoder_blocks(model)
    tensors = []
    for index, block in enumerate(blocks):
        for path, module in block.named_modules():
            if is_linear(module):
                tensors.append(
                    {
                        "name": f"{stack}.{index}.{path}.weight",
                        "block": index,
                        "role": "attention" if "attn" in path or "attention" in path else "mlp",
                        "transposed": not isinstance(module, nn.Linear),
                        "shape": list(module.weight.shape),
                    }
                )
    return tensors
