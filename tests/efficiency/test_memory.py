import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab import quantised
from prunelab.efficiency import latency, memory
from prunelab.errors import InputError
from tests.helpers import tiny, zoo

WORK = latency.Work(prompt_tokens=8, batch=1, output_tokens=4)
IDS = torch.arange(8)[None]


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


def experts(architecture: str, **config):
    """Two blocks as those of `llama`, but with 4 experts of which 2 are used."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes, **heads, **config)).eval()


def test_the_work_of_fused_experts_is_that_of_those_that_are_chosen():
    attention = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 32 * 9  # a block's, behind 9 positions
    router, head = 32 * 4, 32 * 40
    mixtral = experts("mixtral", num_local_experts=4)
    special = {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 32}
    qwen = experts(
        "qwen2_moe", mlp_only_layers=[0], **special
    )  # the first block is dense, in the second is a shared one
    oss = experts("gpt_oss", num_local_experts=4, head_dim=8)
    by_hand = {
        mixtral: 2 * (attention + router + 2 * 3 * 32 * 48) + head,
        qwen: 2 * attention + 3 * 32 * 48 + router + 2 * 3 * 32 * 24 + (3 * 32 * 32 + 32) + head,
        oss: 2 * (attention + router + 2 * 3 * 32 * 48) + head,
    }
    for model, expected in by_hand.items():
        ids = latency.prompts(model, WORK, 0)
        for implementation in ("grouped_mm", "eager", "batched_mm"):
            model.set_experts_implementation(implementation)
            assert memory.macs_per_token(model, ids) == expected, (type(model).__name__, implementation)


@pytest.mark.parametrize("name", ["aten._grouped_mm", "aten._scaled_dot_product_flash_attention_for_cpu"])
def test_a_product_that_no_formula_counts_makes_the_work_unknown(monkeypatch, name):
    formulas = {operator: formula for operator, formula in memory._formulas().items() if str(operator) != name}
    monkeypatch.setattr(memory, "_formulas", lambda: formulas)
    model = zoo.random_model("Mixtral", 40)
    assert memory.macs_per_token(model, latency.prompts(model, WORK, 0)) is None


def test_operators_are_told_by_what_their_names_say():
    names = ["mm", "baddbmm", "mv", "_weight_int4pack_mm", "_cslt_sparse_mm", "_scaled_dot_product_cudnn_attention"]
    assert all(memory._multiplies(getattr(torch.ops.aten, name)) for name in [*names, "dot", "convolution", "linear"])
    names = ["mul", "add", "lgamma", "digamma", "softmax", "embedding", "cumsum", "index_put_", "polygamma", "argmax"]
    assert not any(memory._multiplies(getattr(torch.ops.aten, name)) for name in names)
    assert memory._multiplies("flash_attn.fwd")  # nobody knows what another package's operator does


def test_a_layer_that_multiplies_where_nobody_sees_it_makes_the_work_unknown():
    class Hidden(torch.nn.Linear):
        def forward(self, values):
            return (values[..., None, :] * self.weight).sum(-1)

    model = llama()
    ids = latency.prompts(model, WORK, 0)
    before = model.model.layers[1].mlp.up_proj
    model.model.layers[1].mlp.up_proj = Hidden(32, 48, bias=False)
    assert memory.macs_per_token(model, ids) is None
    model.model.layers[1].mlp.up_proj = before
    assert memory.macs_per_token(model, ids) > 0


def test_the_work_of_a_state_space_model_is_unknown_not_too_little():
    model = zoo.random_model("Mamba", 40)
    assert memory.macs_per_token(model, latency.prompts(model, WORK, 0)) is None


def test_a_window_that_is_full_does_not_make_a_token_s_cache_smaller():
    model = zoo.random_model("Mistral", 40)  # 2 heads of 8 for keys and values, windows of 8
    for tokens in (4, 30):
        ids = latency.prompts(model, WORK._replace(prompt_tokens=tokens, batch=2), 0)
        per_block = 2 * 2 * 8 * 4
        assert memory.kv_cache_bytes_per_token(model, ids) == model.config.num_hidden_layers * per_block


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


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_a_quantised_model_has_as_many_parameters_and_as_much_work_in_fewer_bytes(precision, bits):
    dense, model = llama(), llama()
    quantised.quantise(model, precision)
    plain, held = memory.parameter_counts(dense), memory.parameter_counts(model)
    assert held["parameters"] == plain["parameters"]
    assert held["nonzero_parameters"] < plain["nonzero_parameters"]  # the smallest round to zero
    assert held["parameter_bytes"] < 0.5 * plain["parameter_bytes"]  # padded for the kernels, and these are tiny
    # Kernels multiply the zeros that fill rows up as well; that is none of the model's work.
    assert memory.macs_per_token(model, IDS) == memory.macs_per_token(dense, IDS)


def test_the_reported_peak_is_that_of_the_systems_own_tool(tmp_path):
    if not (tool := shutil.which("time")):
        pytest.skip("the program `time` (GNU time) is not installed")
    tiny.dense_folder(tmp_path / "dense", tiny.gpt2(n_embd=64, vocab_size=400_000))  # 100 MB of weights
    command = [sys.executable, "-m", "prunelab.efficiency.memory", str(tmp_path / "dense")]
    command += ["--prompt-tokens", "8", "--output-tokens", "4"]
    answer = subprocess.run([tool, "-v", *command], capture_output=True, text=True, check=True)
    reported = json.loads(answer.stdout)["peak_memory_bytes"]
    theirs = 1024 * int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", answer.stderr)[1])
    assert reported == pytest.approx(theirs, rel=0.05)
    assert reported > 200e6  # Python, torch and the weights


def test_the_interval_of_the_peak_is_the_spread_of_further_processes_put_around_it():
    found = memory.with_interval({"peak_memory_bytes": 500}, [400, 402, 404])
    half = 4.302653 * 2 / 3**0.5  # Student's t of 2 degrees of freedom
    assert found["peak_memory_bytes_lo"] == pytest.approx(500 - half)
    assert found["peak_memory_bytes_hi"] == pytest.approx(500 + half)


@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only")
def test_a_fork_gives_back_what_it_found_and_tells_what_was_wrong():
    assert memory._in_a_fork(lambda: 17) == 17

    def refuse():
        raise InputError("models/x: no model there")

    with pytest.raises(InputError, match=r"^models/x: no model there$"):
        memory._in_a_fork(refuse)
    with pytest.raises(InputError, match="killed; is memory short"):
        memory._in_a_fork(lambda: os.kill(os.getpid(), 9))


def test_the_peak_is_not_that_of_the_process_that_started_it():
    code = "from prunelab.efficiency.memory import peak_resident_bytes; print(peak_resident_bytes())"
    weight = bytearray(b"x") * 1_500_000_000  # what dvc or a notebook may hold
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(weight) and int(answer.stdout) < 1_000_000_000


def test_the_peak_grows_with_what_is_held():
    code = (
        "from prunelab.efficiency.memory import peak_resident_bytes as peak\n"
        "before = peak(); held = bytearray(b'x') * 500_000_000; del held; print(peak() - before)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) == pytest.approx(500e6, rel=0.05)
