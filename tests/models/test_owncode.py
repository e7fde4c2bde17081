"""A model's own Python code runs where the study grants its commit, and nowhere else; the log repeats the commit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prunelab.data import sources
from prunelab.errors import InputError
from prunelab.models import checkpoint, inspection, loading, packed, pretrained
from prunelab.pruning import pruning
from prunelab.recipes import variants
from prunelab.study.sources import Model
from prunelab.tasks.price.seeing import processing
from prunelab.training import training
from tests.helpers import seeing, studies

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

class OwnConfig(LlavaConfig):
    model_type = "own_v"

class OwnForCausalLM(LlavaForConditionalGeneration):
    config_class = OwnConfig

class OwnProcessor(LlavaProcessor):
    def __init__(self, image_processor, tokenizer, patch_size, vision_feature_select_strategy, **more):
        super().__init__(
            image_processor, tokenizer, patch_size, vision_feature_select_strategy, num_additional_image_tokens=1
        )
        self.inside = self.image_token
        self.image_token = None

    def __call__(self, text, images=None, **options):
        self.image_token = self.inside
        found = super().__call__(images=images, text=[text.replace("<|image_1|>", self.inside)], **options)
        self.image_token = None
        return found
"""


@pytest.fixture
def published(tmp_path):
    """A model that registers as a causal LM with code of its own."""
    folder = shutil.copytree(seeing.model_of("LLaVA"), tmp_path / "published")
    loading.save(loading.of_folder(folder), folder)  # by the module's names: nobody translates those of its own class
    (folder / "modeling_own.py").write_text(CODE)
    mine = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    change(folder / "config.json", {"model_type": "own_v", "architectures": ["OwnForCausalLM"], "auto_map": mine})
    for name in ("processor_config.json", "preprocessor_config.json"):
        mine = {"AutoProcessor": "modeling_own.OwnProcessor"}
        change(folder / name, {"processor_class": "OwnProcessor", "auto_map": mine})
    change(folder / "tokenizer_config.json", {"processor_class": "OwnProcessor"})
    return folder


def change(path: Path, more: dict):
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.fixture
def hub(published, monkeypatch):
    """Asked for the commit, the hub gives that folder."""

    def bring(source, patterns, repo_type):
        assert source.revision == COMMIT
        return published, COMMIT, "mit"

    monkeypatch.setattr(sources, "_hub", bring)
    return Model(kind="hub", name="somebody/own", remote_code=COMMIT)


def study(folder: Path, commit: str | None):
    """A params.yaml in `folder` that grants the commit."""
    from ruamel.yaml import YAML

    raw = studies.raw("default")
    raw["fetch"]["model"] = {"kind": "hub", "name": "somebody/own", "remote_code": commit}
    raw["train"] |= {"start": "fetched", "tokenizer": "fetched", "architecture": None, "config": {}}
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(raw, file)


def test_it_is_fetched_pruned_and_loaded_where_its_commit_is_granted(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study(tmp_path, COMMIT)
    manifest = pretrained.prepare(hub, tmp_path / "fetched", inspection.PICTURE)
    assert f"somebody/own itself, as it is at commit {COMMIT}" in capsys.readouterr().out
    assert manifest["model_type"] == "own_v" and "modeling_own.py" in manifest["files"]
    (tmp_path / "dense").mkdir()
    training.take(tmp_path / "fetched", 64, tmp_path / "dense")
    plan = pruning.Plan(variants.parse("magnitude-50"), "uniform", "blocks", "last", 0)
    pruning.prune(tmp_path / "dense", tmp_path / "variant", plan)
    model, dense = checkpoint.load(tmp_path / "variant"), checkpoint.load(tmp_path / "dense")
    assert type(model).__name__ == "OwnForCausalLM"
    masks = dict(packed.masks_of(tmp_path / "variant"))
    kept = dict(model.named_parameters())
    assert all(torch.equal(kept[name], dict(dense.named_parameters())[name] * keep) for name, keep in masks.items())
    processor = processing.of_folder(tmp_path / "variant")
    from PIL import Image

    assert processor.place == "<|image_1|>"
    found = processor(Image.new("RGB", (16, 16)), "<|image_1|>12 rooms:")
    with torch.no_grad():
        assert torch.isfinite(model(**found).logits).all()


def test_without_its_grant_no_code_comes_and_none_runs(hub, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study(tmp_path, COMMIT)
    plain = hub.model_copy(update={"remote_code": None, "revision": COMMIT})
    with pytest.raises(InputError, match="somebody/own: expected a model_type that transformers knows"):
        pretrained.prepare(plain, tmp_path / "plain", inspection.PICTURE)
    assert not list((tmp_path / "plain").glob("*.py"))
    (published / "remote_code.json").write_text(json.dumps({"commit": COMMIT}))  # sent along by the model itself
    with pytest.raises(InputError, match="expected a model_type that transformers knows"):
        pretrained.prepare(plain, tmp_path / "again", inspection.PICTURE)


@pytest.mark.parametrize("granted", [None, COMMIT[::-1]])
def test_a_mark_in_a_folder_grants_nothing(published, tmp_path, monkeypatch, granted):
    monkeypatch.chdir(tmp_path)
    study(tmp_path, granted)
    (published / "remote_code.json").write_text(json.dumps({"commit": COMMIT}))
    for load in (checkpoint.load, loading.skeleton, processing.of_folder):
        with pytest.raises(InputError, match=f"holds Python code of its own, of commit {COMMIT}"):
            load(published)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"remote_code": "main"}, "String should match pattern"),
        ({"remote_code": COMMIT[:12]}, "String should match pattern"),
        ({"remote_code": COMMIT, "revision": "main"}, "'main' is not the commit of remote_code"),
        ({"remote_code": COMMIT, "kind": "path"}, "remote_code: a commit of the hub, found kind: path"),
    ],
)
def test_only_a_whole_commit_of_the_hub_is_accepted(changed, told):
    with pytest.raises(ValidationError, match=told):
        Model(**{"kind": "hub", "name": "somebody/own", **changed})
