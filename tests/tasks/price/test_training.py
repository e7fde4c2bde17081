"""A model of prices through the training that texts have: it continues where it was cut off, full or by low rank."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from prunelab import tasks
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.tasks.price import about
from prunelab.tasks.price.seeing import processing
from prunelab.training import training
from tests.helpers import seeing

PRICE = tasks.of("price")


class Cut(TrainerCallback):
    """Ends the process, as a kill would, behind the checkpoint of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seeing.rows(tmp_path / "data", "LLaVA")
    (tmp_path / "data" / "model").symlink_to(seeing.model_of("LLaVA"))
    return tmp_path


def run(place, name, settings, callbacks=()):
    out = place / name
    out.mkdir()
    training.run(settings, PRICE, place / "data", out, 1, callbacks)
    return out


@pytest.mark.parametrize("trained", [{}, {"parameters": "lora", "lora_rank": 2}])
def test_cut_off_it_continues_and_ends_as_if_it_had_not_been(place, trained, capsys):
    if trained:
        pytest.importorskip("peft")
    settings = seeing.settings({"epochs": 3, **trained})
    whole = run(place, "whole", settings, [Cut(99)])
    with pytest.raises(KeyboardInterrupt):
        run(place, "cut", settings, [Cut(2)])
    again = run(place, "again", settings, [Cut(99)])
    assert "continuing from" in capsys.readouterr().out
    for name in ("model.safetensors", "best/model.safetensors", "history/importance.safetensors"):
        one, other = load_file(whole / name), load_file(again / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert (whole / "history" / "curve.csv").read_text() == (again / "history" / "curve.csv").read_text()


def test_what_is_written_is_a_whole_model_with_its_processor(place):
    dense = run(place, "dense", seeing.settings())
    start = load_file(seeing.model_of("LLaVA") / "model.safetensors")
    model = checkpoint.load(dense)
    state, best = model.state_dict(), load_file(dense / "best" / "model.safetensors")
    assert best.keys() == load_file(dense / "model.safetensors").keys() and len(state) == len(start)
    prunable = {entry["name"] for entry in json.loads((dense / "prunable.json").read_text())}
    assert set(load_file(dense / "history" / "importance.safetensors")) == prunable
    assert processing.of_folder(dense).place == "<image>" and (dense / "price.json").exists()


def test_a_model_that_is_taken_as_it_is_can_be_asked_for_prices_and_new_eyes_cannot(place):
    dense = run(place, "dense", seeing.settings({"epochs": 0}, prune={"methods": ["magnitude"]}))
    asked = about.read(dense)
    assert (asked["prompt"], asked["answer"]) == ("{picture}{rooms} rooms:", "{price}")
    with pytest.raises(InputError, match="train.epochs: 0, but the eyes of price.tower are new"):
        eyes = {"tower": dict(vars(seeing.SMALL))}
        PRICE.check(seeing.settings({"epochs": 0}, prune={"methods": ["magnitude"]}, price=eyes))


def test_low_rank_updates_leave_all_but_the_language_model_s_layers(place):
    pytest.importorskip("peft")
    dense = run(place, "dense", seeing.settings({"parameters": "lora", "lora_rank": 2, "epochs": 1}))
    before, after = checkpoint.load(seeing.model_of("LLaVA")).state_dict(), checkpoint.load(dense).state_dict()
    prunable = {entry["name"] for entry in json.loads((dense / "prunable.json").read_text())}
    assert {name for name in before if not torch.equal(before[name], after[name])} == prunable


def test_a_tower_that_is_tracked_has_a_history_of_its_own(place):
    dense = run(place, "dense", seeing.settings({"epochs": 1}, prune={"towers": ["language", "vision"]}))
    kept = set(load_file(dense / "history" / "importance.safetensors"))
    assert any("vision_tower" in name for name in kept) and any("language_model" in name for name in kept)
