"""The ONNX file: right behind windows and padding, named as Optimum names it, or refused in one line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prunelab.efficiency import runtimes
from prunelab.errors import InputError
from prunelab.models import caches, onnx
from tests.helpers import zoo

pytestmark = pytest.mark.skipif(runtimes.available()["onnx"] is not None, reason=f"{runtimes.available()['onnx']}")
VOCABULARY = 40


def ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(5))


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted.detach()).abs().max() / wanted.detach().abs().max())


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    """A model whose every layer has a window of 8 tokens, and its file."""
    model = zoo.random_model("Mistral", VOCABULARY)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert onnx.export(model, path) < 1e-5
    return model, path


class Client:
    """Knows no model: it feeds what the file's inputs are named after, with the shapes that they say."""

    def __init__(self, path):
        import onnxruntime

        self.file = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, tokens, mask, past):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -tokens.shape[1] :]
        known = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions} | past
        feed = {}
        for entry in self.file.get_inputs():
            sizes = {"batch_size": len(tokens), "past_sequence_length": 0}
            if entry.name not in known:
                known[entry.name] = np.zeros([sizes.get(size, size) for size in entry.shape], np.float32)
            feed[entry.name] = known[entry.name]
        names = [entry.name for entry in self.file.get_outputs()]
        out = dict(zip(names, self.file.run(None, feed), strict=True))
        return out.pop("logits"), {name.replace("present", "past_key_values"): value for name, value in out.items()}

    def greedy(self, tokens: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
        past, written = {}, []
        for _ in range(count):
            logits, past = self.run(tokens, mask, past)
            tokens = logits[:, -1:].argmax(-1)
            mask = np.concatenate([mask, np.ones_like(tokens)], 1)
            written.append(tokens)
        return np.concatenate(written, 1)


@pytest.mark.slow
def test_behind_a_sliding_window_the_file_computes_what_torch_computes(mistral):
    model, path = mistral
    prompt = ids(2, 40)
    with torch.no_grad():
        wanted = model(input_ids=prompt).logits
    session = onnx.Session(path, model.config)
    assert apart(session(input_ids=prompt).logits, wanted) < 1e-5
    for parts in ([1] * 40, [20, 1, 18, 1], [3, 37]):
        for rows in (1, 2):
            assert apart(onnx._read(session, prompt[:rows], parts), wanted[:rows]) < 1e-5


@pytest.mark.slow
def test_names_and_axes_are_those_that_optimum_writes(mistral):
    import onnxruntime

    file = onnxruntime.InferenceSession(str(mistral[1]), providers=["CPUExecutionProvider"])
    blocks = range(mistral[0].config.num_hidden_layers)
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    assert {entry.name: entry.shape for entry in file.get_inputs()} == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", total],
        "position_ids": ["batch_size", "sequence_length"],
        **{f"past_key_values.{n}.{part}": ["batch_size", 2, past, 8] for n in blocks for part in ("key", "value")},
    }
    assert {entry.name: entry.shape for entry in file.get_outputs()} == {
        "logits": ["batch_size", "sequence_length", VOCABULARY],
        **{f"present.{n}.{part}": ["batch_size", 2, total, 8] for n in blocks for part in ("key", "value")},
    }
    assert {entry.type for entry in file.get_inputs()[:3]} == {"tensor(int64)"}


@pytest.mark.slow
def test_a_client_that_knows_only_the_names_writes_what_generate_writes(mistral):
    model, path = mistral
    prompt = ids(2, 12)
    wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=16)
    found = Client(path).greedy(prompt.numpy(), np.ones((2, 12), np.int64), 16)
    assert found.tolist() == wanted[:, 12:].tolist()


@pytest.mark.slow
def test_a_prompt_padded_on_the_left_is_continued_as_it_is_alone(mistral):
    long, short = ids(1, 14).numpy(), ids(1, 14)[:, 9:].numpy()
    padded = np.concatenate([long, np.concatenate([np.zeros((1, 9), np.int64), short], 1)])
    mask = np.ones((2, 14), np.int64)
    mask[1, :9] = 0
    client = Client(mistral[1])
    together = client.greedy(padded, mask, 12)
    for row, prompt in zip(together, (long, short), strict=True):
        assert row.tolist() == client.greedy(prompt, np.ones_like(prompt), 12)[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BLOOM", "MPT"])
def test_a_model_without_positions_has_no_input_for_them(name, tmp_path):
    model = zoo.random_model(name, VOCABULARY)
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-5
    session = onnx.Session(tmp_path / "model.onnx", model.config)
    assert session._inputs[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert apart(session(input_ids=ids(1, 30)).logits, model(input_ids=ids(1, 30)).logits) < 1e-5


@pytest.mark.slow
def test_fused_experts_are_exported_and_the_model_keeps_its_own_way(tmp_path):
    model = zoo.random_model("Mixtral", VOCABULARY)
    before = model.config._experts_implementation
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-5
    assert model.config._experts_implementation == before == "grouped_mm"


class Torch:
    """What a file would be that computes with `model`: no windows where the model has none."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, past_key_values=None, attention_mask=None):
        out, cache = caches.step(self.model, input_ids, past_key_values, attention_mask=attention_mask)
        return SimpleNamespace(logits=out.logits, past_key_values=cache)


@pytest.mark.parametrize("name", ["Mistral", "Gemma 2", "Phi-3", "StarCoder2", "GPT-OSS", "Qwen2", "GPT-Neo"])
def test_the_check_sees_a_file_that_forgot_the_windows(name):
    model, forgetful = zoo.random_model(name, VOCABULARY), zoo.random_model(name, VOCABULARY)
    assert onnx._check(model, Torch(model), positions=False) < 1e-5
    if name == "GPT-Neo":  # its window is a buffer of each local layer
        for layer in forgetful.transformer.h:
            layer.attn.attention.bias.fill_(True).tril_()
    else:
        forgetful.config.sliding_window = zoo.POSITIONS
    assert onnx._check(model, Torch(forgetful), positions=False) > onnx.TOLERANCE


def test_the_probe_looks_past_every_window_within_the_context():
    def tokens(name, **changes):
        config = zoo.random_model(name, VOCABULARY).config
        for key, value in changes.items():
            setattr(config, key, value)
        return onnx._probe_tokens(config)

    assert tokens("Llama") == 16
    assert tokens("Mistral") == zoo.WINDOW + 8 and tokens("Mistral", sliding_window=30) == 38
    assert tokens("Mistral", sliding_window=60) == zoo.POSITIONS  # no further
    assert tokens("Mistral", sliding_window=4096) == 16  # never reached
    assert tokens("GPT-Neo", window_size=20) == 28
    assert tokens("Llama", attention_chunk_size=25) == 33
    assert tokens("BLOOM") == 16


@pytest.mark.parametrize("name", ["Mamba"])
def test_a_model_that_keeps_a_state_is_refused_with_the_way_out(name, tmp_path):
    with pytest.raises(InputError) as refusal:
        onnx.export(zoo.random_model(name, VOCABULARY), tmp_path / "model.onnx")
    assert str(refusal.value) == (
        "onnx: MambaForCausalLM cannot be exported: from token to token it keeps something else than a key and a value "
        "in every block; set export.onnx: false, and take onnx out of runtimes.names"
    )


def test_what_the_exporter_says_of_its_insides_becomes_one_line(tmp_path, monkeypatch, capfd):
    def fail(*arguments, **options):
        print("class GraphModule(torch.nn.Module):")
        raise ValueError("The following inconsistencies were found:\nEq(s70 + Max(0, 1), 1) is inconsistent!")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(InputError) as refusal:
        onnx.export(zoo.random_model("Llama", VOCABULARY), tmp_path / "model.onnx")
    assert str(refusal.value) == (
        "onnx: LlamaForCausalLM cannot be exported: torch's exporter gives up (ValueError); "
        "set export.onnx: false, and take onnx out of runtimes.names"
    )
    assert capfd.readouterr() == ("", "")


def test_what_onnx_runtime_cannot_run_is_told_in_one_line(tmp_path, monkeypatch):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    def refuse(path, config):
        raise state.NotImplemented("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Mul(14) for bfloat16")

    graph = SimpleNamespace(inputs=[], outputs=[])
    program = SimpleNamespace(model=SimpleNamespace(graph=graph), save=lambda path: None)
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: program)
    monkeypatch.setattr(onnx, "Session", refuse)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run it \(NotImplemented\); set export.onnx: false"):
        onnx.export(zoo.random_model("Llama", VOCABULARY), tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_model_in_16_bits_stays_as_it_was_when_it_runs_in_onnx():
    model = zoo.random_model("Llama", VOCABULARY).to(torch.bfloat16)
    session = runtimes.prepare(model, "onnx")
    assert model.dtype == torch.bfloat16 and session.dtype == torch.float32
    assert apart(session(input_ids=ids(1, 8)).logits, model.float()(input_ids=ids(1, 8)).logits) < 1e-5
