"""Pruning by scores: exact counts, the factorial's four cells, the paper's threshold."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import models, packed
from prunelab.models.tensors import WEIGHTS, Tensors
from prunelab.pruning import masks, pruning, scores
from prunelab.recipes import variants
from tests.helpers import tiny


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    model = tiny.gpt2()
    torch.manual_seed(1)
    importance = {t["name"]: torch.rand(t["shape"]) for t in models.prunable_tensors(model)}
    average = {name: p.detach() + 1.0 for name, p in model.named_parameters()}
    dense = tiny.dense_folder(tmp_path_factory.mktemp("models") / "dense", model, importance, average)
    for reading, more in (("half", 2.0), ("signed-sqrt", 3.0)):
        (dense / "history" / reading).mkdir()
        for name, values in (("importance", {n: torch.randn_like(i) * more for n, i in importance.items()}),
                             ("average", {n: a + more for n, a in average.items()})):  # fmt: skip
            metadata = {"options": json.dumps({"reading of the test": reading})}
            save_file(values, dense / "history" / reading / f"{name}.safetensors", metadata)
    (dense / "best").mkdir()
    save_file({n: p.detach().flip(0).contiguous() for n, p in model.named_parameters()}, dense / "best" / WEIGHTS)
    return dense


def history(dense, reading):
    return load_file(dense / "history" / reading / "importance.safetensors")


def plan(identifier, allocation="uniform", scope="blocks", which="last", seed=0):
    variant = variants.parse(identifier)
    return pruning.Plan(variant, variant.allocation or allocation, scope, which, seed)


def state(folder):
    tensors = Tensors(folder)
    return {name: tensors[name] for name in tensors.names()}


@pytest.mark.parametrize("method", ["random", "magnitude", "average-magnitude", "systematic", "systematic-average"])
@pytest.mark.parametrize("percent", [1, 20, 50, 80, 99])
def test_every_method_removes_exactly_the_rounded_share_of_every_tensor(dense, tmp_path, method, percent):
    record = pruning.prune(dense, tmp_path / "v", plan(f"{method}-{percent}"))
    for layer in record["layers"]:
        assert layer["zeros"] == round(percent / 100 * torch.Size(layer["shape"]).numel())
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert int((~keep).sum()) == round(percent / 100 * keep.numel()), name


@pytest.mark.parametrize(("allocation", "percent"), [("global", 37), ("sigma", 37), ("sigma", 80)])
def test_joint_allocations_remove_exactly_the_rounded_share_of_all(dense, tmp_path, allocation, percent):
    record = pruning.prune(dense, tmp_path / "v", plan(f"magnitude-{percent}", allocation))
    assert sum(layer["zeros"] for layer in record["layers"]) == round(percent / 100 * record["scope_parameters"])
    assert len({layer["sparsity"] for layer in record["layers"]}) > 1


def test_global_magnitude_has_one_threshold(dense, tmp_path):
    pruning.prune(dense, tmp_path / "v", plan("magnitude-global-50"))
    weights = state(dense)
    kept, removed = [], []
    for name, keep in packed.masks_of(tmp_path / "v"):
        kept.append(weights[name].abs()[keep].min())
        removed.append(weights[name].abs()[~keep].max())
    assert max(removed) <= min(kept)


def test_what_survives_is_final_or_averaged_and_what_ranks_is_magnitude_or_history(dense, tmp_path):
    weights, found = state(dense), {}
    for method in ("magnitude", "average-magnitude", "systematic", "systematic-average"):
        pruning.prune(dense, tmp_path / method, plan(f"{method}-50"))
        found[method] = (dict(packed.unpacked(tmp_path / method)), dict(packed.masks_of(tmp_path / method)))
    for name in found["magnitude"][1]:
        by_magnitude, by_history = found["magnitude"][1][name], found["systematic"][1][name]
        assert torch.equal(by_magnitude, found["average-magnitude"][1][name])
        assert torch.equal(by_history, found["systematic-average"][1][name])
        assert torch.equal(by_magnitude, masks.lowest(weights[name].abs().T, 0.5).T)
        assert not torch.equal(by_magnitude, by_history)
        assert torch.equal(found["systematic"][0][name], weights[name] * by_history)
        assert torch.allclose(found["systematic-average"][0][name], (weights[name] + 1) * by_history)
    untouched = "transformer.wte.weight"
    assert torch.equal(found["systematic"][0][untouched], weights[untouched])
    assert torch.allclose(found["average-magnitude"][0][untouched], weights[untouched] + 1)


def test_a_prune_rate_is_the_paper_s_threshold_in_standard_deviations(dense, tmp_path):
    record = pruning.prune(dense, tmp_path / "v", plan("magnitude-sigma112", "sigma"))
    weights = state(dense)
    for name, keep in packed.masks_of(tmp_path / "v"):
        magnitude = weights[name].abs()
        assert torch.equal(keep, magnitude >= 1.12 * magnitude.std())
    assert record["prune_rate"] == 1.12
    # Normally distributed weights: METHODS gives about 50 % for 1.119.
    assert record["sparsity_pruned"] == pytest.approx(0.5, abs=0.02)


def test_a_target_sparsity_logs_the_prune_rate_that_reaches_it(dense, tmp_path):
    record = pruning.prune(dense, tmp_path / "v", plan("magnitude-50", "sigma"))
    assert record["prune_rate"] == pytest.approx(1.119, abs=0.05)
    again = pruning.prune(dense, tmp_path / "w", plan(f"magnitude-sigma{round(record['prune_rate'] * 100)}", "sigma"))
    assert again["sparsity_pruned"] == pytest.approx(0.5, abs=0.01)


def test_a_global_prune_rate_uses_one_standard_deviation(dense, tmp_path):
    pruning.prune(dense, tmp_path / "v", plan("magnitude-global-sigma100"))
    weights = state(dense)
    names = [name for name, _ in packed.masks_of(tmp_path / "v")]
    sigma = torch.cat([weights[name].abs().flatten() for name in names]).std()
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert torch.equal(keep, weights[name].abs() >= sigma)


def test_2of4_groups_run_along_the_inputs_also_of_a_transposed_layer(dense, tmp_path):
    pruning.prune(dense, tmp_path / "v", plan("magnitude-2of4"))
    for name, keep in packed.masks_of(tmp_path / "v"):
        by_output = keep.T  # Conv1D holds (in, out)
        assert (by_output.reshape(-1, 4).sum(1) == 2).all(), name


def test_random_masks_come_from_the_seed(dense, tmp_path):
    kept = {}
    for label, seed in (("a", 0), ("b", 0), ("c", 1)):
        pruning.prune(dense, tmp_path / label, plan("random-50", seed=seed))
        kept[label] = dict(packed.masks_of(tmp_path / label))
    name = next(iter(kept["a"]))
    assert torch.equal(kept["a"][name], kept["b"][name])
    assert not torch.equal(kept["a"][name], kept["c"][name])


def test_scope_chooses_tensors(dense, tmp_path):
    record = pruning.prune(dense, tmp_path / "v", plan("magnitude-50", scope="mlp"))
    assert {layer["role"] for layer in record["layers"]} == {"mlp"}
    assert all("mlp" in name for name, _ in packed.masks_of(tmp_path / "v"))


def test_embeddings_and_a_tied_head_are_never_in_scope(dense):
    names = {tensor["name"] for tensor in read_json(dense / "prunable.json")}
    assert len(names) == 2 * 4
    assert not any("wte" in name or "wpe" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("percent", [30, 50, 80])
def test_a_threshold_from_history_is_one_ranking_of_final_weights_in_standard_deviations_of_it(
    dense, tmp_path, percent
):
    record = pruning.prune(dense, tmp_path / "v", plan(f"history-threshold-{percent}", "global"))
    weights, past = state(dense), history(dense, "signed-sqrt")
    scores = {layer["name"]: weights[layer["name"]].abs() / past[layer["name"]].std() for layer in record["layers"]}
    ranking = torch.cat([values.flatten() for values in scores.values()])
    count = round(percent / 100 * len(ranking))
    border = ranking.sort().values[count]
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert torch.equal(keep, scores[name] >= border), name
    assert sum(layer["zeros"] for layer in record["layers"]) == count
    assert record["prune_rate"] == pytest.approx(border.item())  # the t of |w| < t·σ
    assert record["history"] == {"reading of the test": "signed-sqrt"} and record["keep"] == "final"


def test_in_equal_shares_a_threshold_from_history_is_magnitude_so_the_shares_are_all_it_decides(dense, tmp_path):
    found = {}
    for identifier in ("history-threshold-uniform-50", "magnitude-50", "history-threshold-global-50"):
        record = pruning.prune(dense, tmp_path / identifier, plan(identifier))
        found[identifier] = (dict(packed.masks_of(tmp_path / identifier)), record["layers"])
    uniform, magnitude, jointly = found.values()
    assert all(torch.equal(uniform[0][name], keep) for name, keep in magnitude[0].items())
    assert len({layer["sparsity"] for layer in jointly[1]}) > 1
    weights = state(dense)
    for layer in jointly[1]:
        name = layer["name"]
        assert torch.equal(jointly[0][name], masks.lowest(weights[name].abs(), layer["sparsity"])), name


def test_a_prune_rate_cuts_a_threshold_from_history_at_so_many_of_its_standard_deviations(dense, tmp_path):
    record = pruning.prune(dense, tmp_path / "v", plan("history-threshold-sigma50", "global"))
    weights, past = state(dense), history(dense, "signed-sqrt")
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert torch.equal(keep, weights[name].abs() / past[name].std() >= 0.5), name
    assert record["prune_rate"] == 0.5


def test_sigma_divides_the_final_magnitudes_by_their_own_standard_deviation(dense, tmp_path):
    """σ(|w|), not σ(w): that of the paper's words, and the control of a threshold from history."""
    record = pruning.prune(dense, tmp_path / "v", plan("magnitude-sigma-60"))
    weights = state(dense)
    scores = {layer["name"]: weights[layer["name"]].abs() for layer in record["layers"]}
    ranking = torch.cat([(values / values.std()).flatten() for values in scores.values()])
    border = ranking.sort().values[round(0.6 * len(ranking))]
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert torch.equal(keep, scores[name] / scores[name].std() >= border), name


def test_a_window_ranks_by_its_own_history_and_keeps_its_own_clone(dense, tmp_path):
    record = pruning.prune(dense, tmp_path / "v", plan("systematic-half-50"))
    weights, past, found = state(dense), history(dense, "half"), dict(packed.unpacked(tmp_path / "v"))
    for name, keep in packed.masks_of(tmp_path / "v"):
        assert torch.equal(keep, masks.lowest(past[name].abs().T, 0.5).T), name
        assert torch.allclose(found[name], (weights[name] + 3) * keep)
    assert record["history"] == {"reading of the test": "half"}


def test_a_reading_that_the_training_did_not_keep_is_named_and_nothing_is_left(dense, tmp_path):
    with pytest.raises(InputError, match="history/quarter: missing; .* kept no reading 'quarter'"):
        pruning.prune(dense, tmp_path / "v", plan("systematic-quarter-50"))
    assert not (tmp_path / "v").exists()


def test_a_layer_whose_history_has_no_spread_has_the_threshold_zero_and_stays(dense):
    layer = scores.Layer("x", torch.tensor([[0.0, 1.0]]), history=torch.ones(1, 2))
    assert scores.history_threshold(layer).isinf().all()
    hand = scores.Layer("x", torch.tensor([[1.0, -2.0], [3.0, 4.0]]), history=torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
    # Squared distances from the mean 1 are 1 each, four of them over three: σ = sqrt(4/3).
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (3 / 4) ** 0.5
    assert torch.allclose(scores.history_threshold(hand), expected)


def test_a_model_without_history_says_so_and_leaves_nothing(tmp_path):
    dense = tiny.dense_folder(tmp_path / "dense", tiny.gpt2())
    for identifier in ("systematic-50", "average-magnitude-50"):
        with pytest.raises(InputError, match="only for a model trained here"):
            pruning.prune(dense, tmp_path / "v", plan(identifier))
    with pytest.raises(InputError, match="best checkpoint"):
        pruning.prune(dense, tmp_path / "v", plan("magnitude-50", which="best"))
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_cut_off_file_is_named(tmp_path):
    dense = tiny.dense_folder(tmp_path / "dense", tiny.gpt2())
    file = dense / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors: cut off or corrupt"):
        pruning.prune(dense, tmp_path / "v", plan("magnitude-50"))
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]
