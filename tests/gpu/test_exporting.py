"""What is exported is opened on a GPU, or beside one, and computes what the variant computes on the CPU."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from prunelab.delivery import export
from prunelab.making import masking, precision
from prunelab.models import checkpoint, onnx
from prunelab.quantised import files as quantised
from prunelab.recipes import variants
from tests.gpu import both
from tests.gpu.test_precisions import IDS, logits

pytestmark = pytest.mark.gpu


@pytest.fixture
def masked(study, tmp_path):
    masking.mask(both.given(study), variants.parse("magnitude-50"), tmp_path / "masked")
    return tmp_path / "masked"


def test_an_exported_folder_opens_on_a_gpu(masked, tmp_path):
    export.write(masked, tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", device_map=both.GPU).eval()
    assert model.device.type == both.GPU
    assert both.apart(logits(model), logits(checkpoint.load(masked))) < 1e-5


def test_an_exported_int8_row_opens_on_a_gpu_in_torchao_s_format(llama, tmp_path):
    pytest.importorskip("torchao")
    precision.quantise(both.given(llama), variants.parse("dense-int8"), llama.dense[both.GPU], tmp_path / "int8")
    export.write(tmp_path / "int8", tmp_path / "ao")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ao", device_map=both.GPU).eval()
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
    assert both.apart(logits(model), logits(quantised.dequantised(tmp_path / "int8"))) < 1e-4


def test_an_onnx_file_says_what_the_gpu_says(masked, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = checkpoint.load(masked, torch.float32)
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-4
    session = onnx.Session(tmp_path / "model.onnx", model.config)
    assert both.apart(session(input_ids=IDS).logits, logits(model.to(both.GPU))) < 1e-4
