"""From a dense folder to a structured variant's folder, and what its sparsity.json says."""

import pytest
import torch

from prunelab.calibration import calibration
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, models
from prunelab.models.tensors import Tensors
from prunelab.recipes import variants
from prunelab.recipes.methods import STRUCTURES
from prunelab.structure import removal
from tests.helpers import architectures, tiny


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    model = architectures.build("llama")
    torch.manual_seed(1)
    importance = {t["name"]: torch.rand(t["shape"]) for t in models.prunable_tensors(model)}
    return tiny.dense_folder(tmp_path_factory.mktemp("models") / "dense", model, importance)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    calibration.write(folder, {"input_ids": architectures.IDS}, {"seed": 1})
    return calibration.Calibration(folder)


def plan(identifier, round_to=4, which="last", seed=0):
    return removal.Plan(variants.parse(identifier), round_to, which, seed)


@pytest.mark.parametrize("method", STRUCTURES)
def test_every_method_removes_about_its_rate_and_says_exactly_how_much(dense, text, tmp_path, method):
    kind = STRUCTURES[method].kind
    rate = {"mlp-width": 30, "head-width": 20, "depth": 33}[kind]
    record = removal.remove(dense, tmp_path / "v", plan(f"{method}-{rate}"), text)
    small, full = checkpoint.load(tmp_path / "v"), checkpoint.load(dense)
    prunable = [sum(torch.Size(t["shape"]).numel() for t in models.prunable_tensors(m)) for m in (full, small)]
    assert record["sparsity_pruned"] == pytest.approx(1 - prunable[1] / prunable[0])
    unit = {"mlp-width": 4 * 72 * 3, "head-width": 768 * 3, "depth": prunable[0] / 3}[kind]
    assert abs(record["sparsity_pruned"] - rate / 100) <= unit / prunable[0] / 2 + 1e-9
    counts = [sum(p.numel() for p in m.parameters()) for m in (full, small)]
    assert record["parameters"] == counts[1] and record["nonzero_parameters"] <= counts[1]
    assert record["sparsity_all"] == pytest.approx(1 - counts[1] / counts[0])
    stored = (tmp_path / "v" / "model.safetensors").stat().st_size
    assert record["packed_bytes"] == stored < record["dense_bytes"]
    assert read_json(tmp_path / "v" / "sparsity.json") == record
    assert read_json(tmp_path / "v" / "prunable.json") == models.prunable_tensors(small)
    assert (record["calibration"] is None) == (not STRUCTURES[method].needs_data)
    assert (record["history"] is None) == (STRUCTURES[method].importance != "history")
    assert record["structure"]["logits_from_masked"] <= 1e-5


def test_the_neurons_with_the_least_history_go(tmp_path):
    model = architectures.build("llama")
    importance = {t["name"]: torch.ones(t["shape"]) for t in models.prunable_tensors(model)}
    for index, weak in enumerate(([0, 1, 2, 3], [4, 5, 30, 31], [7, 9, 11, 13])):
        importance[f"model.layers.{index}.mlp.up_proj.weight"][weak] = 0.5
    dense = tiny.dense_folder(tmp_path / "dense", model, importance)
    removal.remove(dense, tmp_path / "v", plan("mlp-width-history-7"))
    kept = [i for i in range(32) if i not in (4, 5, 30, 31)]
    small = Tensors(tmp_path / "v")
    wanted = model.model.layers[1].mlp.down_proj.weight[:, kept]
    assert torch.equal(small["model.layers.1.mlp.down_proj.weight"], wanted)


def test_the_block_that_changes_least_goes(tmp_path, text):
    model = architectures.build("llama")
    with torch.no_grad():
        for part in (model.model.layers[1].mlp.down_proj, model.model.layers[1].self_attn.o_proj):
            part.weight.mul_(1e-3)
    record = removal.remove(tiny.dense_folder(tmp_path / "dense", model), tmp_path / "v", plan("depth-33"), text)
    assert record["structure"]["blocks_removed"] == [1]
    assert min(record["structure"]["importance"]) == record["structure"]["importance"][1]
    assert [layer["sparsity"] for layer in record["layers"] if layer["block"] == 1] == [1.0] * 7


def test_the_best_checkpoint_is_cut_when_asked_for(dense, tmp_path):
    with pytest.raises(InputError, match="the best checkpoint exists only for a model trained here"):
        removal.remove(dense, tmp_path / "v", plan("mlp-width-norms-30", which="best"))
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("depth-10", "depth-10: 10% of 3 blocks rounds to 0; allowed rates are about 33, 67"),
        ("mlp-width-80", "hold 60 % of the prunable parameters"),
        ("mlp-width-sigma112", "sigma112 is no rate of a structure"),
    ],
)
def test_a_rate_that_cannot_be_had_is_refused(dense, text, tmp_path, identifier, words):
    with pytest.raises(InputError, match=words):
        removal.remove(dense, tmp_path / "v", plan(identifier), text)
    assert not (tmp_path / "v").exists()


def test_a_method_that_looks_at_data_wants_calibration_text(dense, tmp_path):
    with pytest.raises(InputError, match="mlp-width-30: ranks by flap, which needs calibration text"):
        removal.remove(dense, tmp_path / "v", plan("mlp-width-30"))


def test_history_needs_a_model_trained_here(tmp_path):
    dense = tiny.dense_folder(tmp_path / "dense", architectures.build("llama"))
    with pytest.raises(InputError, match="a weight history exists only for a model trained here"):
        removal.remove(dense, tmp_path / "v", plan("head-width-history-20"))
