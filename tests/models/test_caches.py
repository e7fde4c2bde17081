"""Token by token is the same as all at once, whatever a model keeps between."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.efficiency import latency, memory
from prunelab.models import caches
from prunelab.quality import samples
from tests.helpers import zoo

VOCABULARY = 40
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
OTHERS = {
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "lfm2": {**_HEADS, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def model_of(name: str):
    if name in zoo.ARCHITECTURES:
        return zoo.random_model(name, VOCABULARY)
    torch.manual_seed(0)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(name, **OTHERS[name], vocab_size=VOCABULARY, **special)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", ["Mamba", "rwkv", "lfm2", "openai-gpt", "Mistral", "GPT-2"])
def test_logits_token_by_token_are_those_of_the_whole_text(name):
    model = model_of(name)
    ids = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(1))
    wanted = model(input_ids=ids, use_cache=False).logits
    output, cache = caches.step(model, ids[:, :12])
    assert torch.allclose(output.logits, wanted[:, :12], atol=1e-4 * float(wanted.abs().max()))
    for place in range(12, 24):
        output, cache = caches.step(model, ids[:, place : place + 1], cache)
        assert torch.allclose(output.logits[:, -1], wanted[:, place], atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["Mamba", "rwkv", "lfm2", "openai-gpt"])
def test_a_model_without_keys_and_values_is_served_sampled_and_has_no_cache_per_token(name):
    model = model_of(name)
    work = latency.Work(prompt_tokens=8, batch=1, output_tokens=4)
    ids = latency.prompts(model, work, seed=0)
    assert latency.serve(model, ids, work.output_tokens).decode_ms_per_token > 0
    assert memory.kv_cache_bytes_per_token(model, ids) is None
    written = samples.continuations(model, [ids[0].tolist()], 6, [None], 1.0)[0, 0].tolist()
    text = ids
    with torch.no_grad():
        for token in written:
            assert model(input_ids=text, use_cache=False).logits[0, -1].argmax().item() == token
            text = torch.cat([text, torch.tensor([[token]])], dim=1)


def test_only_keys_and_values_grow():
    for name, grows in (("Llama", True), ("Mistral", True), ("Mamba", False), ("lfm2", False), ("openai-gpt", False)):
        _, cache = caches.step(model_of(name), torch.zeros(1, 4, dtype=torch.int64))
        assert (caches.growing(cache) is not None) is grows, name
