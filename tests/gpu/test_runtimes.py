"""The runtimes beside eager torch on a GPU: 2:4 kernels, compiled, ONNX."""

import pytest
import torch

from prunelab.efficiency import runtimes, serving
from prunelab.errors import InputError
from prunelab.making import masking
from prunelab.models import checkpoint
from prunelab.recipes import variants
from tests.gpu import both

pytestmark = pytest.mark.gpu
SESSION = {"prefill_smallest_effect": 0.02, "decode_smallest_effect": 0.02}


@pytest.fixture(scope="module")
def sparse(llama, tmp_path_factory):
    """A variant of the Llama of which 2 of every 4 weights are zero."""
    folder = tmp_path_factory.mktemp("sparse") / "magnitude-2of4"
    masking.mask(both.given(llama), variants.parse("magnitude-2of4"), folder)
    return folder


# What each is apart from eager fp32: fp16 rounds to 5e-4, the others add up in another order.
@pytest.mark.parametrize(("name", "rounding"), [("semi-structured", 1e-2), ("compile", 1e-4), ("onnx", 1e-4)])
def test_a_runtime_serves_what_the_model_computes(llama, sparse, name, rounding):
    found = serving.measure(sparse, llama.dense[both.GPU], [name], 0.2, llama.settings.efficiency, SESSION, seed=0)
    figures = found["runtimes"][name]
    assert figures["available"], figures["reason"]
    assert figures["logits_from_eager"] < rounding and figures["top1_agreement_eager"] > 0.9
    assert figures["decode_ms_per_token"] > 0 and figures["decode_ratio_lo"] <= figures["decode_ratio_hi"]
    assert figures["dtype"] == ("float16" if name == "semi-structured" else "float32")


def test_two_of_four_kernels_hold_fewer_bytes_and_agree_with_the_cpu(sparse):
    model = checkpoint.load(sparse)
    served = runtimes.prepare(model, "semi-structured")
    ids = torch.arange(32)[None] % 20
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
        found = served(input_ids=ids.to(both.GPU), use_cache=False).logits
    assert both.apart(found, expected) < 1e-2
    weight = served.get_submodule("model.layers.0.mlp.up_proj").weight
    assert type(weight).__name__.startswith("SparseSemiStructured")
    assert type(model.get_submodule("model.layers.0.mlp.up_proj").weight) is torch.nn.Parameter


def test_a_model_of_transposed_layers_has_no_two_of_four_kernels_and_says_so(gpt2):
    with pytest.raises(InputError, match="semi-structured: transformer.h.0.attn.c_attn.weight .a Conv1D"):
        runtimes.prepare(checkpoint.load(gpt2.dense[both.GPU]), "semi-structured")
