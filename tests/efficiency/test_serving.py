"""Runtimes beside eager dense: what is measured, and what stays in the list with its reason."""

import json

import pytest
import torch

from prunelab.disk.files import read_json
from prunelab.efficiency import runtimes, serving
from prunelab.models import checkpoint
from prunelab.models.tensors import identity
from prunelab.pruning import pruning
from prunelab.quantised import files as quantised
from prunelab.recipes import variants
from prunelab.study import params
from stages import runtimes as stage
from tests.helpers import synthetic, tiny

SESSION = {"prefill_smallest_effect": 0.02, "decode_smallest_effect": 0.02, "device": "here"}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny.dense_folder(tmp_path_factory.mktemp("models") / "dense", tiny.gpt2())


def efficiency(tmp_path):
    changes = {"prompt_tokens": [8], "output_tokens": 4, "batch_sizes": [1]}
    return synthetic.settings(tmp_path, efficiency=changes).efficiency


def test_each_runtime_has_figures_or_a_reason(dense, tmp_path):
    found = serving.measure(dense, dense, ["semi-structured"], 0.05, efficiency(tmp_path), SESSION, seed=0)
    assert found["remark"] is None
    eager, sparse = found["runtimes"]["eager"], found["runtimes"]["semi-structured"]
    assert eager["available"] and eager["logits_from_eager"] == 0 and eager["top1_agreement_eager"] == 1
    assert eager["decode_ms_per_token"] > 0 and eager["decode_ratio_lo"] <= eager["decode_ratio"]
    if not torch.cuda.is_available():
        assert not sparse["available"] and sparse["reason"].startswith("2:4 kernels need a CUDA GPU")
    json.dumps(found, allow_nan=False)


def test_a_quantised_folder_is_served_beside_dense(dense, tmp_path):
    out = tmp_path / "dense-int8"
    out.mkdir()
    quantised.write(checkpoint.load(dense), dense, out, "dense-int8", identity(dense))
    found = serving.measure(out, dense, ["onnx"], 0.05, efficiency(tmp_path), SESSION, seed=0)["runtimes"]
    assert found["eager"]["available"] and found["eager"]["decode_ratio"] > 0
    if runtimes.available()["onnx"] is None:
        assert found["onnx"]["reason"].startswith("this model's layers are in int8, and its exporter")


def test_a_runtime_that_fails_on_this_model_stays_in_the_list_with_the_reason(dense, tmp_path, monkeypatch):
    def fails(model):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setitem(runtimes.PREPARE, "semi-structured", fails)
    monkeypatch.setattr(runtimes, "_without_sparse_kernels", lambda: None)
    found = serving.measure(dense, dense, ["semi-structured"], 0.05, efficiency(tmp_path), SESSION, seed=0)
    found = found["runtimes"]["semi-structured"]
    assert not found["available"] and found["reason"] == "GPT2LMHeadModel does not run on it (no kernel for this)"


def test_a_masked_variant_carries_its_remark(dense, tmp_path):
    plan = pruning.Plan(variants.parse("magnitude-50"), "uniform", "blocks", "last", 0)
    pruning.prune(dense, tmp_path / "v", plan)
    found = serving.measure(tmp_path / "v", dense, [], 0.05, efficiency(tmp_path), SESSION, seed=0)
    assert found["remark"] == serving.MASKED


def test_the_stage_writes_every_runtime_and_says_one_line_each(dense, tmp_path, monkeypatch, capsys):
    synthetic.settings(
        tmp_path,
        efficiency={"prompt_tokens": [8], "output_tokens": 4},
        runtimes={"names": ["semi-structured"], "seconds": 0.05},
    )
    (tmp_path / "session.json").write_text(json.dumps(SESSION))
    (tmp_path / "device.json").write_text(json.dumps({"id": "here"}))
    monkeypatch.chdir(tmp_path)
    stage.main(
        f"dense --model {dense} --dense {dense} --device device.json --session session.json --out results/dense".split()
    )
    assert read_json(tmp_path / "results" / "dense" / "runtimes.json")["runtimes"].keys() == {
        "eager",
        "semi-structured",
    }
    told = capsys.readouterr().out
    assert "dense on eager: decode" in told and "dense on semi-structured:" in told


def test_settings_of_the_repository_name_only_known_runtimes():
    assert set(params.load().runtimes.names) <= runtimes.MEANING.keys()
