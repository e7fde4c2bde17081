"""The smaller model computes what the masked one does, and is an ordinary folder for everybody."""

import json
import subprocess
import sys

import pytest
import torch

from prunelab.errors import InputError
from prunelab.models import checkpoint, models
from prunelab.structure import compact, importance, structure
from tests.helpers import architectures

WIDTHS = [("mlp-width", name) for name in architectures.CONFIGS]
WIDTHS += [("head-width", name) for name in architectures.HEADS_OF_THEIR_OWN]


def narrowed(model, kind, means=False):
    """A cut of half the units, chosen at random in every block."""
    sites = structure.mlp_sites(model) if kind == "mlp-width" else structure.head_sites(model)
    generator = torch.Generator().manual_seed(2)
    count = {32: 20, 96: 40, 2: 1, 8: 5}[sites[0].units]
    kept = [torch.randperm(site.units, generator=generator)[:count].sort().values for site in sites]
    seen = importance.watch_inputs(model, sites, [{"input_ids": architectures.IDS}]) if means else {}
    return compact.width(model, kind, sites, kept, {n: s.mean for n, s in seen.items()} if means else None)


def logits(model):
    with torch.no_grad():
        return model(input_ids=architectures.IDS).logits


@pytest.mark.parametrize("means", [False, True], ids=["plain", "bias compensation"])
@pytest.mark.parametrize(("kind", "name"), WIDTHS)
def test_the_narrower_model_equals_the_masked_one(tmp_path, kind, name, means):
    from transformers import AutoModelForCausalLM

    model = architectures.build(name)
    dense = logits(model)
    cut = narrowed(model, kind, means)
    compact.write(cut, model, tmp_path, kind)  # `model` is the masked one now
    small = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    masked = logits(model)
    assert (logits(small) - masked).abs().max() <= 1e-5 * masked.abs().max()
    assert (dense - masked).abs().max() > 1e-2 * masked.abs().max()  # the mask did something


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_the_shallower_model_equals_the_one_whose_blocks_are_passed_by(tmp_path, name):
    from transformers import AutoModelForCausalLM

    model = architectures.build(name)
    dense = logits(model)
    compact.write(compact.depth(model, [1]), model, tmp_path, "depth-33")
    small = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert len(models.decoder_blocks(small)[1]) == 2
    passed = logits(model)
    assert (logits(small) - passed).abs().max() <= 1e-5 * passed.abs().max()
    assert (dense - passed).abs().max() > 1e-2 * passed.abs().max()


FRESH = """
import json, sys, torch
from transformers import AutoModelForCausalLM
ids = torch.tensor(json.loads(sys.argv[1]))
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.save(model(input_ids=ids).logits, folder + "/logits.pt")
    made = [model.generate(ids[:1, :5], max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=cached,
                           pad_token_id=0).tolist() for cached in (True, False)]
    assert made[0] == made[1], (folder, made)
    caches = model(input_ids=ids, use_cache=True).past_key_values
    assert len(caches) == model.config.num_hidden_layers, folder
assert "prunelab" not in sys.modules
"""


def test_a_fresh_process_without_this_package_loads_it_and_generates_with_its_cache(tmp_path):
    folders, expected = [], []
    cases = [(kind, name) for kind, name in WIDTHS if kind == "mlp-width" or name in ("llama-odd", "qwen2")]
    for kind, name in [*cases, *(("depth", name) for name in architectures.CONFIGS)]:
        model = architectures.build(name)
        cut = compact.depth(model, [0]) if kind == "depth" else narrowed(model, kind, means=True)
        folder = tmp_path / f"{kind}-{name}"
        compact.write(cut, model, folder, kind)
        folders.append(str(folder))
        expected.append(logits(model))
    command = [sys.executable, "-c", FRESH, json.dumps(architectures.IDS.tolist()), *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, wanted in zip(folders, expected, strict=True):
        found = torch.load(f"{folder}/logits.pt")
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), folder


def test_bias_compensation_moves_the_output_by_what_the_removed_neurons_said_on_average():
    model = architectures.build("llama")
    sites = structure.mlp_sites(model)[:1]
    name = sites[0].reader.module
    seen = importance.watch_inputs(model, sites, [{"input_ids": architectures.IDS}])
    kept = [torch.arange(20)]
    shift = compact._shifts(model, sites, kept, {name: seen[name].mean})[name]
    collected = {}
    handle = model.get_submodule(name).register_forward_hook(lambda _, args, out: collected.update(x=args[0], y=out))
    logits(model)
    handle.remove()
    without = collected["x"][..., :20] @ model.get_submodule(name).weight[:, :20].T
    assert torch.allclose((collected["y"] - without).flatten(0, 1).mean(0), shift, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("mlp-width", "gpt2", "added to the existing biases"),
        ("mlp-width", "llama", "biases added to the model (config: mlp_bias)"),
        ("head-width", "qwen3", "biases added to the model (config: attention_bias)"),
        ("mlp-width", "qwen2", "none: layers of 'qwen2' cannot have the bias it needs"),
    ],
)
def test_what_became_of_the_compensation_is_told(kind, name, told):
    assert narrowed(architectures.build(name), kind, means=True).facts["bias_compensation"] == told


def test_a_number_of_heads_that_llama_refuses_becomes_a_mistral(tmp_path):
    model = architectures.build("llama-odd")  # 8 heads of 4 at width 32: 5 do not divide it
    cut = narrowed(model, "head-width")
    assert cut.config.model_type == "mistral"
    assert cut.config.num_attention_heads == 5
    assert compact.write(cut, model, tmp_path, "head-width") < 1e-5


def test_per_layer_settings_follow_their_layers():
    model = architectures.build("qwen2", layer_types=["full_attention", "sliding_attention", "full_attention"],
                                use_sliding_window=True, sliding_window=4)  # fmt: skip
    config = compact.depth(model, [0]).config
    assert config.layer_types == ["sliding_attention", "full_attention"]


def test_heads_that_the_architecture_cannot_name_are_refused_before_anything_is_written(tmp_path):
    model = architectures.build("opt")
    sites = structure.head_sites(model)
    cut = compact.width(model, "head-width", sites, [torch.arange(4)] * 3)
    with pytest.raises(InputError, match="a config of 'opt' cannot say it.*use mlp-width or depth"):
        compact.write(cut, model, tmp_path / "v", "head-width-10")
    assert not (tmp_path / "v").exists()


def test_a_block_that_does_something_unknown_is_refused_instead_of_broken(tmp_path):
    """GPT-2 with attention scaled by the layer's number: after a removal every later block has another number."""
    model = architectures.build("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(InputError, match="depth-33: the smaller model's logits are .* from the masked model's"):
        compact.write(compact.depth(model, [0]), model, tmp_path, "depth-33")


def test_rounding_alone_refuses_no_model(tmp_path, monkeypatch):
    """As in deep models: what fp32 rounds is more than allowed, what float64 leaves is not."""
    model = architectures.build("gpt2")
    cut = narrowed(model, "mlp-width")
    monkeypatch.setitem(compact.TOLERANCE, torch.float32, 1e-12)
    assert compact.write(cut, model, tmp_path, "mlp-width-30") < 1e-12
    assert model.dtype == torch.float32 and checkpoint.load(tmp_path).dtype == torch.float32
