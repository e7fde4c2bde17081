"""Models that see pictures: loaded by their own class, looked at, pruned by tower, packed and exported like others."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from prunelab.errors import InputError
from prunelab.models import checkpoint, composites, inspection, loading, models, packed, pretrained
from prunelab.models.tensors import identity
from prunelab.pruning import pruning
from prunelab.quantised import files, opening
from prunelab.recipes import variants
from prunelab.structure import removal
from prunelab.study.params import Source
from prunelab.training import training
from tests.helpers import seeing, tiny

STACKS = {
    "LLaVA": ("model.language_model.layers", "model.vision_tower.encoder.layers"),
    "Idefics3": ("model.text_model.layers", "model.vision_model.encoder.layers"),
    "PaliGemma": ("model.language_model.layers", "model.vision_tower.encoder.layers"),
    "Gemma 3": ("model.language_model.layers", "model.vision_tower.encoder.layers"),
    "Qwen2.5-VL": ("model.language_model.layers", "model.visual.blocks"),
}
IDS = torch.arange(2, 14)[None]


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(scope="module", params=list(seeing.PLACES))
def case(request, tmp_path_factory):
    """(family, folder as fetched, folder of the dense model as taken)."""
    root = tmp_path_factory.mktemp("model")
    source = Source(kind="path", name=str(seeing.model_of(request.param)))
    pretrained.prepare(source, root / "fetched", inspection.PICTURE)
    (root / "dense").mkdir()
    training.take(root / "fetched", 64, root / "dense")
    return request.param, root / "fetched", root / "dense"


def test_it_is_the_library_s_own_model(case):
    family, fetched, dense = case
    expected = AutoModelForImageTextToText.from_pretrained(seeing.model_of(family)).eval()
    for folder in (fetched, dense):
        found = checkpoint.load(folder)
        assert type(found) is type(expected) and torch.equal(logits(found), logits(expected))
    loading.require_causal(expected, family)


def test_blocks_are_found_in_the_tower_that_is_asked_for(case):
    family, fetched, _ = case
    model = loading.skeleton(fetched)
    language, vision = STACKS[family]
    assert models.decoder_blocks(model)[0] == language and len(models.decoder_blocks(model)[1]) == 2
    assert models.decoder_blocks(model, "vision")[0] == vision
    known = dict(model.named_parameters())
    alone, both = models.prunable_tensors(model), models.prunable_tensors(model, ("language", "vision"))
    assert alone == [{k: v for k, v in entry.items() if k != "tower"} for entry in both if entry["tower"] == "language"]
    assert all("tower" not in entry and entry["name"].startswith(f"{language}.") for entry in alone)
    seen = [entry for entry in both if entry["tower"] == "vision"]
    assert {entry["block"] for entry in alone} == {0, 1} and {entry["block"] for entry in seen} == {2, 3}
    assert {entry["role"] for entry in seen} == {"attention", "mlp"}
    assert all(list(known[entry["name"]].shape) == entry["shape"] for entry in both)
    assert models.context_length(model.config) == 128


def test_pruned_and_packed_it_is_the_masked_model_and_its_processor_travels(case, tmp_path):
    _, fetched, dense = case
    variant = variants.parse("magnitude-50")
    pruning.prune(dense, tmp_path / "variant", pruning.Plan(variant, "uniform", "blocks", "last", 0))
    masked = checkpoint.load(dense)
    parameters = dict(masked.named_parameters())
    masks = dict(packed.masks_of(tmp_path / "variant"))
    assert {entry["name"] for entry in models.prunable_tensors(masked)} == set(masks)
    with torch.no_grad():
        for name, keep in masks.items():
            parameters[name].mul_(keep)
    assert torch.equal(logits(checkpoint.load(tmp_path / "variant")), logits(masked))
    checkpoint.export(tmp_path / "variant", tmp_path / "plain")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "plain").eval()
    assert torch.equal(logits(plain), logits(masked))
    for out in ("variant", "plain"):
        for name in ("processor_config.json", "preprocessor_config.json", "tokenizer.json"):
            assert (tmp_path / out / name).exists() == (fetched / name).exists()


@pytest.fixture
def llava(tmp_path):
    return shutil.copytree(seeing.model_of("LLaVA"), tmp_path / "model")


def change(folder, tensors):
    path = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in tensors(load_file(path)).items()}, path)


def test_weights_that_are_missing_or_too_many_are_told(llava, tmp_path):
    name = next(name for name in load_file(llava / "model.safetensors") if "projector" in name)
    change(llava, lambda tensors: {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(InputError, match="expected all of the model's weights, found none for .*projector"):
        pretrained.prepare(Source(kind="path", name=str(llava)), tmp_path / "out", inspection.PICTURE)
    change(llava, lambda tensors: tensors | {name: torch.ones(3), "vision.more.weight": torch.ones(3)})
    with pytest.raises(InputError, match="vision.more.weight that LlavaForConditionalGeneration has no place for"):
        pretrained.prepare(Source(kind="path", name=str(llava)), tmp_path / "out2", inspection.PICTURE)


def test_a_study_of_texts_refuses_it_and_one_of_pictures_takes_a_model_of_text_too(llava, tmp_path):
    with pytest.raises(InputError, match="expected a causal language model, found 'llava'"):
        inspection.look(llava, "mine")
    text = tiny.published(tmp_path / "text")
    assert inspection.look(text, "mine", inspection.PICTURE).model_type == "llama"


def test_a_model_of_text_has_no_vision_tower():
    model = tiny.gpt2()
    assert composites.language_model(model) == ("", model)
    with pytest.raises(InputError, match="GPT2LMHeadModel: no blocks of a vision tower found"):
        models.prunable_tensors(model, ("vision",))


def test_of_a_family_with_both_config_json_says_which_the_weights_are():
    said = {"model_type": "gemma3", "vision_config": {}}
    assert composites.is_composite(said)
    assert composites.is_composite(said | {"architectures": ["Gemma3ForConditionalGeneration"]})
    assert not composites.is_composite({"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]})
    both = {"model_type": "qwen3_5", "vision_config": {}}
    assert composites.is_composite(both | {"architectures": ["Qwen3_5ForConditionalGeneration"]})
    assert not composites.is_composite(both | {"architectures": ["Qwen3_5ForCausalLM"]})


@pytest.mark.parametrize("rate", ["depth-random-50", "mlp-width-norms-30"])
def test_structure_is_removed_from_its_language_model(case, tmp_path, rate):
    family, _, dense = case
    plan = removal.Plan(variants.parse(rate), 8, "last", 0)
    record = removal.remove(dense, tmp_path / "small", plan)
    small = AutoModelForImageTextToText.from_pretrained(tmp_path / "small")
    text = composites.text_config(small.config)
    kept = (text.num_hidden_layers, text.intermediate_size)
    assert kept == ((1, 48) if rate.startswith("depth") else (2, 24)), family
    assert record["sparsity_pruned"] > 0.2 and record["structure"]["logits_from_masked"] < 1e-5


def test_in_int8_it_is_loaded_by_its_own_class_and_nearly_the_same(case, tmp_path):
    _, _, dense = case
    model = checkpoint.load(dense)
    before = logits(model)
    packed.copy_companions(dense, tmp_path)
    files.write(model, dense, tmp_path, "dense-int8", identity(dense))
    found = opening.load(tmp_path)
    assert type(found) is type(model)
    apart = float((logits(found) - before).abs().max() / before.abs().max())
    assert 0 < apart < 0.1
