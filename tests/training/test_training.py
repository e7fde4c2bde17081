"""Training: the same windows on every way, a curve that a kill does not change, a stop at the first bad loss."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunelab.errors import InputError
from prunelab.models import models
from prunelab.study import params
from prunelab.tasks import language
from prunelab.tasks.language import windows
from prunelab.tasks.language.tokens import encode
from prunelab.training import points, training
from tests.helpers import tiny

ROOT = Path(__file__).parents[2]
WORDS = [
    "to",
    "be",
    "or",
    "not",
    "the",
    "slings",
    "and",
    "arrows",
    "of",
    "outrageous",
    "fortune",
    "sleep",
    "no",
    "more",
]


def write_text(folder: Path, words: int = 4000):
    """A text of a few words in seeded order, as the fetch stage leaves one."""
    generator = torch.Generator().manual_seed(3)
    (folder / "text").mkdir(parents=True)
    for part, share in (("train", 1.0), ("validation", 0.2), ("test", 0.2)):
        picks = torch.randint(len(WORDS), (int(words * share),), generator=generator)
        (folder / "text" / f"{part}.txt").write_text(" ".join(WORDS[i] for i in picks.tolist()), encoding="utf-8")


def write_settings(folder: Path, **train):
    """The default study with a model of two narrow layers, a dropout (so that random states matter) and `train`."""
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["train"] |= {
        "config": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "resid_pdrop": 0.2},
        "context": 16, "epochs": 6, "windows_per_epoch": 80, "batch_size": 8, "warmup_steps": 5,
        "evaluate_every_epochs": 1, "validation_windows": 40,
    } | train  # fmt: skip
    if (folder / "data" / "model").is_dir():
        raw["fetch"]["model"] = {"kind": "path", "name": "data/model"}
        raw["train"] |= {"start": "fetched", "tokenizer": "fetched", "architecture": None, "config": {}}
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(raw, file)
    return params.load(folder / "params.yaml")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "data")
    return tmp_path


def run(place, name="dense", **train):
    out = place / name
    out.mkdir()
    training.run(write_settings(place, **train), language, place / "data", out, seed=1)
    return out


def same_files(one: Path, other: Path):
    for name in ["model.safetensors", *(path.relative_to(one) for path in one.glob("history/**/*.safetensors"))]:
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), (name, key)
    for name in ("history/curve.csv", "history/trajectories.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_killed_with_kill_9_it_continues_and_ends_with_the_curve_of_an_unbroken_run(place):
    write_settings(place, epochs=30, tracker={**TRACKER, "tick": "steps", "every": 3})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def command(out: str) -> list[str]:  # both in processes of their own: another number of threads rounds otherwise
        told = ["--points", f"results/{out}.jsonl"]
        return [sys.executable, "-m", "stages.train", "--data", "data", "--out", out, "--seed", "s1", *told]

    subprocess.run(command("unbroken"), env=environment, check=True, capture_output=True)
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(command("broken"), env=environment, stdout=subprocess.PIPE, text=True)
        # Cut-off ones too: they lie there until the new run is awake, which must not be killed before.
        before = len(list(place.glob("checkpoints/*/checkpoint-*/trainer_state.json")))
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            newest = list(place.glob("checkpoints/*/checkpoint-*/trainer_state.json"))
            if kills < 3 and len(newest) > min(before, 2) and newest[-1].parent.name != "checkpoint-0":
                time.sleep(0.15 * kills)  # at another moment each time
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.02)
        output = process.communicate()[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert not (place / "broken").exists()
    assert kills >= 2 and "continuing from" in output
    same_files(place / "unbroken", place / "broken")
    assert not any((place / "checkpoints").iterdir())
    said = [points.finished(place / "results" / f"{name}.jsonl") for name in ("unbroken", "broken")]
    unbroken, broken = ([line | {"at": None} for line in lines if "validation_loss" in line] for lines in said)
    assert unbroken == broken and len(unbroken) == 30
    clocked = [line["step"] for line in said[1] if "recent_train_loss" in line]
    assert clocked and clocked == sorted(set(clocked))
    assert not list((place / points.LIVE).iterdir())


TRACKER = {
    "value": "absolute", "weighting": "linear", "beta": 0.9, "window": None, "tick": "epoch", "every": 1,
    "trajectories": 2, "memory": "model", "windows": {"half": 0.5}, "signed_sqrt": True,
}  # fmt: skip


def test_a_checkpoint_that_was_cut_off_is_passed_over(place):
    work = place / "work"
    for step, whole in ((10, True), (20, False)):
        (work / f"checkpoint-{step}").mkdir(parents=True)
        (work / f"checkpoint-{step}" / "trainer_state.json").touch()
        if whole:
            (work / f"checkpoint-{step}" / training.STATE_FILE).touch()
    assert training._last_checkpoint(work).endswith("checkpoint-10")
    assert not (work / "checkpoint-20").exists()


def test_what_it_says_while_it_trains_is_its_curve_and_how_fast_it_goes(place):
    out, live = place / "dense", place / "live.jsonl"
    out.mkdir()
    training.run(write_settings(place, epochs=3), language, place / "data", out, seed=1, points=live)
    said = [json.loads(line) for line in points.read(live).lines]
    with (out / "history" / "curve.csv").open(newline="") as file:
        curve = [{name: float(word) for name, word in row.items() if word} for row in csv.DictReader(file)]
    evaluated = [line for line in said if "validation_loss" in line]  # the others are written by the clock
    assert [{name: value for name, value in line.items() if name != "at"} for line in evaluated] == curve
    last = said[-1]
    assert last["step"] == curve[-1]["step"] == 30 and last["learning_rate"] == curve[-1]["learning_rate"]
    assert last["tokens_per_second"] > 0 and last["recent_train_loss"] > 0


def test_the_folder_is_a_plain_hugging_face_one_with_best_and_last_and_history(place):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = run(place, learning_rate=1e-2)
    text = (place / "data" / "text" / "test.txt").read_text()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    model = AutoModelForCausalLM.from_pretrained(out)
    assert load_file(out / "best" / "model.safetensors").keys() == load_file(out / "model.safetensors").keys()
    rows = (out / "history" / "curve.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 and rows[0].startswith("step,epoch,tick,train_loss,validation_loss")
    first, last = (float(rows[i].split(",")[4]) for i in (1, -1))
    assert last < first - 0.2  # it learns
    importance = load_file(out / "history" / "importance.safetensors")
    assert set(importance) == {tensor["name"] for tensor in models.prunable_tensors(model)}


def test_one_training_leaves_every_reading_that_the_tracker_keeps(place):
    out = run(place, epochs=4, tracker={**TRACKER, "windows": {"half": 0.5, "quarter": 0.25}})
    last, importance = load_file(out / "model.safetensors"), load_file(out / "history/quarter/importance.safetensors")
    for name, values in importance.items():  # a quarter of four ticks is the last one
        assert torch.allclose(values, last[name].abs(), rtol=1e-6)
    kept = {path.parent.name: path for path in out.glob("history/*/average.safetensors")}
    assert kept.keys() == {"half", "quarter", "signed-sqrt"}
    with safe_open(kept["half"], "pt") as file:
        assert json.loads(file.metadata()["options"])["window"] == 2
        assert set(file.keys()) == last.keys()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_losses_of_the_curve_are_those_of_the_model_itself(place, architecture):
    """Not a part of them, as where the library counts the first token of every window."""
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "max_position_embeddings": 16}
    more = {"llama": {"config": config | {"intermediate_size": 32}}, "gpt2": {}}[architecture]
    dense = run(place, architecture=architecture, epochs=1, precision="fp32", **more)
    curve = (dense / "history" / "curve.csv").read_text().splitlines()
    known = dict(zip(curve[0].split(","), curve[-1].split(","), strict=True))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(dense).eval(), AutoTokenizer.from_pretrained(dense)
    text = (place / "data" / "text" / "validation.txt").read_text()
    held_out = windows.validation_windows(encode(tokenizer, text), 16, 40)
    ids = torch.stack([window["input_ids"] for window in held_out])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = -logp.gather(-1, ids[:, 1:, None]).mean()
    assert float(known["validation_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_it_tells_its_own_epochs_and_not_those_of_the_library(place, capfd):
    run(place, epochs=3)
    told = capfd.readouterr()
    assert re.search(r"^epoch 3/3 · loss \d\.\d{3} · [\d.]+ k? ?tokens/s · 0:00 left$", told.out, re.MULTILINE)
    assert "'epoch'" not in told.out + told.err and "eval_loss" not in told.out + told.err


def fetched(place, renamed=lambda name: name):
    """A small GPT-2 as the stage fetch leaves one, its tensors under other names."""
    folder = tiny.dense_folder(place / "data" / "model", tiny.gpt2())
    (folder / "prunable.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    tensors = load_file(folder / "model.safetensors")
    save_file({renamed(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_a_fetched_model_is_taken_as_it_is_file_by_file_and_never_loaded(place, monkeypatch):
    from transformers import AutoModelForCausalLM

    source, load = fetched(place), AutoModelForCausalLM.from_pretrained

    def without_values(*path, **options):
        assert options["device_map"] == "meta", "it may not fit into memory"
        return load(*path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", without_values)
    (out := place / "dense").mkdir()
    training.take(source, 16, out)
    for path in source.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert json.loads((out / "prunable.json").read_text()) == models.prunable_tensors(tiny.gpt2())


def test_a_fetched_model_with_older_names_of_tensors_is_saved_under_today_s(place):
    source = fetched(place, lambda name: name.removeprefix("transformer."))
    (out := place / "dense").mkdir()
    training.take(source, 16, out)
    old, new = (load_file(folder / "model.safetensors") for folder in (source, out))
    names = {entry["name"] for entry in models.prunable_tensors(tiny.gpt2())}
    assert names <= set(new) and all(torch.equal(new[name], old[name.removeprefix("transformer.")]) for name in names)


def test_the_loss_that_is_not_finite_stops_the_run_and_names_the_step(place):
    with pytest.raises(InputError, match=r"training step \d+: the loss is (nan|inf)"):
        run(place, learning_rate=1e12, warmup_steps=0, max_grad_norm=1e30)
    assert not list((place / "dense").iterdir())


def test_early_stopping_ends_the_run_and_keeps_best_and_last(place):
    out = run(place, epochs=60, learning_rate=0.05, early_stopping_patience=1)
    rows = (out / "history" / "curve.csv").read_text().splitlines()[1:]
    assert len(rows) < 60
    best = load_file(out / "best" / "model.safetensors")
    last = load_file(out / "model.safetensors")
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_bad_settings_are_named(place):
    with pytest.raises(InputError, match="no causal LM 'gpt22'; nearest: gpt2"):
        run(place, "a", architecture="gpt22")
    with pytest.raises(InputError, match=r"train\.config\.n_layers: unknown"):
        run(place, "b", config={"n_layers": 2})
    with pytest.raises(InputError, match="exceeds the model's 16 positions"):
        run(place, "c", context=17)
    with pytest.raises(InputError, match="train.start: fetched, but fetch.model is null"):
        run(place, "d", start="fetched", tokenizer="fetched", architecture=None, config={})
    with pytest.raises(InputError, match="exceeds the model's 32 positions"):
        training.take(tiny.dense_folder(place / "small", tiny.gpt2()), 33, place)
    with pytest.raises(InputError, match="tracker.window counts back"):
        run(place, "e", tracker={**TRACKER, "window": 2}, early_stopping_patience=1)
