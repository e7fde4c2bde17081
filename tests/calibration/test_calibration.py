"""Calibration text: seeded crops, their hash, what too little text says; the stages calibrate and prune by hand."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from prunelab.calibration import calibration
from prunelab.calibration.samples import digest, own_tokens, split
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, packed
from prunelab.training.characters import character_tokenizer
from stages import calibrate, prune
from tests.helpers import decoders, studies

TEXT = "The quick brown fox jumps over the lazy dog and runs away.\n" * 40


def test_the_hash_is_that_of_the_token_ids():
    samples = torch.tensor([[1, 2, 3], [4, 5, 70000]])
    expected = np.array([[1, 2, 3], [4, 5, 70000]], dtype="<i4").tobytes()
    assert digest({"input_ids": samples}) == hashlib.sha256(expected).hexdigest()


def test_the_hash_is_also_that_of_all_else_a_model_is_shown():
    samples = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}
    pictures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = {digest(samples), digest(samples | {"pixel_values": pictures}), digest(samples | {"other": pictures})}
    found |= {digest(samples | {"pixel_values": pictures + 1}), digest(samples | {"labels": samples["input_ids"]})}
    assert len(found) == 5


def test_samples_are_cut_into_batches_all_of_their_tensors_alike():
    samples = {"input_ids": torch.arange(10).view(5, 2), "pixel_values": torch.rand(5, 3, 2, 2)}
    batches = split(samples, 2)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 1]
    for name, tensor in samples.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), tensor)


def test_all_places_are_a_sample_s_own_unless_a_mask_says_otherwise():
    tokens = torch.ones(2, 3, dtype=torch.int64)
    assert own_tokens({"input_ids": tokens}) is None
    assert own_tokens({"input_ids": tokens, "attention_mask": tokens}) is None
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.equal(own_tokens({"input_ids": tokens, "attention_mask": mask}), mask.bool())


SECTION = {
    "samples": 4,
    "length": 32,
    "seed": 5,
    "propagate": "dense",
    "batch_tokens": 64,
    "precision": "fp32",
    "hidden_states": "disk",
    "owl_outlier_multiple": 5.0,
    "owl_span": 0.08,
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with a dense model, text and params.yaml; returns what changes the calibrate and prune sections."""
    dense = decoders.dense_folder(tmp_path / "models" / "dense", "llama")
    character_tokenizer(TEXT).save_pretrained(dense)
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "train.txt").write_text(TEXT)
    yaml = YAML(typ="safe", pure=True)
    base = studies.raw("default")
    monkeypatch.chdir(tmp_path)

    base["efficiency"]["methods"] = []

    def write(methods, further=(), **changes):
        own = {"methods": methods, "rates": [50], "further": list(further), "checkpoint": "last"}
        settings = {**base, "calibrate": {**SECTION, **changes}, "prune": {**base["prune"], **own}}
        yaml.dump(settings, tmp_path / "params.yaml")

    return write


def stage(seed=None):
    extra = ["--seed", seed] if seed else []
    calibrate.main(["--dense", "models/dense", "--data", "data", "--out", "models/calibration", *extra])


def variant(name):
    prune.main([name, "--dense", "models/dense", "--calibration", "models/calibration", "--out", f"models/{name}"])
    return read_json(f"models/{name}/sparsity.json")


def test_one_calibration_of_the_dense_model_serves_every_method(study, capsys):
    methods = ["wanda", "ria", "taylor", "sparsegpt", "magnitude-owl"]
    study(methods)
    stage()
    assert "statistics of the dense model: gradients, hessians, norms" in capsys.readouterr().out
    for method in methods:
        record = variant(f"{method}-50")
        assert record["sparsity_pruned"] == pytest.approx(0.5, abs=1e-3)
        assert record["calibration"]["hash"] == read_json("models/calibration/calibration.json")["hash"]
        assert record["calibration"]["seed"] == 5
        assert record["calibration"]["source"] == "train"
        assert record["calibration"]["propagate"] == "dense"
        checkpoint.load(f"models/{method}-50")
    assert variant("magnitude-50")["calibration"] is None


def test_behind_pruned_blocks_only_the_samples_are_stored_and_the_result_differs(study):
    study(["wanda"], propagate="dense")
    stage()
    variant("wanda-50")
    at_once = dict(packed.masks_of("models/wanda-50"))
    study(["wanda"], propagate="pruned")
    stage()
    assert read_json("models/calibration/calibration.json")["statistics"] == []
    assert not list(Path("models/calibration").glob("norms*"))
    assert variant("wanda-50")["calibration"]["propagate"] == "pruned"
    by_blocks = dict(packed.masks_of("models/wanda-50"))
    first, second = ([torch.equal(at_once[n], by_blocks[n]) for n in at_once if f"layers.{b}." in n] for b in (0, 1))
    assert all(first)  # nothing is pruned before the first block
    assert not all(second)


def test_what_recipes_beside_the_methods_read_is_seen_too(study, capsys):
    study(["magnitude"], ["wanda-60-recovered", "sparsegpt-50", "depth-25", "dense-int8"])
    stage()
    assert "statistics of the dense model: hessians, norms" in capsys.readouterr().out
    assert variant("wanda-60")["sparsity_pruned"] == pytest.approx(0.6, abs=1e-2)


def test_another_seed_calibrates_on_other_samples(study):
    study(["wanda"])
    stage()
    first = read_json("models/calibration/calibration.json")
    stage(seed="s9")
    second = read_json("models/calibration/calibration.json")
    assert (first["seed"], second["seed"]) == (5, 9)
    assert first["hash"] != second["hash"]


def test_a_sequence_longer_than_the_model_s_context_is_refused_and_nothing_is_left(study):
    study(["wanda"], length=64)
    with pytest.raises(InputError, match=r"calibrate\.length: 64 exceeds the model's 48 positions"):
        stage()
    assert sorted(path.name for path in Path("models").iterdir()) == ["dense"]


def test_a_text_that_is_too_short_leaves_nothing_half_written(study):
    study(["wanda"], samples=5000)
    with pytest.raises(InputError, match=r"5000 x 32 = 160000 tokens are asked for"):
        stage()
    assert sorted(path.name for path in Path("models").iterdir()) == ["dense"]


def test_a_study_without_calibration_leaves_a_folder_that_says_so(study):
    study(["magnitude"])
    path = Path("params.yaml")
    yaml = YAML(typ="safe", pure=True)
    yaml.dump({**yaml.load(path), "calibrate": None}, path)
    shutil.rmtree("data")  # it reads nothing
    stage()
    assert variant("magnitude-50")["calibration"] is None
    with pytest.raises(InputError, match="holds no samples"):
        calibration.Calibration("models/calibration").samples()


def test_an_unknown_method_is_told_with_those_there_are(study):
    study(["magnitude"])
    with pytest.raises(
        InputError, match=r"there is no method 'wonda' \(did you mean 'wanda-50'\?\); allowed: random, magnitude"
    ):
        variant("wonda-50")


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (["wanda"], None, "calibrate: wanda-50 looks at calibration text"),
        (["magnitude-owl"], None, "calibrate: magnitude-owl-50 looks at calibration text"),
        (["sparsegpt-global"], {}, "sparsegpt-global: prune.allocation: global cannot"),
        (["wanda"], {"samples": 0}, "calibrate.samples"),
        (["wanda"], {"propagate": "both"}, "calibrate.propagate"),
        (["wanda"], {"sampels": 3}, "calibrate.sampels: unknown key .*did you mean 'samples'"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(study, methods, changes, message):
    study(methods, **(changes or {}))
    if changes is None:
        path, yaml = Path("params.yaml"), YAML(typ="safe", pure=True)
        yaml.dump({**yaml.load(path), "calibrate": None}, path)
    with pytest.raises(InputError, match=message):
        stage()
