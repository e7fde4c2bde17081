"""The model of a study is built and run once before anything is fetched: what would stop later is told at once."""

import time

import pytest
import torch
from ruamel.yaml import YAML

from prunelab.checks import checks, trial
from prunelab.command import line
from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers import studies, zoo

LLAMA = zoo.ARCHITECTURES["Llama"][1]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def settings(folder, architecture="llama", config=LLAMA, **changes) -> params.Settings:
    """The smoke study's masks with another model, and `changes` such as quality={"context": 99}."""
    yaml, raw = YAML(typ="safe", pure=True), studies.raw("smoke")
    raw["train"] |= {"architecture": architecture, "config": config}
    raw["prune"]["further"] = []
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    yaml.dump(raw, folder / "params.yaml")
    return params.load(folder / "params.yaml")


def refusal(folder, *model, **changes) -> str:
    with pytest.raises(InputError) as caught:
        checks.check(settings(folder, *model, **changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_no_architecture_that_can_be_trained_is_refused(tmp_path, name):
    checks.check(settings(tmp_path, *zoo.ARCHITECTURES[name]))


@pytest.mark.parametrize(
    ("architecture", "config", "line"),
    [
        ("llama", {**LLAMA, "hidden_size": 30}, "The hidden size (30) is not a multiple of the number of attention"),
        ("gpt2", {"n_layer": "2"}, "train.config.n_layer: 'gpt2' refuses it: expected int, got str (value: '2')"),
        ("gpt2", {"activation_function": "swiglu"}, "train.config.activation_function: 'gpt2' knows no 'swiglu'"),
        (
            "llama",
            {**LLAMA, "num_key_value_heads": 3},
            "train.config.num_key_value_heads: 3 does not divide the 4 heads of attention",
        ),
        ("gpt2", {"n_layer": 0}, "no decoder blocks found"),
        ("gpt2", {"n_embd": 32, "n_head": 3}, "train.config: 'gpt2' refuses it"),
        ("gpt2", {"n_layer": 1, "n_embd": 32, "n_head": 2, "initializer_range": 1e38}, "the loss of the untrained"),
        ("bert", BERT, "'bert' looks at the tokens that it shall predict; set train.config.is_decoder: true"),
        ("gptt2", {}, "no causal LM 'gptt2'; nearest: gpt2"),
    ],
)
def test_what_the_library_raises_is_one_line_that_names_the_setting(tmp_path, architecture, config, line):
    assert line in refusal(tmp_path, architecture, config)


def test_a_bert_that_is_told_to_decode_is_taken(tmp_path):
    checks.check(settings(tmp_path, "bert", {**BERT, "is_decoder": True}))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"quality": {"context": 65}}, "quality.context: 65 exceeds the model's 64 positions"),
        (
            {"efficiency": {"prompt_tokens": [8, 60], "output_tokens": 8}},
            "efficiency.prompt_tokens + efficiency.output_tokens: 68 exceeds the model's 64 positions",
        ),
        ({"prune": {"rates": ["2of5"]}}, "prune.rates: 2of5: the 32 inputs of model.layers.0.self_attn.q_proj.weight"),
        ({"prune": {"further": ["depth-random-10"]}}, "prune.further: depth-random-10: 10% of 2 blocks"),
        ({"prune": {"further": ["mlp-width-norms-90-recovered"]}}, "mlp-width-norms-90-recovered: these layers"),
        ({"prune": {"further": ["mlp-width-norms-20"]}, "structure": {"round_to": 999}}, "mlp-width-norms-20"),
        (
            {"prune": {"further": ["magnitude-2of5-recovered"]}},
            "prune.further: magnitude-2of5-recovered: the 32 inputs of model.layers.0.self_attn.q_proj.weight do not",
        ),
    ],
)
def test_what_the_study_asks_of_the_model_must_fit_it(tmp_path, changes, line):
    assert line in refusal(tmp_path, **changes)


def test_a_context_beyond_the_models_positions_is_told(tmp_path):
    raw = settings(tmp_path)
    too_long = raw.model_copy(update={"train": raw.train.model_copy(update={"context": 65})})
    with pytest.raises(InputError, match=r"train\.context: 65 exceeds the model's 64 positions"):
        trial.run(too_long)
    no_limit = zoo.ARCHITECTURES["BLOOM"]
    checks.check(settings(tmp_path, *no_limit, quality={"context": 3000}))


def test_groups_of_heads_that_a_fused_layer_hides_are_told(tmp_path):
    line = refusal(tmp_path, *zoo.ARCHITECTURES["GPT-2"], prune={"further": ["head-width-random-50"]})
    assert line.startswith("head-width: block 0 of GPT2LMHeadModel has no layers to cut")


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_model_of_billions_is_never_materialised(tmp_path, name):
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336}  # 7 billion and more
    start = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    began = time.perf_counter()
    checks.check(settings(tmp_path, name, config))
    assert time.perf_counter() - began < 60  # filling 28 GB alone would take longer
    assert not torch.cuda.is_available() or torch.cuda.memory_allocated() == start
    line = refusal(tmp_path, name, {**config, "num_attention_heads": 32, "num_key_value_heads": 5})
    assert line.startswith("train.config.num_key_value_heads: 5 does not divide the 32 heads of attention")


def test_a_model_that_cannot_be_quantised_is_told_before_it_is_trained(tmp_path):
    mamba = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    line = refusal(tmp_path, "mamba", mamba, prune={"further": ["dense-int8"], "methods": ["magnitude"]})
    assert line.startswith("int8: MambaForCausalLM cannot be quantised: ")
    assert line.endswith("; take int8 out of prune.further")


def test_random_states_are_left_as_they_were(tmp_path):
    study = settings(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    checks.check(study)
    assert torch.equal(torch.rand(3), expected)


def test_extras_that_are_missing_are_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert refusal(tmp_path, export={"onnx": True}) == (
        "export.onnx: true needs onnx, onnxscript, onnxruntime, which is an extra: pip install -e '.[onnx]'"
    )
    lora = {"prune": {"further": ["depth-random-50-recovered"]}, "recover": {"parameters": "lora"}}
    assert refusal(tmp_path, **lora).startswith("recover.parameters: lora needs peft")


def test_a_country_that_is_none_is_told_before_anything_runs(tmp_path):
    line = refusal(tmp_path, energy={"country": "GER"})
    assert line.startswith("energy.country: CodeCarbon knows no 'GER' (did you mean '")


def test_the_command_prints_one_line(tmp_path, monkeypatch, capsys):
    settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    line.main(["check"])
    assert capsys.readouterr().out == "params.yaml: study smoke, 2 variants, ok\n"
    settings(tmp_path, "gpt2", {"n_layer": "2"})
    with pytest.raises(InputError, match=r"^params.yaml: train\.config\.n_layer: 'gpt2' refuses it"):
        checks.of_file("params.yaml")


@pytest.mark.parametrize("stage", ["fetch", "train"])
def test_stages_look_at_the_model_before_they_touch_anything(tmp_path, monkeypatch, stage):
    import importlib

    settings(tmp_path, "llama", {**LLAMA, "num_key_value_heads": 3})
    monkeypatch.chdir(tmp_path)
    more = ["--data", "data"] if stage == "train" else []
    with pytest.raises(InputError, match=r"train\.config\.num_key_value_heads: 3 does not divide the 4 heads"):
        importlib.import_module(f"stages.{stage}").main([*more, "--out", "out", "--energy", "energy.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
