"""Models stored in fewer bits: what a step writes, what stays of a mask, and which row would be none of its own."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prunelab.disk.files import read_json
from prunelab.efficiency import memory
from prunelab.errors import InputError
from prunelab.making import chain, kept
from prunelab.models import checkpoint, packed
from prunelab.models.tensors import identity
from prunelab.quantised import opening
from prunelab.quantised.layers import quantised_layers
from prunelab.recipes import variants
from tests.helpers import recipes
from tests.helpers.recipes import placed  # noqa: F401  (a fixture)


@pytest.fixture
def study(placed, tmp_path, monkeypatch):  # noqa: F811
    """A copy of the dense model and its data in a current folder of its own."""
    shutil.copytree(placed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def made(identifier: str, given) -> Path:
    out = Path("models") / identifier
    chain.make(given, variants.parse(identifier), out)
    return out


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def test_dense_in_bf16_is_a_plain_folder_of_rounded_weights_half_as_large(study):
    out = made("dense-bf16", recipes.given("dense-bf16"))
    dense, found = (dict(AutoModelForCausalLM.from_pretrained(f).named_parameters()) for f in ("models/dense", out))
    for name, parameter in found.items():
        assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, dense[name].bfloat16())
    facts = {"variant": "dense-bf16", "precision": "bf16", "bytes": size(out), "dense_sha256": identity("models/dense")}
    assert chain.facts_of(out) == facts
    assert 0.5 < size(out) / size("models/dense") < 0.6  # names and shapes are as long as before


@pytest.mark.parametrize("beginning", ["magnitude-50", "depth-50"])
def test_what_was_pruned_keeps_its_record_in_bf16_with_the_bytes_of_that_file(study, beginning):
    given = recipes.given("depth-50", f"{beginning}-bf16")
    before, after = (made(name, given) for name in (beginning, f"{beginning}-bf16"))
    old, new = read_json(before / "sparsity.json"), read_json(after / "sparsity.json")
    assert new == old | {"variant": f"{beginning}-bf16", "packed_bytes": size(after)}
    assert size(after) < 0.65 * size(before)
    model, source = checkpoint.load(after), checkpoint.load(before)
    assert model.dtype == torch.bfloat16
    for (name, value), other in zip(model.named_parameters(), source.parameters(), strict=True):
        assert torch.equal(value, other.bfloat16()), name
    if beginning == "magnitude-50":
        masks = dict(packed.masks_of(before))
        assert masks and all(torch.equal(keep, masks[name]) for name, keep in packed.masks_of(after))


@pytest.mark.parametrize("step", ["int8", "int4"])
def test_a_quantised_mask_keeps_its_zeros_and_its_record_with_what_is_stored_now(study, step):
    given = recipes.given(f"magnitude-50-{step}", f"dense-{step}")
    pruned, quantised, dense = (made(name, given) for name in ("magnitude-50", f"magnitude-50-{step}", f"dense-{step}"))
    before, after = (read_json(folder / "sparsity.json") for folder in (pruned, quantised))
    facts = read_json(quantised / "quantised.json")
    nonzeros = memory.parameter_counts(model := opening.load(quantised))["nonzero_parameters"]
    changed = {"variant": f"magnitude-50-{step}", "packed_bytes": size(quantised), "nonzero_parameters": nonzeros}
    assert after == before | changed and facts["parameters"] == before["parameters"]
    assert nonzeros <= before["nonzero_parameters"] and facts["bytes"] == size(quantised) < size(pruned)
    assert facts["dense_sha256"] == identity("models/dense") == read_json(dense / "quantised.json")["dense_sha256"]
    assert not (dense / "sparsity.json").exists()
    for name, keep in packed.masks_of(pruned):
        levels = model.get_submodule(name.removesuffix(".weight")).levels()
        assert not levels.T[~keep].any() and levels.any()  # GPT-2's layers are transposed, quantised ones are not


@pytest.mark.parametrize("identifier", ["magnitude-50-int4-gptq", "depth-50-int8-gptq"])
def test_rounding_by_text_looks_at_the_calibration_text_and_at_what_was_pruned_before(study, identifier):
    nearest = identifier.removesuffix("-gptq")
    given = recipes.given(identifier, nearest)
    assert given.takes_long(variants.parse(identifier)) and not given.takes_long(variants.parse(nearest))
    rounded, plain = (made(name, given) for name in (identifier, nearest))
    assert read_json(rounded / "quantised.json")["rounding"] == "gptq"
    assert read_json(plain / "quantised.json")["rounding"] == "nearest"
    assert size(rounded) == pytest.approx(size(plain), rel=0.01)
    one, other = ({name: layer.levels() for name, layer in quantised_layers(opening.load(folder)).items()}
                  for folder in (rounded, plain))  # fmt: skip
    assert one.keys() == other.keys() and any(not torch.equal(one[name], other[name]) for name in one)
    if identifier.startswith("magnitude"):
        for name, keep in packed.masks_of(made("magnitude-50", given)):
            assert not one[name.removesuffix(".weight")].T[~keep].any()


def test_rounding_by_text_without_a_text_is_told(study):
    with pytest.raises(InputError, match="^dense-int4-gptq: is rounded with calibration text; give --calibration$"):
        made("dense-int4-gptq", recipes.given("dense-int4-gptq")._replace(calibration=None))
    assert not Path("models/dense-int4-gptq").exists()


def test_how_weights_are_quantised_is_the_study_s_setting_and_part_of_the_key(study):
    recipe = variants.parse("dense-int4")
    given = [recipes.given("dense-int4", quantise=change) for change in ({}, {"group": 64}, {"head": "int4"})]
    for number, one in enumerate(given):
        chain.make(one, recipe, Path(f"models/{number}"))
    facts = [read_json(f"models/{number}/quantised.json") for number in range(3)]
    assert [(one["group"], one["head"]) for one in facts] == [(32, "int8"), (64, "int8"), (32, "int4")]
    assert len({kept.key_of(one, recipe) for one in given}) == 3
    assert len({kept.key_of(one, variants.parse("depth-50")) for one in given}) == 1  # it decides nothing before


@pytest.mark.parametrize(("identifier", "twin"), [("dense-bf16", "dense"), ("depth-50-bf16", "depth-50")])
def test_bf16_of_a_model_that_is_in_bf16_is_no_row_of_its_own(study, identifier, twin):
    model = checkpoint.load("models/dense", torch.bfloat16)
    model.save_pretrained("models/dense")
    with pytest.raises(InputError) as caught:
        made(identifier, recipes.given(identifier))
    assert str(caught.value) == (
        f"{identifier}: models/dense is stored in bf16 already, so this is {twin} once more; take it out of "
        "prune.further"
    )
    assert not Path("models", identifier).exists()
