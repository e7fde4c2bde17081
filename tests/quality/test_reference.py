"""The two stages of quality, from a folder and a text to quality.json, and what they leave for each other."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.errors import InputError
from prunelab.quality import reference
from prunelab.training.characters import character_tokenizer
from stages import further, probes
from stages import quality as quality_stage
from stages import reference as reference_stage
from tests.helpers import studies

ROOT = Path(__file__).parents[2]
TEXT = "".join(np.random.default_rng(0).choice(list("abcdefghij .,é\n"), 3000))
SETTINGS = {
    "context": 32,
    "max_windows": 40,
    "kl_windows": 10,
    "batch_tokens": 200,
    "bootstrap_draws": 200,
    "robustness": {"texts": 4, "kinds": ["typos", "drop"], "strengths_percent": [10, 30], "seed": 1},
    "samples": {"prompts": ["ab", "c"], "tokens": 10, "temperature": 0.8, "seeds": [1], "chat": False},
    "questions": {"names": [], "limit": None, "shots": None, "chat": False},
    "texts": [],
    "texts_windows": 8,
    "texts_context": None,
    "also_contexts": [],
}


def settings(**changes) -> None:
    """params.yaml in the current folder: the repository's, with the small quality section above."""
    yaml = YAML(typ="safe", pure=True)
    content = studies.raw("default")
    content["quality"] = SETTINGS | {k: v for k, v in changes.items() if k in SETTINGS}
    content["fetch"]["texts"] = changes.get("further_texts", {})
    content["prune"]["further"] = changes.get("further", ["dense-average", "dense-best"])
    yaml.dump(content, Path("params.yaml"))


def save(model, folder: Path, factor: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor * factor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with a dense model, its controls, a noisy `variant`, and a text."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", n_layer=2, n_head=2, n_embd=8, n_positions=32, vocab_size=16, bos_token_id=1, eos_token_id=15
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    for folder, noise in (("dense", 0.0), ("variant", 0.2)):
        for parameter in model.parameters():
            parameter.data += noise * torch.randn_like(parameter)
        model.save_pretrained(f"models/{folder}")
        character_tokenizer(TEXT).save_pretrained(f"models/{folder}")
    dense = AutoModelForCausalLM.from_pretrained("models/dense")
    Path("models/dense/history").mkdir()
    tensors = {name: p.detach() * 0.9 for name, p in dense.named_parameters()}
    save_file(tensors, "models/dense/history/average.safetensors")
    save(dense, Path("models/dense/best"), 1.0)
    Path("data/text").mkdir(parents=True)
    Path("data/text/test.txt").write_text(TEXT, encoding="utf-8")
    settings()
    return tmp_path


def run_reference(*more: str) -> None:
    reference_stage.main(["--dense", "models/dense", "--data", "data", "--out", "results/dense", *more])


def run_quality(name: str, model: str, *more: str) -> dict:
    arguments = ["--model", f"models/{model}", "--reference", "results/dense", "--out", f"results/{name}", *more]
    quality_stage.main([name, *arguments])
    return json.loads(Path(f"results/{name}/quality.json").read_text())


def run_control(name: str) -> dict:
    further.main([name, "--dense", "models/dense", "--out", f"models/{name}"])
    return run_quality(name, name)


def test_a_variant_is_compared_with_dense_in_everything(study, capsys):
    run_reference("--energy", "results/energy/reference.json")
    dense = json.loads(Path("results/dense/quality.json").read_text())
    found = run_quality("magnitude-50", "variant", "--energy", "results/energy/quality-magnitude-50.json")
    assert found["loss"] > dense["loss"] - 0.5 and found["kl_to_dense"] > 0.01 and found["top1_agreement"] < 1
    assert found["loss_diff"] == pytest.approx(found["loss"] - dense["loss"], abs=1e-6)
    assert found["loss_diff_lo"] < found["loss_diff"] < found["loss_diff_hi"]
    same = ("split", "text_sha256", "context", "windows", "tokens", "bytes", "dtype")
    assert {key: found[key] for key in same} == {key: dense[key] for key in same}
    assert (found["windows"], found["tokens"]) == (40, 40 * 31)
    assert found["bytes"] > found["tokens"], "é is two bytes"
    assert [(row["tokens_before_from"], row["tokens_before_to"]) for row in found["context_curve"]] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 31),
    ]  # fmt: skip
    weights = [1, 2, 4, 8, 16]
    assert np.average([row["loss"] for row in found["context_curve"]], weights=weights) == pytest.approx(found["loss"])
    assert [(row["kind"], row["strength_percent"]) for row in found["robustness"]] == [
        ("typos", 10), ("typos", 30), ("drop", 10), ("drop", 30),
    ]  # fmt: skip
    assert any(row["rise_diff"] != 0 for row in found["robustness"])
    assert all(row["bits_diff"] != 0 for row in found["robustness"])
    assert [(one["prompt"], one["seed"]) for one in found["samples"]] == [
        ("ab", None),
        ("ab", 1),
        ("c", None),
        ("c", 1),
    ]
    assert found["repetition_diff"] == pytest.approx(found["repetition"] - dense["repetition"])
    assert found["tasks"] == []
    assert load_file("results/magnitude-50/windows.safetensors")["loss"].mean() == pytest.approx(found["loss"])
    assert json.loads(Path("results/energy/reference.json").read_text())["name"] == "reference"
    assert json.loads(Path("results/energy/quality-magnitude-50.json").read_text())["name"] == "quality-magnitude-50"
    assert "magnitude-50: loss" in capsys.readouterr().out


def test_dense_does_not_differ_from_itself_and_the_best_checkpoint_may_be_dense(study):
    run_reference()
    dense = json.loads(Path("results/dense/quality.json").read_text())
    best, average = (run_control(name) for name in ("dense-best", "dense-average"))
    for same in (dense, best):
        assert same["loss_diff"] == same["loss_diff_lo"] == same["loss_diff_hi"] == same["kl_to_dense"] == 0
        assert same["top1_agreement"] == 1
        assert all(row["rise_diff"] == row["bits_diff"] == 0 for row in same["robustness"])
    assert best["samples"] == dense["samples"]
    assert average["variant"] == "dense-average" and average["kl_to_dense"] > 0


@pytest.mark.parametrize(("step", "dtype"), [("bf16", "bf16"), ("int8", "fp32"), ("int4", "fp32")])
def test_a_row_of_another_precision_is_judged_in_its_own_and_held_against_dense(study, step, dtype):
    identifier = f"dense-{step}"
    settings(further=[identifier])
    run_reference()
    found = run_control(identifier)
    assert found["dtype"] == dtype and reference.load("results/dense/reference.safetensors").facts["dtype"] == "fp32"
    assert 0 < found["kl_to_dense"] < 0.1 and found["top1_agreement"] > 0.8
    assert ("decode_loss" in found) is (step != "bf16")


def test_another_seed_has_its_own_folder_and_the_same_names(study):
    run_reference("--out", "results/s2/dense")
    assert [path.as_posix() for path in Path("results").glob("*/*")] == ["results/s2/dense"]
    assert json.loads(Path("results/s2/dense/quality.json").read_text())["variant"] == "dense"


def test_a_variant_needs_neither_text_nor_dense_model_nor_slow_libraries(study):
    """In a process of its own, with the text and the dense model gone."""
    run_reference()
    for gone in ("models/dense", "data"):
        Path(gone).rename(gone + "-gone")
    script = (
        "import sys; from stages import quality;"
        "quality.main('x-50 --model models/variant --reference results/dense --out results/x-50'.split());"
        "print([name for name in ('pandas', 'mlflow', 'codecarbon', 'matplotlib', 'prefect', 'lm_eval', 'datasets')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "tok/s" not in done.stderr, "no progress bar where nobody watches"


def test_what_is_saved_is_what_is_loaded(study):
    run_reference()
    found = reference.load("results/dense/reference.safetensors")
    assert found.windows.tokens.shape == (40, 32) and found.loss.dtype == np.float64
    assert found.states.hidden.shape == (10, 31, 8)
    assert found.states.head.weight.shape == (16, 8)
    assert found.facts == {
        key: found.facts[key] for key in ("split", "text_sha256", "context", "dtype", "dense_sha256", "libraries")
    }


def test_without_probes_and_kl_windows_nothing_is_claimed_about_them(study):
    off = {"texts": 0, "kinds": ["typos"], "strengths_percent": [10], "seed": 1}
    silent = SETTINGS["samples"] | {"prompts": []}
    settings(kl_windows=0, robustness=off, samples=silent)
    run_reference()
    found = run_quality("x-50", "variant")
    assert found["kl_to_dense"] is None and found["top1_agreement"] < 1
    assert found["robustness"] == found["samples"] == found["tasks"] == []
    assert "repetition" not in found


def test_questions_are_asked_of_dense_and_variant_alike(study):
    rows = [{"query": "ab", "choices": ["cd", "efg", "h"], "gold": number % 3} for number in range(9)]
    Path("quiz.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    Path("short.jsonl").write_text("\n".join(json.dumps({"query": "ab", "answer": "h"}) for _ in range(3)))
    settings(
        questions={"names": ["quiz.jsonl", "short.jsonl"], "limit": None, "shots": None, "chat": False}, further=[]
    )
    probes.main(["--out", "data/probes"])
    run_reference()
    found = run_quality("x-50", "variant")
    task, short = found["tasks"]
    assert (task["task"], task["questions"], task["acc"]) == ("quiz", 9, pytest.approx(1 / 3))
    assert task["acc_diff"] == 0 and task["acc_stderr"] > 0
    assert (short["task"], short["questions"], short["chance"]) == ("short", 3, 0.0)
    # A third is what guessing gets, and a random model writes no answer: dense tells nothing, so nothing is pooled.
    assert [one["dense_above_chance"] for one in (task, short)] == [False, False] and found["pooled_tasks"] == []


def test_a_reference_that_asked_other_questions_is_refused(study):
    run_reference()
    settings(robustness=SETTINGS["robustness"] | {"strengths_percent": [10]})
    with pytest.raises(
        InputError, match=r"quality.robustness is .*10\].* made with .*30\].*; run the reference stage again"
    ):
        run_quality("x-50", "variant")


def test_missing_or_broken_files_are_named(study):
    with pytest.raises(InputError, match=r"reference.safetensors: no such file; run the reference stage"):
        run_quality("x-50", "variant")
    run_reference()
    whole = Path("results/dense/reference.safetensors").read_bytes()
    Path("results/dense/reference.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a reference of this program"):
        run_quality("x-50", "variant")
    Path("data/text/test.txt").unlink()
    with pytest.raises(InputError, match=r"test.txt: no such file; run the fetch stage"):
        run_reference()


def test_a_control_that_is_not_there_or_not_of_this_model_is_named(study):
    save_file({"foreign.weight": torch.zeros(1)}, "models/dense/history/average.safetensors")
    run_reference()
    with pytest.raises(InputError, match=r"'foreign.weight' does not belong to models/dense"):
        run_control("dense-average")
    Path("models/dense/history/average.safetensors").unlink()
    with pytest.raises(InputError, match="no such file, so there is no dense-average; take it out of prune.further"):
        run_control("dense-average")
    assert not Path("models/dense-average").exists()


def test_a_wrecked_variant_is_named_and_leaves_no_figures(study):
    run_reference()
    broken = AutoModelForCausalLM.from_pretrained("models/variant")
    broken.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    broken.save_pretrained("models/variant")
    with pytest.raises(InputError, match="wanda-80: the loss is not finite in 40 of 40 windows"):
        run_quality("wanda-80", "variant")
    assert not Path("results/wanda-80/quality.json").exists()
