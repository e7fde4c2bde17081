"""Models in bf16, int8 and int4 on a GPU compute what they compute on the CPU."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import prunelab.hf  # noqa: F401  (from_pretrained knows quantised folders)
from prunelab.efficiency import latency
from prunelab.making import masking, precision
from prunelab.models import checkpoint
from prunelab.quantised import files as quantised
from prunelab.quantised import opening
from prunelab.quantised.layers import quantised_layers
from prunelab.recipes import variants
from tests.gpu import both

pytestmark = pytest.mark.gpu
IDS = torch.arange(40).view(2, 20) % 20
QUANTISED = ["dense-int8", "dense-int4", "magnitude-50-int8", "magnitude-50-int4"]


@torch.no_grad()
def logits(model, ids=IDS):
    return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()


def made(study, identifier: str, out):
    """The folder of a quantised row."""
    source, variant = study.dense[both.GPU], variants.parse(identifier)
    if variant.prunes:
        masking.mask(both.given(study), variants.parse("magnitude-50"), out / "masked")
        source = out / "masked"
    precision.quantise(both.given(study), variant, source, out / "model")
    return out / "model"


def test_fp32_models_differ_by_roundings_alone(study):
    model = checkpoint.load(study.dense[both.GPU])
    expected = logits(model)
    assert both.apart(logits(model.to(both.GPU)), expected) < 1e-5


def test_a_row_in_bf16_computes_in_bf16(study, tmp_path):
    dense = study.dense[both.GPU]
    precision.in_bf16(both.given(study), variants.parse("dense-bf16"), dense, tmp_path / "model")
    model = checkpoint.load(tmp_path / "model")
    expected = logits(model)
    found = model.to(both.GPU)
    assert found.dtype == torch.bfloat16
    # Eight bits a number, rounded after every operation: 1e-2 of a logit.
    assert both.apart(logits(found), expected) < 2e-2
    assert 1e-5 < both.apart(logits(found), logits(checkpoint.load(dense))) < 3e-2


@pytest.mark.parametrize("identifier", QUANTISED)
def test_a_quantised_row_computes_what_its_levels_stand_for(study, tmp_path, identifier):
    """In fp32, held against the ordinary model of the same values on the CPU; the CPU's kernels may compute in bf16."""
    folder = made(study, identifier, tmp_path)
    model, plain = opening.load(folder), logits(quantised.dequantised(folder))
    by_kernels = logits(model)
    model.to(both.GPU)
    assert {layer.qdata.device.type for layer in quantised_layers(model).values()} == {both.GPU}
    assert both.apart(logits(model), plain) < 1e-4
    assert both.apart(logits(model), by_kernels) < 2e-2
    with torch.inference_mode():  # token by token, as it is served
        token, cache = latency.prefill(model, IDS[:, :19].to(model.device))
        step = model(input_ids=IDS[:, 19:].to(model.device), past_key_values=cache, use_cache=True).logits
    assert both.apart(step[:, -1], plain[:, -1]) < 1e-4
    assert torch.equal(token.cpu()[:, 0], plain[:, 18].argmax(-1))


@pytest.mark.parametrize("identifier", ["dense-int8", "dense-int4"])
def test_transformers_loads_a_quantised_folder_onto_a_gpu(study, tmp_path, identifier):
    folder = made(study, identifier, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=both.GPU).eval()
    assert both.apart(logits(model), logits(quantised.dequantised(folder))) < 1e-4


def test_back_on_the_cpu_a_quantised_model_takes_the_kernels_again(study, tmp_path):
    model = opening.load(made(study, "dense-int4", tmp_path))
    expected = logits(model, IDS[:1, :4])
    model.to(both.GPU)
    assert torch.equal(logits(model.to("cpu"), IDS[:1, :4]), expected)
