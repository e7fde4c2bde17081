"""A model's folder is what it says, or it is refused at fetch in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from prunelab.errors import InputError
from prunelab.models import checkpoint, inspection, loading, pretrained
from prunelab.study.params import Source
from prunelab.training import training
from tests.helpers import tiny

IDS = torch.arange(12)[None]


def taken(folder, out):
    """The folder of the dense model that the stages fetch and train make of a published one."""
    pretrained.prepare(Source(kind="path", name=str(folder)), out / "fetched")
    (out / "dense").mkdir()
    training.take(out / "fetched", 16, out / "dense")
    return out / "dense"


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def renamed(change):
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def one_more(tensors):
    return tensors | {"model.layers.0.mlp.gate.weight": torch.ones(4, 32)}


def wider(tensors):
    return tensors | {"model.layers.2.mlp.up_proj.weight": torch.ones(72, 32)}


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "config", "told"),
    [
        (without(UP), {}, f"expected all of the model's weights, found none for {UP}"),
        (without("lm_head.weight"), {}, "expected all of the model's weights, found none for lm_head.weight"),
        (renamed(lambda name: f"_orig_mod.{name}"), {}, "begins with '_orig_mod.', which torch.compile put there"),
        (renamed(lambda name: f"module.{name}"), {}, "begins with 'module.', which DataParallel put there"),
        (renamed(lambda name: f"base_model.model.{name}"), {}, "that LlamaForCausalLM has no place for"),
        (one_more, {}, "model.layers.0.mlp.gate.weight that LlamaForCausalLM has no place for"),
        (wider, {}, "model.layers.2.mlp.up_proj.weight of shape [72, 32] where its config.json says [64, 32]"),
        (None, {"num_hidden_layers": 4}, "none for model.layers.3.input_layernorm.weight, "),
        (None, {"num_hidden_layers": 2}, "model.layers.2.input_layernorm.weight, "),
        (None, {"vocab_size": 100}, "lm_head.weight of shape [31, 32] where its config.json says [100, 32]"),
        (without("lm_head.weight", "model.embed_tokens.weight"), {"tie_word_embeddings": True}, "found none for "),
        (None, {"num_attention_heads": 3}, "config.json: the library cannot read it: "),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused_by_name(tmp_path, tensors, config, told):
    folder = tiny.published(tmp_path / "model", tensors=tensors, config=config)
    with pytest.raises(InputError) as caught:
        pretrained.prepare(Source(kind="path", name=str(folder)), tmp_path / "out")
    assert told in str(caught.value) and str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value) and str(tmp_path / "out") not in str(caught.value)


def test_an_expert_that_is_missing_is_told(tmp_path):
    lacking = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    folder = tiny.published(tmp_path / "model", "mixtral", tensors=without(lacking), **tiny.LLAMA, num_local_experts=4)
    with pytest.raises(InputError, match="tensors that belong together .experts, say. are not all there"):
        pretrained.prepare(Source(kind="path", name=str(folder)), tmp_path / "out")


def eight_bits(tensors):
    return tensors | {UP: torch.ones(1024, 1, dtype=torch.uint8), f"{UP}.absmax": torch.ones(32)}


def fp8(tensors):
    return tensors | {UP: tensors[UP].to(torch.float8_e4m3fn)}


def gptq(tensors):
    return without(UP)(tensors) | {UP.replace("weight", "qweight"): torch.ones(8, 64, dtype=torch.int32)}


@pytest.mark.parametrize(
    ("tensors", "config", "told"),
    [
        (eight_bits, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        (eight_bits, {}, f"{UP} as U8: a quantised model"),
        (fp8, {}, f"{UP} as F8_E4M3: a quantised model"),
        (gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: gptq"),
        (gptq, {}, "as I32: a quantised model"),
    ],
)
def test_quantised_weights_are_refused(tmp_path, tensors, config, told):
    folder = tiny.published(tmp_path / "model", tensors=tensors, config=config)
    with pytest.raises(
        InputError, match="expected weights in floating point, found .*fetch the model that it was made"
    ):
        inspection.look(folder, "mine")
    with pytest.raises(InputError) as caught:
        inspection.look(folder, "mine")
    assert told in str(caught.value)


def write(name, content):
    return lambda folder: (folder / name).write_text(json.dumps(content), encoding="utf-8")


def own_code(folder):
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said |= {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": "InternLM2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x00")


def more_tokens(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(3)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (write("config.json", {"model_type": "t5"}), "expected a causal language model, found 't5', of which"),
        (write("config.json", {"model_type": "own"}), "expected a model_type that transformers knows in config.json"),
        (write("adapter_config.json", {"base_model_name_or_path": "x"}), "found an adapter beside it; merge it"),
        (own_code, "expected a tokenizer that transformers can load, found: "),
        (more_tokens, "its tokenizer has '<extra 2>' as token 33, its embedding has 31 rows"),
        (write("tokenizer.json", {}), "expected a tokenizer"),
    ],
)
def test_what_is_no_causal_lm_with_its_tokenizer_is_refused(tmp_path, change, told):
    folder = tiny.published(tmp_path / "model")
    change(folder)
    with pytest.raises(InputError) as caught:
        pretrained.prepare(Source(kind="path", name=str(folder)), tmp_path / "out")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_an_encoder_is_refused_though_the_library_lists_it_among_causal_models(tmp_path):
    settings = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }  # fmt: skip
    folder = tiny.published(tmp_path / "encoder", "bert", **settings)
    with pytest.raises(InputError, match="found 'bert' as an encoder, which sees later words"):
        inspection.look(folder, "mine")
    assert inspection.look(tiny.published(tmp_path / "decoder", "bert", is_decoder=True, **settings), "mine")


def test_the_file_that_the_library_reads_counts_and_no_other(tmp_path):
    folder = tiny.published(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    other = {name: tensor * 0 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "model.fp16.safetensors")
    save_file(other, folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(other, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    dense = taken(folder, tmp_path)
    assert [path.name for path in dense.glob("*.safetensors*")] == ["model.safetensors"]
    assert torch.equal(checkpoint.load(dense)(IDS).logits, model(IDS).logits)


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def hub_gpt2(tensors):
    """As gpt2 lies on the hub: without prefix and head, with mask buffers."""
    found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    masks = {f"h.{block}.attn.bias": torch.ones(1, 1, 64, 64).tril() for block in range(2)}
    fillers = {f"h.{block}.attn.masked_bias": torch.tensor(-1e4) for block in range(2)}
    return found | masks | fillers


def pythia(tensors):
    """As Pythia lies on the hub: masks and frequencies of every layer."""
    more = {}
    for layer in range(3):
        name = f"gpt_neox.layers.{layer}.attention"
        more[f"{name}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        more |= {f"{name}.masked_bias": torch.tensor(-1e9), f"{name}.rotary_emb.inv_freq": torch.ones(1)}
    return tensors | more


@pytest.mark.parametrize(
    ("architecture", "tensors", "settings"), [("gpt2", hub_gpt2, GPT2), ("gpt_neox", pythia, tiny.NEOX)]
)
def test_buffers_that_files_carry_are_no_parameters_and_not_copied(tmp_path, architecture, tensors, settings):
    plain = tiny.published(tmp_path / "plain", architecture, **settings)
    model = AutoModelForCausalLM.from_pretrained(plain).eval()
    folder = tiny.published(tmp_path / "model", architecture, tensors=tensors, **settings)
    dense = taken(folder, tmp_path)
    names = {name for name, _ in model.named_parameters()}
    assert set(load_file(dense / "model.safetensors")) == names  # the module's own names, each once
    manifest = json.loads((tmp_path / "fetched" / "manifest.json").read_text())
    assert manifest["parameters_stored"] == sum(parameter.numel() for parameter in model.parameters())
    assert torch.equal(checkpoint.load(dense)(IDS).logits, model(IDS).logits)


def with_head(factor):
    return lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * factor}


def test_a_tied_tensor_that_is_stored_twice_counts_once(tmp_path):
    folder = tiny.published(tmp_path / "model", tensors=with_head(1), **tiny.LLAMA, tie_word_embeddings=True)
    dense = taken(folder, tmp_path)
    assert "lm_head.weight" not in load_file(dense / "model.safetensors")
    facts = inspection.look(folder, "mine")
    assert facts.parameters_stored == sum(parameter.numel() for parameter in checkpoint.load(dense).parameters())
    assert facts.remarks == []


def test_two_tensors_that_only_the_config_ties_stay_two_and_it_is_told(tmp_path):
    folder = tiny.published(tmp_path / "model", tensors=with_head(2), **tiny.LLAMA, tie_word_embeddings=True)
    expected = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    facts = inspection.look(folder, "mine")
    assert "lm_head.weight and model.embed_tokens.weight" in facts.remarks[0]
    dense = taken(folder, tmp_path)
    assert json.loads((dense / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(checkpoint.load(dense)(IDS).logits, expected)


@pytest.mark.parametrize(("stored", "said"), [(torch.float32, "bfloat16"), (torch.bfloat16, "float32")])
def test_the_files_decide_the_dtype_of_dense_and_variants_and_a_difference_is_told(tmp_path, stored, said):
    from prunelab.pruning import pruning
    from prunelab.pruning.decisions import Plan
    from prunelab.recipes import variants

    folder = tiny.published(tmp_path / "model", dtype=stored, config={"dtype": said})
    name = str(stored).removeprefix("torch.")
    assert inspection.look(folder, "mine").remarks == [
        f"config.json says {said}, the files hold {name}: the model is used as it is stored"
    ]
    dense = taken(folder, tmp_path)
    pruning.prune(
        dense, tmp_path / "magnitude-50", Plan(variants.parse("magnitude-50"), "uniform", "blocks", "last", 0)
    )
    assert checkpoint.load(dense).dtype == checkpoint.load(tmp_path / "magnitude-50").dtype == stored
    assert AutoModelForCausalLM.from_pretrained(dense).dtype == stored
    # Alone too, without the look at fetch that puts config.json right.
    shutil.copyfile(folder / "config.json", tmp_path / "magnitude-50" / "config.json")
    assert checkpoint.load(folder).dtype == checkpoint.load(tmp_path / "magnitude-50").dtype == stored


def test_a_tokenizer_in_older_files_becomes_a_tokenizer_json_with_the_same_tokens(tmp_path):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    folder = tmp_path / "opt"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the king of all men loves a good day " * 20], vocab_size=300, show_progress=False)
    tiny.published(folder, "gpt2", **GPT2, vocab_size=bpe.get_vocab_size())
    (folder / "tokenizer.json").unlink()
    bpe.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    dense = taken(folder, tmp_path)
    text = "the king loves all men"
    assert (dense / "tokenizer.json").exists()
    assert AutoTokenizer.from_pretrained(dense)(text)["input_ids"] == bpe.encode(text).ids


def not_a_number(tensors):
    return tensors | {"model.norm.weight": torch.full((32,), float("nan"))}


def test_a_model_that_predicts_no_numbers_is_told_before_it_is_scored(tmp_path):
    folder = tiny.published(tmp_path / "model", tensors=not_a_number)
    told = "expected a model that predicts numbers, found nan: its weights hold nan or are too large for float32"
    with pytest.raises(InputError, match=told):
        loading.require_causal(loading.of_folder(folder), folder)


def test_a_model_that_cannot_run_is_told_before_it_is_scored(tmp_path):
    shape = {key: value for key, value in tiny.LLAMA.items() if key != "num_key_value_heads"}
    folder = tiny.published(tmp_path / "model", "roberta", **shape, is_decoder=True)  # it counts from its padding
    with pytest.raises(
        InputError, match="RobertaForCausalLM cannot run with its config.json: ne.. received an invalid"
    ):
        loading.require_causal(loading.of_folder(folder), folder)


def test_buffers_that_the_class_keeps_are_in_every_variant_and_in_no_count(tmp_path):
    from prunelab.pruning import pruning
    from prunelab.pruning.decisions import Plan
    from prunelab.recipes import variants

    settings = {
        **tiny.LLAMA, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    }  # fmt: skip
    balance = "model.layers.1.mlp.gate.e_score_correction_bias"
    folder = tiny.published(
        tmp_path / "model", "deepseek_v3", tensors=lambda found: found | {balance: torch.arange(4.0)}, **settings
    )
    dense = taken(folder, tmp_path)
    record = pruning.prune(
        dense, tmp_path / "magnitude-50", Plan(variants.parse("magnitude-50"), "uniform", "blocks", "last", 0)
    )
    model = checkpoint.load(tmp_path / "magnitude-50")
    assert torch.equal(model.get_buffer(balance), torch.arange(4.0))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert record["parameters"] == parameters == inspection.look(folder, "mine").parameters_stored
    assert record["nonzero_parameters"] == sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    assert record["sparsity_all"] == sum(layer["zeros"] for layer in record["layers"]) / parameters
    assert json.loads((dense / "buffers.json").read_text()) == [balance, balance.replace(".1.", ".2.")]
