"""transformers loads a quantised folder by itself after `import prunelab.hf`, and refuses to guess without."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.quantizers import auto

import prunelab.hf
from prunelab.quantised import opening
from tests.quantised.test_files import MODELS, logits, written


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", MODELS)
def test_from_pretrained_gives_the_model_that_prunelab_loads_and_finds_all_tensors(tmp_path, kind, precision):
    _, out, _ = written(tmp_path, MODELS[kind](), precision=precision)
    model, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    own = opening.load(out)
    assert model.dtype == own.dtype and not model.training
    assert torch.equal(logits(model), logits(own))
    assert torch.equal(
        model.generate(torch.arange(4)[None], max_new_tokens=4, do_sample=False)[:, :4], torch.arange(4)[None]
    )
    with pytest.raises(ValueError, match="prunelab"):
        model.save_pretrained(tmp_path / "again")


def test_without_the_quantiser_it_is_an_error_and_no_model_of_random_weights(tmp_path, monkeypatch):
    _, out, _ = written(tmp_path, MODELS["untied"]())
    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "prunelab")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(out)


def test_from_pretrained_does_not_quantise_on_the_way(tmp_path):
    written(tmp_path, MODELS["untied"]())
    config = prunelab.hf.QuantisedConfig("int8", None, "int8", True)
    with pytest.raises(ValueError, match="prunelab.quantised.quantise"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "dense-quantised", quantization_config=config)


def test_importing_prunelab_imports_no_transformers():
    code = "import prunelab, sys; sys.exit('transformers' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
