"""A quantised model on disk and back: what is stored, what it loads as, and what a damaged folder is told."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading, models, packed
from prunelab.quantised import files, opening
from prunelab.quantised.grid import Grid
from prunelab.quantised.layers import QuantisedEmbedding, quantised_layers
from prunelab.quantised.quantising import nearest
from tests.helpers import tiny

PRECISIONS = ["int8", "int4"]


def llama(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=44, **tiny.LLAMA | changes)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


MODELS = {
    "tied, transposed": tiny.gpt2,
    "untied": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "bf16": lambda: llama(torch.bfloat16),
    "widths of no kernel": lambda: tiny.gpt2(n_embd=20, n_inner=52),
}


def dense_of(path, model):
    path.mkdir()
    loading.save(model, path)
    return path


def written(tmp_path, model, name="quantised", **options):
    """(the model as it was quantised in memory, the folder, its facts)."""
    dense = dense_of(tmp_path / f"dense-{name}", model)
    out = tmp_path / name
    out.mkdir()
    model = checkpoint.load(dense)
    return model, out, files.write(model, dense, out, name, "0" * 64, **options)


@torch.no_grad()
def logits(model, tokens=20):
    return model(torch.arange(tokens)[None] % 40).logits


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_loaded_computes_what_was_written_to_the_bit(tmp_path, kind, precision):
    model, out, facts = written(tmp_path, MODELS[kind](), precision=precision)
    again = opening.load(out)
    assert torch.equal(logits(model), logits(again))
    assert torch.equal(logits(model, 2), logits(again, 2))
    assert again.dtype == model.dtype
    assert facts == files.facts_of(out)
    assert facts["bytes"] == (out / "model.safetensors").stat().st_size
    dense = checkpoint.load(tmp_path / "dense-quantised")
    assert facts["parameters"] == sum(parameter.numel() for parameter in dense.parameters())
    apart = (logits(again) - logits(dense)).norm() / logits(dense).norm()
    assert 0 < apart < (0.03 if precision == "int8" else 0.2)


@pytest.mark.parametrize("head", PRECISIONS)
def test_a_tied_table_is_stored_and_held_once(tmp_path, head):
    _, out, facts = written(tmp_path, tiny.gpt2(), precision="int4", head=head)
    assert facts["tied"] and facts["head"] == head
    stored = load_file(out / "model.safetensors")
    assert "transformer.wte.weight" in stored and "lm_head.weight" not in stored
    again = opening.load(out)
    embedding = again.get_input_embeddings()
    assert isinstance(embedding, QuantisedEmbedding)
    assert embedding.table is again.get_output_embeddings()
    assert embedding.table.grid.precision == head
    assert "lm_head" in quantised_layers(again)


def test_an_untied_embedding_is_int8_also_beside_a_head_of_int4(tmp_path):
    _, out, _ = written(tmp_path, llama(), precision="int4", head="int4")
    again = opening.load(out)
    assert again.get_input_embeddings().table.grid.precision == "int8"
    assert again.get_output_embeddings().grid.precision == "int4"


def test_two_tables_that_the_config_ties_stay_two(tmp_path):
    model = llama(tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    dense = dense_of(tmp_path / "dense", llama())
    out = tmp_path / "out"
    out.mkdir()
    facts = files.write(model, dense, out, "x", "0" * 64)
    assert not facts["tied"]
    write_json(out / "config.json", read_json(out / "config.json") | {"tie_word_embeddings": True})
    assert torch.equal(logits(opening.load(out)), logits(model))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_masked_model_keeps_its_zeros_and_stores_what_survives(tmp_path, precision):
    model, masks = tiny.gpt2(), {}
    for tensor in models.prunable_tensors(model):
        weight = model.get_parameter(tensor["name"])
        masks[tensor["name"]] = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.6
        weight.data *= masks[tensor["name"]]
    _, plain, _ = written(tmp_path, model, "plain", precision=precision)
    _, out, facts = written(tmp_path, model, "masked", precision=precision, masks=masks)
    again = opening.load(out)
    assert torch.equal(logits(again), logits(opening.load(plain)))
    for name, keep in masks.items():
        layer = again.get_submodule(name.removesuffix(".weight"))
        assert not layer.grid.values(layer.levels(), layer.steps())[~keep.T].any()  # (in, out) in the dense model
    assert facts["masked"] == len(masks)
    assert facts["zeros"] >= sum(int((~keep).sum()) for keep in masks.values())
    stored = load_file(out / "model.safetensors")
    kept = int(masks["transformer.h.0.mlp.c_fc.weight"].sum())
    assert stored["transformer.h.0.mlp.c_fc.weight"].shape == (kept if precision == "int8" else -(-kept // 2),)


def test_a_packed_variant_is_quantised_with_its_masks(tmp_path):
    dense = dense_of(tmp_path / "dense", tiny.gpt2())
    source, out = tmp_path / "packed", tmp_path / "out"
    source.mkdir(), out.mkdir()
    writer = packed.PackedWriter(source)
    for name, value in checkpoint.load(dense).state_dict().items():
        if name != "lm_head.weight":
            keep = value > 0 if name.endswith("c_fc.weight") else None
            writer.add(name, value, keep)
    writer.close()
    packed.copy_companions(dense, source)
    files.write(checkpoint.load(source), source, out, "x", "0" * 64, masks=dict(packed.masks_of(source)))
    levels = opening.load(out).transformer.h[1].mlp.c_fc.levels()
    assert (levels >= 0).all() and levels.any()


def test_a_mask_that_the_model_does_not_have_is_no_mask_of_it(tmp_path):
    with pytest.raises(ValueError, match="is not zero in the model"):
        written(tmp_path, tiny.gpt2(), masks={"transformer.h.0.mlp.c_fc.weight": torch.zeros(16, 64, dtype=torch.bool)})


def test_what_the_file_says_can_be_worked_out_by_hand(tmp_path):
    model = tiny.gpt2()
    weight = model.transformer.h[0].mlp.c_fc.weight.detach().T.clone()  # (out, in)
    _, out, _ = written(tmp_path, model, precision="int4")
    levels, steps = nearest("", weight, Grid("int4"))
    stored = load_file(out / "model.safetensors")
    high_and_low = (levels.flatten() + 8).view(-1, 2)
    assert torch.equal(
        stored["transformer.h.0.mlp.c_fc.weight"], (high_and_low[:, 0] + 16 * high_and_low[:, 1]).to(torch.uint8)
    )
    assert torch.equal(stored["transformer.h.0.mlp.c_fc.weight.scale"], steps)
    assert stored["transformer.h.0.ln_1.weight"].dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_generates_batches_with_padding_and_samples(tmp_path, precision):
    _, out, _ = written(tmp_path, llama(), precision=precision)
    model = opening.load(out)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    both = model.generate(ids, attention_mask=mask, **options)
    alone = model.generate(ids[:1, 2:], **options)
    assert torch.equal(both[0, 4:], alone[0, 2:])
    torch.manual_seed(0)
    assert model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=True).shape == (2, 7)


def test_generation_settings_of_the_folder_are_the_models(tmp_path):
    model = llama()
    model.generation_config.max_new_tokens = 7
    _, out, _ = written(tmp_path, model)
    assert opening.load(out).generation_config.max_new_tokens == 7


def damage(out, **changes):
    path = out / "model.safetensors"
    tensors = load_file(path)
    for name, change in changes.items():
        new = change(tensors.pop(name))
        if new is not None:
            tensors[name] = new.contiguous()
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("tensor", "change", "told"),
    [
        (
            "model.layers.1.mlp.up_proj.weight",
            lambda value: None,
            "tensor model.layers.1.mlp.up_proj.weight is missing",
        ),
        ("model.layers.1.mlp.up_proj.weight", lambda value: value[:-2], "mlp.up_proj.weight holds .2046. and scales"),
        ("model.layers.1.mlp.up_proj.weight.scale", lambda value: value[1:], "scales .63, 1, 1."),
        ("model.norm.weight", lambda value: None, "tensor model.norm.weight is missing"),
        ("model.norm.weight", lambda value: value[1:], "model.norm.weight has shape .31., config.json says .32."),
    ],
)
def test_a_damaged_folder_is_told_by_the_tensor(tmp_path, tensor, change, told):
    _, out, _ = written(tmp_path, llama())
    damage(out, **{tensor: change})
    with pytest.raises(InputError, match=told):
        opening.load(out)


def test_a_tensor_without_a_place_and_a_foreign_format_are_told(tmp_path):
    _, out, _ = written(tmp_path, llama())
    tensors = load_file(out / "model.safetensors")
    save_file(tensors | {"model.more.weight": torch.ones(1)}, out / "model.safetensors")
    with pytest.raises(InputError, match="LlamaForCausalLM has no place for model.more.weight"):
        opening.load(out)
    write_json(out / files.MARK, read_json(out / files.MARK) | {"format": "prunelab-quantised-9"})
    with pytest.raises(InputError, match="format 'prunelab-quantised-9', this version reads"):
        opening.load(out)


def test_another_dtype_than_the_stored_one_is_refused(tmp_path):
    _, out, _ = written(tmp_path, llama())
    assert opening.load(out, torch.float32).dtype == torch.float32
    with pytest.raises(InputError, match="quantised, with activations in torch.float32"):
        opening.load(out, torch.bfloat16)


@pytest.mark.slow
def test_loading_needs_hardly_more_memory_than_what_is_resident(tmp_path):
    """The least of three processes: how many pages of the mapped file are in memory at a moment is the kernel's choice,
    and adds up to a third by chance. A dense copy would be four and eight times as large."""
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = AutoConfig.for_model("llama", vocab_size=16384, tie_word_embeddings=True, **wide)
    folders = []
    for precision in PRECISIONS:
        for name, model in (("small", llama()), ("large", AutoModelForCausalLM.from_config(config))):
            folders.append(str(written(tmp_path, model, f"{name}-{precision}", precision=precision)[1]))
    code = """
        import sys, torch
        from prunelab.efficiency import memory
        from prunelab.quantised import opening, layers
        torch.set_num_threads(1)
        for small, large in (sys.argv[1:3], sys.argv[3:]):
            opening.load(small)  # whatever is imported and kept on the way
            before = memory.peak_resident_bytes()
            model = opening.load(large)
            print(memory.peak_resident_bytes() - before, layers.held_bytes(model))
            kept = [model] if small == sys.argv[1] else None  # the next peak is above this one
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *folders]
    runs = []
    for _ in range(3):
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        runs.append([tuple(map(int, line.split())) for line in told.stdout.splitlines()])
    for same in zip(*runs, strict=True):
        peak, held = min(same)
        assert held > 20e6
        assert peak < 1.3 * held
