"""A fetched model is a plain folder: safetensors copied, dequantized or converted, whole or refused."""

import json
import shutil
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from prunelab.errors import InputError
from prunelab.models import pretrained
from prunelab.study.params import Source
from prunelab.training.characters import character_tokenizer
from tests.helpers import tiny

GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
PARAMETERS = (
    31 * 8 + 16 * 8 + 12 * 8 * 8 + 13 * 8 + 2 * 8
)  # two embeddings; matrices, biases and norms of a block; norm


def plain_model(folder: Path, shards: int = 1) -> Path:
    """A small GPT-2 with its tokenizer, norms in fp16, in one file or two."""
    tiny.published(folder, "gpt2", **GPT2)
    (folder / "generation_config.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: value.astype(numpy.float16) if "ln_" in name else value for name, value in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def source(path: Path, **changes) -> Source:
    return Source(**({"kind": "path", "name": str(path)} | changes))


@pytest.mark.parametrize("shards", [1, 2])
def test_a_plain_folder_is_copied_as_it_is_and_described(tmp_path, shards):
    folder = plain_model(tmp_path / "org" / "my-model", shards)
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_custom.py").write_text("raise SystemExit('foreign code ran')")
    manifest = pretrained.prepare(source(folder, licence="MIT"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    copied = {path.name for path in (tmp_path / "out").iterdir()} - {"manifest.json"}
    assert copied == {path.name for path in folder.iterdir()} - {"README.md", "pytorch_model.bin", "modeling_custom.py"}
    assert all((tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in copied)
    assert manifest["model"] == "my-model"
    assert manifest["parameters_stored"] == PARAMETERS
    assert manifest["dtypes"] == ["F16", "F32"]
    assert manifest["model_type"] == "gpt2"
    assert manifest["source"]["licence"] == "MIT"
    assert set(manifest["files"]) == copied


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-7])


def only_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_flax(folder):
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (only_pickled, "expected pickled weights that hold tensors and nothing else, found: "),
        (only_flax, "expected weights in model.safetensors, found config.json, tokenizer.json"),
        (remove("config.json"), "expected one model, a config.json beside its weights or one .gguf file, found 0"),
        (remove("tokenizer.json"), "expected a tokenizer (tokenizer.json, "),
        (truncate, "expected a whole safetensors file model.safetensors, found: "),
        (write("model.safetensors", b"not tensors"), "expected a whole safetensors file model.safetensors, found: "),
        (write("config.json", b"{"), "found broken JSON"),
        (
            write("config.json", b'{"model_type": "own"}'),
            "expected a model_type that transformers knows in config.json",
        ),
        (write("config.json", b"[1]"), "expected a model_type that transformers knows in config.json, found None"),
        (
            write("model.safetensors.index.json", b'{"weight_map": {"a": "model-1.safetensors"}}'),
            "expected weights in model-1.safetensors, found",
        ),
        (write("model.safetensors.index.json", b"{}"), "expected a weight_map in model.safetensors.index.json"),
    ],
)
def test_a_folder_that_would_fail_later_is_refused_now(tmp_path, damage, message):
    folder = plain_model(tmp_path / "model", shards=2 if "index" in message or "model-1" in message else 1)
    damage(folder)
    with pytest.raises(InputError) as caught:
        pretrained.prepare(source(folder), tmp_path / "out")
    assert message in str(caught.value)


def pickled_model(folder: Path, renamed=lambda name: name):
    """A random OPT as OPT is published: half precision, pickled; returns the model."""
    import torch

    from tests.helpers import decoders

    model = decoders.random_model("opt").half()
    model.config.dtype = "float16"
    model.config.save_pretrained(folder)
    state = {renamed(name): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    torch.save(state, folder / "pytorch_model.bin")
    character_tokenizer(tiny.LETTERS).save_pretrained(folder)
    return model


def test_pickled_weights_become_safetensors_of_the_same_values(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    # Older OPT checkpoints lack the prefix that the class has today.
    model = pickled_model(tmp_path / "opt-tiny", lambda name: name.removeprefix("model."))
    manifest = pretrained.prepare(source(tmp_path / "opt-tiny"), tmp_path / "out")
    assert manifest["dtypes"] == ["F16"] and manifest["model"] == "opt-tiny"
    assert not list((tmp_path / "out").glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    ids = torch.arange(8)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    import torch

    class Foreign:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    pickled_model(tmp_path / "model")
    torch.save({"model.decoder.embed_tokens.weight": Foreign()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match="tensors and nothing else, found: Unsupported global") as caught:
        pretrained.prepare(source(tmp_path / "model"), tmp_path / "out")
    assert "Re-running" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_pickled_weights_that_lack_a_tensor_are_refused(tmp_path):
    import torch

    model = pickled_model(tmp_path / "model")
    state = {name: t for name, t in model.state_dict().items() if "fc1" not in name and "lm_head" not in name}
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"expected all of the model's weights, found none for .*fc1"):
        pretrained.prepare(source(tmp_path / "model"), tmp_path / "out")


def test_a_missing_folder_and_two_models_at_once_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a file or folder, found nothing there"):
        pretrained.prepare(source(tmp_path / "nothing"), tmp_path / "out")
    plain_model(tmp_path / "two" / "a")
    shutil.copytree(tmp_path / "two" / "a", tmp_path / "two" / "b")
    with pytest.raises(InputError, match=r"found 2 config\.json and 0 \.gguf; say which with `files:`"):
        pretrained.prepare(source(tmp_path / "two", files="*/*"), tmp_path / "out")
    assert (
        pretrained.prepare(source(tmp_path / "two", files="b/*"), tmp_path / "out")["parameters_stored"] == PARAMETERS
    )


def test_a_file_that_only_calls_itself_gguf_is_refused(tmp_path):
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"MZ not this")
    with pytest.raises(
        InputError, match=r"model\.Q4_1\.gguf: expected a GGUF file, found one that starts with b'MZ n'"
    ):
        pretrained.prepare(source(tmp_path / "model.Q4_1.gguf"), tmp_path / "out")
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"GGUF" + b"\x03\x00\x00\x00" + b"\x01" * 8)
    with pytest.raises(InputError, match="expected a GGUF file that transformers can read, found"):
        pretrained.prepare(source(tmp_path / "model.Q4_1.gguf"), tmp_path / "out")


def gguf_model(path: Path, leave_out: str = "") -> dict[str, numpy.ndarray]:
    """A random one-block Llama of 32 units as a Q4_1 GGUF file; its tensors as another implementation reads them."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(34)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|end|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", ".", ",", "Ċ", "'", "th", "the"])
    writer.add_token_types([3] + [1] * 33)
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (34, 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32)}
    shapes |= {"blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    shapes |= {"blk.0.ffn_down": (32, 64), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "output_norm": (32,)}
    kind = gguf.GGMLQuantizationType.Q4_1
    generator = numpy.random.default_rng(0)
    expected = {}
    for name, shape in shapes.items():
        values = generator.normal(size=shape).astype(numpy.float32)
        if name == leave_out:
            continue
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            expected[name] = values
        else:
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            expected[name] = gguf.quants.dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_a_gguf_file_becomes_an_fp32_folder_with_the_numbers_of_another_dequantizer(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = gguf_model(tmp_path / "Tiny-1K.Q4_1.gguf")
    manifest = pretrained.prepare(source(tmp_path / "Tiny-1K.Q4_1.gguf"), tmp_path / "out")
    assert manifest["model"] == "Tiny-1K, dequantized Q4_1"
    assert manifest["dtypes"] == ["F32"]
    assert manifest["parameters_stored"] == sum(tensor.size for tensor in expected.values())
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v"),
        ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output"),
        ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate"),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down"),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm"),
        ("model.norm.weight", "output_norm"),
    ):
        numpy.testing.assert_allclose(stored[ours], expected[theirs], rtol=0, atol=1e-6)
    # GGUF interleaves the two halves of each head's rows for its rotary embedding; here they lie one after the other.
    halves = expected["blk.0.attn_q"].reshape(2, 8, 2, 32).swapaxes(1, 2).reshape(32, 32)
    numpy.testing.assert_allclose(stored["model.layers.0.self_attn.q_proj.weight"], halves, rtol=0, atol=1e-6)
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert not hasattr(model.config, "quantization_config")
    ids = tokenizer("the cat.", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "the cat."
    assert model(ids).logits.shape == (1, 6, 34)


def test_a_gguf_file_that_lacks_a_tensor_is_refused_not_filled_with_random_numbers(tmp_path):
    gguf_model(tmp_path / "Tiny-1K.Q4_1.gguf", leave_out="blk.0.ffn_up")
    with pytest.raises(InputError, match=r"expected all of the model's weights, found none for .*up_proj"):
        pretrained.prepare(source(tmp_path / "Tiny-1K.Q4_1.gguf"), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "expected pickled weights, found none in floating point"),
        ({"state_dict": {}}, "tensors and nothing else, found: 'state_dict', which is a dict"),
    ],
)
def test_pickled_files_of_something_else_are_told(tmp_path, content, found):
    import torch

    pickled_model(tmp_path / "model")
    torch.save(content, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        pretrained.prepare(source(tmp_path / "model"), tmp_path / "out")
    assert found in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_git_lfs_left_at_its_server_is_told(tmp_path, file):
    folder = plain_model(tmp_path / "model")
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match=f"expected {file}, found git-lfs's pointer to it; run: git lfs pull"):
        pretrained.prepare(source(folder), tmp_path / "out")


@pytest.mark.parametrize("file", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_a_tokenizer_that_only_sentencepiece_reads_is_told_where_it_is_missing(tmp_path, monkeypatch, file):
    from prunelab.models import loading

    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    folder = plain_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / file).write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(
        InputError, match="in SentencePiece's format only; pip install sentencepiece, or add its tokeni"
    ):
        pretrained.prepare(source(folder), tmp_path / "out")
