import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab import latency, memory
from tests import tiny

WORK = latency.Work(prompt_tokens=8, batch=1, output_tokens=4)


def llama():
    """Two layers, 4 query heads on 2 key heads of 8, width 32, gated MLP of 48."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    config = AutoConfig.for_model("llama", **sizes, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_macs_are_those_worked_out_by_hand():
    gpt2 = tiny.gpt2()
    # a block: 12 width² in its matrices, and 2 width for each of the 9 positions attended to; the tied head
    by_hand = 2 * (12 * 16 * 16 + 2 * 16 * 9) + 40 * 16
    assert memory.macs_per_token(gpt2, latency.prompts(gpt2, WORK, 0)) == by_hand
    model = llama()
    by_hand = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32 * 9) + 40 * 32
    assert memory.macs_per_token(model, latency.prompts(model, WORK, 0)) == by_hand


def test_a_mask_saves_no_work_and_a_removed_neuron_does():
    model, masked = llama(), llama()
    ids = latency.prompts(model, WORK, 0)
    for layer in masked.model.layers:
        layer.mlp.up_proj.weight.data[:24] = 0
    assert memory.macs_per_token(masked, ids) == memory.macs_per_token(model, ids)
    for layer in masked.model.layers:
        for name in ("up_proj", "gate_proj"):
            setattr(layer.mlp, name, torch.nn.Linear(32, 24, bias=False))
        layer.mlp.down_proj = torch.nn.Linear(24, 32, bias=False)
    assert memory.macs_per_token(model, ids) - memory.macs_per_token(masked, ids) == 2 * 3 * 32 * 24


def test_the_cache_of_a_token_is_its_keys_and_values():
    gpt2, grouped = tiny.gpt2(), llama()
    assert memory.kv_cache_bytes_per_token(gpt2, latency.prompts(gpt2, WORK, 0)) == 2 * 2 * 16 * 4
    ids = latency.prompts(grouped, WORK._replace(batch=3), 0)
    assert memory.kv_cache_bytes_per_token(grouped, ids) == 2 * 2 * 2 * 8 * 4


def test_a_cache_without_keys_has_no_size_per_token(monkeypatch):
    monkeypatch.setattr(latency, "prefill", lambda model, ids: (None, object()))
    assert memory.kv_cache_bytes_per_token(None, torch.zeros(1, 8)) is None


def test_parameters_are_counted_once_when_tied():
    model = tiny.gpt2()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    model.transformer.h[0].mlp.c_fc.weight.data[0] = 0.0
    counts = memory.parameter_counts(model)
    blocks = 12 * 16 * 16 + 13 * 16  # matrices; biases and norms
    assert counts["parameters"] == 40 * 16 + 32 * 16 + 2 * blocks + 2 * 16
    assert counts["nonzero_parameters"] == counts["parameters"] - 64
    assert counts["parameter_bytes"] == 4 * counts["parameters"]


def test_the_reported_peak_is_that_of_the_systems_own_tool(tmp_path):
    if not (tool := shutil.which("time")):
        pytest.skip("the program `time` (GNU time) is not installed")
    tiny.dense_folder(tmp_path / "dense", tiny.gpt2(n_embd=64, vocab_size=400_000))  # 100 MB of weights
    command = [sys.executable, "-m", "prunelab.memory", str(tmp_path / "dense")]
    command += ["--prompt-tokens", "8", "--output-tokens", "4"]
    answer = subprocess.run([tool, "-v", *command], capture_output=True, text=True, check=True)
    reported = json.loads(answer.stdout)["peak_memory_bytes"]
    theirs = 1024 * int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", answer.stderr)[1])
    assert reported == pytest.approx(theirs, rel=0.05)
    assert reported > 200e6  # Python, torch and the weights


def test_the_peak_is_not_that_of_the_process_that_started_it():
    code = "from prunelab.memory import peak_resident_bytes; print(peak_resident_bytes())"
    weight = bytearray(b"x") * 1_500_000_000  # what dvc or a notebook may hold
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(weight) and int(answer.stdout) < 1_000_000_000


def test_the_peak_grows_with_what_is_held():
    code = (
        "from prunelab.memory import peak_resident_bytes as peak\n"
        "before = peak(); held = bytearray(b'x') * 500_000_000; del held; print(peak() - before)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) == pytest.approx(500e6, rel=0.05)
