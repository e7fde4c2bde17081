"""Calibration and pruning of a model that sees pictures, tower by tower, against the whole model with hooks."""

from types import SimpleNamespace

import pytest
import torch

from prunelab.calibration import calibration
from prunelab.calibration.blocks import BlockModel
from prunelab.calibration.calibration import Calibration
from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading, models, packed
from prunelab.pruning import pruning, streaming
from prunelab.recipes import variants
from tests.helpers import plain

PICTURE, PLACES = 1, 4  # the token that stands where a picture is, and how many of them a picture takes
BOTH = ["language", "vision"]


def llava():
    """A random LLaVA of two blocks a tower, in eval mode."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    size = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = CLIPVisionConfig(hidden_size=16, image_size=16, patch_size=8, **size)
    text = LlamaConfig(hidden_size=32, vocab_size=64, num_key_value_heads=2, max_position_embeddings=48, **size)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=PICTURE, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def samples(count: int = 5) -> dict:
    """Pictures with texts of several lengths, whose last three tokens are the answer."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 64, (count, 20), generator=generator)
    ids[:, 2 : 2 + PLACES] = PICTURE
    mask, labels = torch.ones_like(ids), torch.full_like(ids, -100)
    for row in range(count):
        end = 20 - 2 * row
        mask[row, end:] = 0
        labels[row, end - 3 : end] = ids[row, end - 3 : end]
    pictures = torch.rand(count, 3, 16, 16, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures, "labels": labels}


SAMPLES = samples()


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("llava") / "dense", llava()
    loading.save(model, folder)
    write_json(folder / "prunable.json", models.prunable_tensors(model, BOTH))
    return folder


def wanted(**calibrate) -> SimpleNamespace:
    """The settings that block by block pruning reads."""
    section = {"batch_tokens": 40, "precision": "fp32", "hidden_states": "memory", "propagate": "pruned"} | calibrate
    prune = SimpleNamespace(towers=BOTH, checkpoint="last", scope="blocks", allocation="uniform")
    return SimpleNamespace(
        calibrate=SimpleNamespace(**section), prune=prune, variants=lambda: [variants.parse("sparsegpt-50")]
    )


def inputs_of(model, names) -> dict[str, torch.Tensor]:
    """What reaches each layer in the whole model: of the language model at the tokens that are a sample's own."""
    found = {name: [] for name in names}

    def note(name):
        def add(_, args):
            x = args[0]
            own = SAMPLES["attention_mask"].bool() if "language_model" in name else ...
            found[name] = x[own].reshape(-1, x.shape[-1])

        return add

    modules = {name: model.get_submodule(name.removesuffix(".weight")) for name in names}
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in modules.items()]
    shown = {name: tensor for name, tensor in SAMPLES.items() if name != "labels"}
    with torch.no_grad():
        model(**shown, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_of_both_towers_are_those_of_the_whole_model(dense, tmp_path):
    facts = streaming.calibrate(wanted(propagate="dense"), dense, SAMPLES, {"source": "train"}, tmp_path, seed=3)
    assert facts["source"] == "train" and facts["statistics"] == ["hessians"]
    seen, names = Calibration(tmp_path), [entry["name"] for entry in read_json(dense / "prunable.json")]
    assert len([name for name in names if "vision_tower" in name]) == 2 * 6
    for name, x in inputs_of(checkpoint.load(dense), names).items():
        x = x.double()
        norm = x.pow(2).sum(0) / len(SAMPLES["input_ids"])
        assert torch.allclose(seen.squared_norm(name).double(), norm, rtol=1e-4), name
        assert torch.allclose(seen.hessian(name).double(), 2 / len(x) * x.T @ x, rtol=1e-3, atol=1e-5), name


def test_the_language_model_is_pruned_by_what_comes_out_of_the_pruned_vision_tower(dense, tmp_path):
    settings, out = wanted(), tmp_path / "v"
    calibration.write(tmp_path, SAMPLES, {"seed": 0})
    plan, seen = pruning.Plan(variants.parse("wanda-50"), "uniform", "blocks", "last", 0), Calibration(tmp_path)
    record = pruning.prune(dense, out, plan, seen, streaming.decide_for(settings, plan, dense, seen, tmp_path))
    assert record["sparsity_pruned"] == 0.5
    kept, model, entries = dict(packed.masks_of(out)), checkpoint.load(dense), read_json(dense / "prunable.json")
    for tower in ("vision_tower", "language_model"):
        for block in sorted({entry["block"] for entry in entries if tower in entry["name"]}):
            names = [entry["name"] for entry in entries if entry["block"] == block]
            for name, x in inputs_of(model, names).items():
                weight = model.get_parameter(name)
                keep = plain.wanda(weight.detach(), x, 0.5)
                assert torch.equal(kept.pop(name), keep), name
                weight.data.mul_(keep)
    assert not kept
    again, shown = checkpoint.load(out), {name: part for name, part in SAMPLES.items() if name != "labels"}
    with torch.no_grad():
        assert torch.equal(again(**shown).logits, model(**shown).logits)


def test_a_vision_tower_is_seen_without_the_weights_of_the_language_model(dense):
    model = BlockModel(dense, precision="fp32", tower="vision")
    filled, fill = [], model._fill

    def noted(names):
        filled.extend(names)
        fill(names)

    model._fill = noted
    model.enter(SAMPLES, batch=2)
    assert not any("language_model.layers" in name for name in filled) and any("projector" in name for name in filled)


def test_gradients_of_a_vision_tower_are_refused(dense, tmp_path):
    settings = wanted()
    settings.variants = lambda: [variants.parse("taylor-50")]
    with pytest.raises(InputError, match=r"prune.towers: .*gradients are taken back through the blocks of"):
        streaming.calibrate(settings, dense, SAMPLES, {}, tmp_path, seed=3)
