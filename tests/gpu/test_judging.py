"""What the stages reference and quality say of models on a GPU, beside what they say on the CPU."""

import pytest
from safetensors.torch import load_file

from prunelab.disk.files import read_json
from prunelab.making import masking, precision
from prunelab.recipes import variants
from prunelab.tasks import language
from tests.gpu import both

pytestmark = pytest.mark.gpu


def judged(study, identifier: str, model, device: str, out):
    """(quality.json of dense and of the variant, (windows, tokens) nats of the variant) on `device`."""
    dense, probes = study.dense[both.GPU], study.folder / "probes"
    with both.on(device):
        language.reference(study.settings, dense, study.folder / "data", probes, out / "dense")
        language.judge(study.settings, identifier, model, out / "dense", probes, out / "variant")
    figures = [read_json(out / name / "quality.json") for name in ("dense", "variant")]
    return *figures, load_file(out / "variant" / "windows.safetensors")["nll"]


def test_loss_divergence_and_what_else_is_judged_are_those_of_the_cpu(study, tmp_path):
    masking.mask(both.given(study), variants.parse("magnitude-50"), tmp_path / "model")
    found = judged(study, "magnitude-50", tmp_path / "model", both.GPU, tmp_path / "gpu")
    expected = judged(study, "magnitude-50", tmp_path / "model", "cpu", tmp_path / "cpu")
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        for figure in ("loss", "perplexity", "bits_per_byte"):
            assert mine[figure] == pytest.approx(theirs[figure], rel=1e-5)
        for cell, other in zip(mine["robustness"], theirs["robustness"], strict=True):
            assert (cell["kind"], cell["strength_percent"]) == (other["kind"], other["strength_percent"])
            assert cell["bits_per_byte"] == pytest.approx(other["bits_per_byte"], rel=1e-5)
        # Drawn from float64 logits on the CPU: another letter needs two that are equal up to a rounding.
        assert [one["text"] for one in mine["samples"]] == [one["text"] for one in theirs["samples"]]
    mine, theirs = found[1], expected[1]
    assert mine["loss_diff"] == pytest.approx(theirs["loss_diff"], abs=1e-5)
    assert mine["kl_to_dense"] == pytest.approx(theirs["kl_to_dense"], rel=1e-3)
    assert mine["top1_agreement"] == pytest.approx(theirs["top1_agreement"], abs=2e-3)  # near ties: 4 of 1,860 tokens
    assert (found[2] - expected[2]).abs().max() < 1e-3


@pytest.mark.parametrize(("identifier", "rounding"), [("dense-bf16", 1e-2), ("dense-int8", 1e-2), ("dense-int4", 1e-2)])
def test_rows_in_fewer_bits_are_judged_as_on_the_cpu(study, tmp_path, identifier, rounding):
    """Up to the 8 bits of bf16, in which at least one of the two may compute."""
    make = precision.in_bf16 if identifier == "dense-bf16" else precision.quantise
    make(both.given(study), variants.parse(identifier), study.dense[both.GPU], tmp_path / "model")
    _, found, _ = judged(study, identifier, tmp_path / "model", both.GPU, tmp_path / "gpu")
    _, expected, _ = judged(study, identifier, tmp_path / "model", "cpu", tmp_path / "cpu")
    assert found["loss"] == pytest.approx(expected["loss"], rel=rounding)
    assert found["dtype"] == expected["dtype"] == ("bf16" if identifier == "dense-bf16" else "fp32")
    if identifier != "dense-bf16":  # token by token and at once: on a GPU both are dense products in fp32
        assert found["decode_loss"] == pytest.approx(found["decode_loss_at_once"], rel=1e-4)
