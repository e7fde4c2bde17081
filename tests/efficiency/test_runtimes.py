"""Runtimes compute what the model computes, and say when they are not here."""

import shutil

import pytest
import torch

from prunelab.efficiency import latency, memory, runtimes
from prunelab.errors import InputError
from prunelab.models import checkpoint, int8, models, onnx
from stages import further as stage
from tests.helpers import architectures, tiny, workspace, zoo

HERE = runtimes.available()


def needs(name):
    return pytest.mark.skipif(HERE[name] is not None, reason=f"{name}: {HERE[name]}")


def test_every_runtime_is_here_or_says_why_not():
    assert HERE.keys() == runtimes.MEANING.keys() == runtimes.PREPARE.keys()
    assert HERE["eager"] is None
    assert all(reason is None or len(reason) > 20 for reason in HERE.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_two_of_four_kernels_without_a_gpu_are_refused_with_the_reason():
    with pytest.raises(InputError, match="semi-structured: not available here: 2:4 kernels need a CUDA GPU"):
        runtimes.prepare(tiny.gpt2(), "semi-structured")


def test_two_of_four_is_told_from_other_sparsity():
    model = architectures.build("llama")
    assert runtimes.breaks_2_of_4(model) == "model.layers.0.self_attn.q_proj.weight"
    with torch.no_grad():
        for tensor in models.prunable_tensors(model):
            model.get_parameter(tensor["name"]).view(-1, 4)[:, [1, 2]] = 0
    assert runtimes.breaks_2_of_4(model) is None
    assert "Conv1D" in runtimes.breaks_2_of_4(tiny.gpt2())


def test_an_unknown_runtime_names_the_known_ones():
    with pytest.raises(InputError, match="there is no 'tensorrt'; allowed: eager, compile"):
        runtimes.prepare(tiny.gpt2(), "tensorrt")


@needs("int8")
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_int8_is_near_and_leaves_the_model_as_it_was(name):
    model = architectures.build(name)
    with torch.no_grad():
        before = model(input_ids=architectures.IDS).logits
        found = runtimes.prepare(model, "int8")(input_ids=architectures.IDS).logits
        assert torch.equal(model(input_ids=architectures.IDS).logits, before)
    apart = (found - before).norm() / before.norm()
    assert 0 < apart < 0.1


@needs("int8")
def test_int8_weights_have_one_scale_an_output_row():
    model = architectures.build("llama")
    weight = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    int8.quantise(model)
    quantised = model.model.layers[0].mlp.up_proj.weight
    assert quantised.qdata.dtype == torch.int8
    scale = weight.abs().amax(1, keepdim=True) / 127.5
    assert torch.allclose(quantised.scale.view(-1, 1).float(), scale, rtol=0.01)
    assert not hasattr(model.lm_head.weight, "qdata")


@needs("int8")
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_an_int8_folder_loads_to_the_bit_and_is_smaller(name, tmp_path):
    model = architectures.build(name)
    folder = tiny.dense_folder(tmp_path / "dense", model)
    facts = int8.save(checkpoint.load(folder), folder, tmp_path / "int8", "dense-int8")
    loaded = checkpoint.load(tmp_path / "int8")
    int8.quantise(model)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=architectures.IDS).logits, model(input_ids=architectures.IDS).logits)
    assert facts["bytes"] < 0.75 * (folder / "model.safetensors").stat().st_size
    assert facts["layers"] == len(models.prunable_tensors(architectures.build(name)))
    dense = architectures.build(name)
    held, plain = memory.parameter_counts(loaded), memory.parameter_counts(dense)
    assert held["parameters"] == plain["parameters"] and held["parameter_bytes"] < 0.75 * plain["parameter_bytes"]
    assert memory.macs_per_token(loaded, architectures.IDS) == memory.macs_per_token(dense, architectures.IDS)


@needs("int8")
@pytest.mark.parametrize("name", ["GPT-NeoX", "Mixtral", "GPT-Neo", "OPT, 350m's shape", "Gemma 2", "Llama, tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_folder_holds_the_whole_model_by_the_module_s_names(name, dtype, tmp_path):
    folder = tiny.dense_folder(tmp_path / "dense", zoo.random_model(name, 40).to(dtype))
    int8.save(checkpoint.load(folder), folder, tmp_path / "int8", "dense-int8")
    loaded, wanted = checkpoint.load(tmp_path / "int8"), checkpoint.load(folder)
    int8.quantise(wanted)
    assert loaded.dtype == wanted.dtype == dtype
    held = dict(loaded.named_parameters())
    for tensor, value in wanted.named_parameters():
        if hasattr(value, "qdata"):
            assert torch.equal(held[tensor].qdata, value.qdata) and torch.equal(held[tensor].scale, value.scale)
        else:
            assert torch.equal(held[tensor], value), tensor
    assert memory.parameter_counts(loaded) == memory.parameter_counts(wanted)


@needs("int8")
def test_a_head_that_is_no_longer_its_embedding_s_twin_stays_itself_in_int8(tmp_path):
    model = zoo.random_model("Llama", 40)
    folder = tiny.dense_folder(tmp_path / "dense", model)
    int8.save(checkpoint.load(folder), folder, tmp_path / "int8", "dense-int8")
    config = (tmp_path / "int8" / "config.json").read_text()
    (tmp_path / "int8" / "config.json").write_text(
        config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    assert torch.equal(checkpoint.load(tmp_path / "int8").lm_head.weight, model.lm_head.weight)


@needs("int8")
def test_a_model_that_cannot_run_in_int8_is_refused_by_the_stage_and_listed_with_the_reason(tmp_path, monkeypatch):
    model = zoo.random_model("Mamba", 40)
    folder = tiny.dense_folder(tmp_path / "models" / "dense", model)
    shutil.copy(workspace.ROOT / "studies" / "default.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refusal:
        stage.main(f"dense-int8 --dense {folder} --out models/s1/dense-int8".split())
    told = str(refusal.value)
    assert told.startswith(
        "int8: MambaForCausalLM cannot run in int8: it uses a weight otherwise than to multiply by it"
    )
    assert told.endswith("; take int8 out of prune.further") and "\n" not in told
    assert not (tmp_path / "models" / "s1" / "dense-int8").exists()
    with pytest.raises(InputError, match="MambaForCausalLM cannot run in int8"):
        runtimes.prepare(model, "int8")


@needs("int8")
def test_what_is_stored_is_compared_with_what_was_quantised(tmp_path, monkeypatch):
    folder = tiny.dense_folder(tmp_path / "dense", architectures.build("llama"))
    whole = int8.load

    def forgetful(path):
        model = whole(path)
        model.model.norm.weight.data.add_(0.5)
        return model

    monkeypatch.setattr(int8, "load", forgetful)
    with pytest.raises(
        InputError, match="LlamaForCausalLM cannot run in int8: its folder holds another model.norm.weight"
    ):
        int8.save(checkpoint.load(folder), folder, tmp_path / "int8", "dense-int8")
    assert not (tmp_path / "int8").exists()


@needs("onnx")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox", "qwen3"])
def test_the_onnx_file_computes_torch_s_logits_with_its_cache(name, tmp_path):
    model = architectures.build(name)
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-5
    session = onnx.Session(tmp_path / "model.onnx", model.config)
    work = latency.Work(prompt_tokens=6, batch=3, output_tokens=4)
    ids = latency.prompts(session, work, seed=0)
    chosen = []
    for served in (session, model):
        token, cache = latency.prefill(served, ids)
        tokens = [token]
        for _ in range(3):
            token, cache = latency.decode_one_token(served, token, cache)
            tokens.append(token)
        chosen.append(torch.cat(tokens, 1))
    assert torch.equal(*chosen)


@needs("onnx")
@pytest.mark.slow
def test_an_onnx_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    model = tiny.gpt2()
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="onnx: the exported GPT2LMHeadModel computes logits"):
        onnx.export(model, tmp_path / "model.onnx")


@needs("compile")
@pytest.mark.slow
def test_a_compiled_model_computes_the_same_with_its_cache():
    model = tiny.gpt2()
    compiled = runtimes.prepare(model, "compile")
    work = latency.Work(prompt_tokens=6, batch=1, output_tokens=4)
    ids = latency.prompts(compiled, work, seed=0)
    with torch.inference_mode():
        token, cache = latency.prefill(compiled, ids)
        wanted, _ = latency.prefill(model, ids)
        assert torch.equal(token, wanted)
        found = compiled(input_ids=token, past_key_values=cache, use_cache=True).logits
        whole = model(input_ids=torch.cat([ids, token], 1)).logits[:, -1:]
    assert torch.allclose(found, whole, atol=1e-4)
