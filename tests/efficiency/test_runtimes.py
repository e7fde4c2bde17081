"""Runtimes compute what the model computes, and say when they are not here."""

import pytest
import torch

from prunelab import quantised
from prunelab.efficiency import latency, runtimes
from prunelab.errors import InputError
from prunelab.models import models, onnx
from tests.helpers import architectures, tiny

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


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("semi-structured", "semi-structured: this model's layers are in int4, and 2:4 kernels multiply by weights in"),
        ("onnx", "onnx: this model's layers are in int4, and its exporter knows no operator for weights that are held"),
    ],
)
def test_a_runtime_that_cannot_take_a_quantised_model_says_why_and_what_to_take(monkeypatch, name, why):
    model = architectures.build("llama")
    quantised.quantise(model, "int4")
    monkeypatch.setattr(runtimes, "available", lambda: dict.fromkeys(runtimes.MEANING))
    with pytest.raises(InputError) as refusal:
        runtimes.prepare(model, name)
    assert str(refusal.value).startswith(why) and str(refusal.value).endswith("; take the row it was made of")


@needs("compile")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_model_computes_compiled_what_it_computes(precision):
    model = architectures.build("llama")
    quantised.quantise(model, precision)
    compiled = runtimes.prepare(model, "compile")
    work = latency.Work(prompt_tokens=6, batch=1, output_tokens=4)
    ids = latency.prompts(model, work, seed=0)
    logits = []
    for served in (model, compiled):
        token, cache = latency.prefill(served, ids)
        with torch.inference_mode():
            logits.append(served(input_ids=token, past_key_values=cache, use_cache=True).logits)
    assert (logits[1] - logits[0]).norm() < 1e-3 * logits[0].norm()


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
