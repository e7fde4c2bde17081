"""What `prunelab inspect` says of a folder: counted by hand on models of a few thousand weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunelab.command import line, looking
from prunelab.errors import InputError
from prunelab.models import checkpoint, models, packed
from prunelab.models.tensors import identity
from prunelab.quantised import files as quantised
from tests.helpers import tiny


@pytest.fixture
def dense(tmp_path):
    """A GPT-2 of 2 blocks, width 16: (16×48 + 16×16 + 16×64 + 64×16) × 2 = 6,144 weights in its linear layers."""
    return tiny.dense_folder(tmp_path / "dense", tiny.gpt2())


def half(tmp_path, dense):
    """A packed variant of `dense` whose first half of every linear layer in the blocks is gone."""
    out, model = tmp_path / "variant", tiny.gpt2()
    out.mkdir()
    inside = {tensor["name"] for tensor in models.prunable_tensors(model)}
    writer = packed.PackedWriter(out)
    for name, tensor in model.named_parameters():
        keep = (torch.arange(tensor.numel()) >= tensor.numel() // 2).view(tensor.shape) if name in inside else None
        writer.add(name, tensor.detach(), keep)
    writer.close()
    packed.copy_companions(dense, out)
    (out / "sparsity.json").write_text(json.dumps({"variant": "mine-50", "dense_sha256": identity(dense)}))
    return out


def test_a_plain_folder_is_counted_and_its_hash_is_what_its_variants_name(dense):
    facts = looking.look(dense)
    model = tiny.gpt2()
    assert facts["format"] == "plain" and facts["architecture"] == "gpt2 (GPT2LMHeadModel)"
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["sparsity_pruned"] == 0 and facts["dtype"] == "float32"
    assert facts["sha256"] == identity(dense) and facts["dense_sha256"] is None
    assert facts["bytes"] == (dense / "model.safetensors").stat().st_size
    assert facts["loads"] and facts["problem"] is None


def test_zeros_are_counted_whoever_put_them_there(dense):
    weights = load_file(dense / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.weight"][:4] = 0  # 4 × 64 of 6,144
    save_file(weights, dense / "model.safetensors", {"format": "pt"})
    before = looking.look(tiny.dense_folder(dense.parent / "other", tiny.gpt2()))
    facts = looking.look(dense)
    assert facts["sparsity_pruned"] == pytest.approx(256 / 6144)
    assert before["nonzero_parameters"] - facts["nonzero_parameters"] == 256


def test_a_packed_folder_names_its_variant_and_its_dense_model(tmp_path, dense):
    facts = looking.look(half(tmp_path, dense))
    assert facts["format"] == "packed" and facts["variant"] == "mine-50" and facts["loads"]
    assert facts["sparsity_pruned"] == 0.5
    assert facts["sparsity_all"] == pytest.approx(1 - facts["nonzero_parameters"] / facts["parameters"])
    assert facts["dense_sha256"] == identity(dense) != facts["sha256"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_folder_is_known_and_its_zeros_are_counted(tmp_path, dense, precision):
    masked, out = half(tmp_path, dense), tmp_path / "out"
    out.mkdir()
    masks = dict(packed.masks_of(masked))
    model = checkpoint.load(masked)
    quantised.write(model, masked, out, "mine-50", identity(dense), precision=precision, masks=masks)
    facts, before = looking.look(out), looking.look(masked)
    assert (facts["format"], facts["precision"], facts["variant"]) == ("quantised", precision, "mine-50")
    assert facts["loads"] and facts["dense_sha256"] == identity(dense) and facts["bytes"] < before["bytes"]
    assert facts["parameters"] == before["parameters"]
    assert 0.5 <= facts["sparsity_pruned"] < 0.6  # what the mask removed, and what rounded to zero
    assert f"quantised, {precision}" in looking.described(facts)


def test_a_folder_that_does_not_load_says_why_and_what_its_record_knows(tmp_path, dense):
    out = half(tmp_path, dense)
    (file,) = out.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    facts = looking.look(out)
    assert facts["loads"] is False and "cut off or corrupt" in facts["problem"] and facts["variant"] == "mine-50"
    assert looking.described(facts).splitlines()[-1].split("  ")[1].strip() == "loads"
    file.unlink()
    assert "weights are not all there" in looking.look(out)["problem"]


def test_what_is_no_model_s_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no config.json in it"):
        looking.look(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a model's folder, found a file"):
        looking.look(tmp_path / "file")


def test_looking_writes_nothing(dense):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in dense.iterdir())
    looking.look(dense)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in dense.iterdir()) == before


def test_it_is_one_readable_block_or_json(tmp_path, dense, capsys):
    out = half(tmp_path, dense)
    line.main(["inspect", str(out)])
    block = capsys.readouterr().out.splitlines()
    assert block[0] == str(out)
    assert [entry.split("  ")[1] for entry in block[1:]] == [
        "format", "variant", "architecture", "parameters", "sparsity", "dtype", "size", "sha256", "made of", "loads",
    ]  # fmt: skip
    assert ", 50.0% in the linear layers of the blocks" in block[5] and block[-1].endswith("yes")
    line.main(["inspect", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == looking.look(out)
