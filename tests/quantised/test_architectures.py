"""Architectures whose ends or norms are unlike Llama's: a scaled embedding, one tied head that stays, no parameters."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import prunelab.hf  # noqa: F401 (registers the quantiser)
from prunelab.models import checkpoint
from prunelab.models.tensors import identity
from prunelab.quantised import files, opening
from tests.helpers import tiny, zoo

IDS = torch.arange(6)[None]


@pytest.mark.parametrize(("name", "tied"), [("Gemma", True), ("XGLM", True), ("OLMo", False)])
def test_an_odd_model_is_loaded_as_it_was_quantised_by_this_package_and_by_transformers(tmp_path, name, tied):
    dense = tiny.dense_folder(tmp_path / "dense", zoo.random_model(name, 40))
    model, out = checkpoint.load(dense), tmp_path / "out"
    out.mkdir()
    facts = files.write(model, dense, out, "dense-int8", identity(dense))
    assert facts["tied"] is tied
    with torch.inference_mode():
        expected = model(input_ids=IDS).logits
        for loaded in (opening.load(out), AutoModelForCausalLM.from_pretrained(out)):
            assert torch.equal(loaded(input_ids=IDS).logits, expected)
            assert loaded.device.type == "cpu" and loaded.dtype == torch.float32
