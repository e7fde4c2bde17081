"""A packed variant: smaller on disk, and the same model to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prunelab
from prunelab.errors import InputError
from prunelab.models import checkpoint, packed
from prunelab.pruning import pruning
from prunelab.recipes import variants
from tests.helpers import tiny

FRESH = """
import sys, torch
from safetensors.torch import save_file
{load}
with torch.no_grad():
    logits = model(torch.arange(20)[None] % 40).logits
save_file({{"logits": logits.contiguous()}}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    dense = tiny.dense_folder(root / "dense", tiny.gpt2(n_embd=64))
    variant = variants.parse("magnitude-50")
    pruning.prune(dense, root / "variant", pruning.Plan(variant, "uniform", "blocks", "last", 0))
    checkpoint.export(root / "variant", root / "plain")
    return root


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(20)[None] % 40).logits


def in_a_fresh_process(load, folder, out):
    """Logits of the model that the lines `load` make of sys.argv[1], in a Python that has done nothing else before.

    One thread: what a process did before (threads, libraries loaded) may change the last bit of a sum.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(prunelab.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH.format(load=load), str(folder), str(out)]
    subprocess.run(command, check=True, cwd=out.parent, env=environment)
    return load_file(out)["logits"]


def masked(folders):
    """The dense model with the variant's zeros written in, in this process."""
    return put_zeros(prunelab.load(folders / "dense"), folders / "variant")


def put_zeros(model, variant):
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, keep in packed.masks_of(variant):
            parameters[name].mul_(keep)
    return model


@pytest.fixture(scope="module")
def expected(folders):
    """Logits of the masked dense model, in a fresh process too."""
    load = (
        "from pathlib import Path; from tests.models.test_checkpoint import put_zeros; "
        "from transformers import AutoModelForCausalLM as A; root = Path(sys.argv[1]); "
        "model = put_zeros(A.from_pretrained(root / 'dense').eval(), root / 'variant')"
    )
    return in_a_fresh_process(load, folders, folders / "expected.safetensors")


def same_to_the_bit(found, expected):
    assert torch.equal(found, expected), f"largest difference {(found - expected).abs().max():.1e}"


def test_a_variant_loads_in_a_fresh_process_with_the_same_logits(folders, expected, tmp_path):
    load = "import prunelab; model = prunelab.load(sys.argv[1])"
    same_to_the_bit(in_a_fresh_process(load, folders / "variant", tmp_path / "logits.safetensors"), expected)


def test_an_export_loads_with_from_pretrained_alone(folders, expected, tmp_path):
    load = (
        "from transformers import AutoModelForCausalLM as A; model = A.from_pretrained(sys.argv[1]).eval(); "
        "assert 'prunelab' not in sys.modules"
    )
    same_to_the_bit(in_a_fresh_process(load, folders / "plain", tmp_path / "logits.safetensors"), expected)


def test_the_export_command_writes_a_plain_folder(folders, tmp_path):
    root = str(Path(prunelab.__file__).parent.parent)
    command = [sys.executable, "-m", "prunelab", "export", str(folders / "variant"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "from_pretrained" in done.stdout
    assert torch.equal(logits_of(prunelab.load(tmp_path / "out")), logits_of(masked(folders)))


def test_the_folder_of_a_half_sparse_variant_is_really_smaller(folders):
    def size(folder):
        return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")

    record = json.loads((folders / "variant" / "sparsity.json").read_text())
    assert record["packed_bytes"] == size(folders / "variant")
    assert record["dense_bytes"] == size(folders / "dense")
    # Half the values and one bit a weight: (0.5 x 32 + 1) / 32 of the masked tensors.
    in_scope = record["scope_parameters"] * 4
    expected = record["dense_bytes"] - in_scope + in_scope * 17 / 32
    assert record["packed_bytes"] == pytest.approx(expected, abs=4000)


def test_counts_are_of_distinct_parameters_with_a_tied_head_once(folders):
    record = json.loads((folders / "variant" / "sparsity.json").read_text())
    model = masked(folders)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["nonzero_parameters"] == sum(int(p.count_nonzero()) for p in model.parameters())


def test_bf16_is_packed_and_unpacked_to_the_bit(tmp_path):
    tensor = torch.randn(33, 7).bfloat16()
    keep = torch.rand(33, 7) > 0.5
    writer = packed.PackedWriter(tmp_path)
    writer.add("w", tensor, keep)
    writer.add("b", tensor[0])
    writer.close()
    found = dict(packed.unpacked(tmp_path))
    assert torch.equal(found["w"], tensor * keep) and found["w"].dtype == torch.bfloat16
    assert torch.equal(found["b"], tensor[0])


def test_shards_hold_no_more_than_asked_and_load_as_one(tmp_path):
    writer = packed.PackedWriter(tmp_path, shard_bytes=400)
    tensors = {f"t{i}": torch.randn(100) for i in range(10)}
    for name, tensor in tensors.items():
        writer.add(name, tensor, tensor > 0)
    writer.close()
    assert len(list(tmp_path.glob("packed-*.safetensors"))) > 3
    for name, tensor in packed.unpacked(tmp_path):
        assert torch.equal(tensor, tensors[name].clamp(min=0))


def test_no_model_and_a_damaged_one_are_named(folders, tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        prunelab.load(tmp_path)
    import shutil

    broken = shutil.copytree(folders / "variant", tmp_path / "broken")
    shard = next(broken.glob("packed-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut off or corrupt"):
        prunelab.load(broken)
    (broken / "packed.index.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        prunelab.load(broken)
