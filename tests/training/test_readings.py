"""Further readings of one training against a plain loop over its snapshots."""

import math
from types import SimpleNamespace

import pytest
import torch

from prunelab.errors import InputError
from prunelab.training.readings import histories
from prunelab.training.tracker import WeightHistoryCallback
from tests.helpers import tiny

NAME = "transformer.h.0.attn.c_attn.weight"
TICKS = 8


def tracker(**changes):
    """The section train.tracker with two windows and the signed mean."""
    options = {"value": "absolute", "weighting": "linear", "beta": 0.9, "window": None}
    options |= {"trajectories": SimpleNamespace(random=2, tensors=[], indices=[])}
    options |= {"memory": "model", "windows": {"half": 0.5, "quarter": 0.25}, "signed_sqrt": True}
    return SimpleNamespace(**options | changes)


@pytest.fixture(scope="module")
def followed():
    """The histories of a model that took random steps, and its weights after each."""
    model = tiny.gpt2()
    history, readings = histories(tracker(), model, [NAME], TICKS, seed=0)
    callback, seen = WeightHistoryCallback(history, "steps", 1, readings), []
    torch.manual_seed(0)
    for step in range(1, TICKS + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        callback.on_step_end(None, SimpleNamespace(global_step=step), None, model=model)
        seen.append({name: parameter.detach().double().clone() for name, parameter in model.named_parameters()})
    return history, readings, seen


def mean(values, factors):
    return sum(factor * value for factor, value in zip(factors, values, strict=True)) / sum(factors)


@pytest.mark.parametrize(("name", "first"), [(None, 1), ("half", 5), ("quarter", 7)])
def test_a_window_is_the_weighted_mean_over_its_own_ticks_and_so_is_its_clone(followed, name, first):
    history, readings, seen = followed
    found = history if name is None else readings[name]
    ticks = range(first, TICKS + 1)
    magnitudes = [seen[tick - 1][NAME].abs() for tick in ticks]
    assert torch.allclose(found.importance()[NAME].double(), mean(magnitudes, ticks), rtol=1e-5)
    for other in ("transformer.wte.weight", NAME):
        expected = mean([seen[tick - 1][other] for tick in ticks], ticks)
        assert torch.allclose(found.average()[other].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_signed_mean_has_the_square_roots_of_the_ticks_as_its_weights(followed):
    _, readings, seen = followed
    expected = mean([weights[NAME] for weights in seen], [math.sqrt(tick) for tick in range(1, TICKS + 1)])
    assert torch.allclose(readings["signed-sqrt"].importance()[NAME].double(), expected, rtol=1e-5, atol=1e-6)


def test_only_the_tracker_s_own_history_has_trajectories_and_it_is_that_of_a_run_without_readings(followed):
    history, readings, _ = followed
    assert len(history.trajectories()) == 2 * TICKS
    assert not any(reading.trajectories() for reading in readings.values())
    alone, none = histories(tracker(windows={}, signed_sqrt=False), tiny.gpt2(), [NAME], TICKS, seed=0)
    assert none == {} and alone.options() == {**history.options(), "ticks": 0}


def test_a_window_of_a_training_with_few_ticks_holds_one_at_least():
    _, readings = histories(tracker(windows={"quarter": 0.25}), tiny.gpt2(), [NAME], 1, seed=0)
    assert readings["quarter"].window == 1


def test_readings_are_in_every_checkpoint_and_go_on_from_it_to_the_bit(tmp_path):
    def callback():
        history, readings = histories(tracker(), model, [NAME], TICKS, seed=0)
        return WeightHistoryCallback(history, "steps", 1, readings)

    model = tiny.gpt2()
    arguments = SimpleNamespace(output_dir=str(tmp_path))
    unbroken, broken = callback(), callback()
    torch.manual_seed(0)
    for step in range(1, TICKS + 1):
        with torch.no_grad():
            model.get_parameter(NAME).add_(torch.randn_like(model.get_parameter(NAME)))
        state = SimpleNamespace(global_step=step)
        unbroken.on_step_end(arguments, state, None, model=model)
        broken.on_step_end(arguments, state, None, model=model)
        if step == 6:
            (tmp_path / "checkpoint-6").mkdir()
            broken.on_save(arguments, state, None)
            broken = callback()
            broken.on_train_begin(arguments, state, None)
    for name, reading in unbroken.readings.items():
        assert torch.equal(reading.importance()[NAME], broken.readings[name].importance()[NAME]), name
        assert torch.equal(reading.average()[NAME], broken.readings[name].average()[NAME]), name


def test_a_checkpoint_without_a_reading_that_is_asked_for_is_refused(tmp_path):
    model = tiny.gpt2()
    arguments, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=1)
    (tmp_path / "checkpoint-1").mkdir()
    WeightHistoryCallback(histories(tracker(windows={}), model, [NAME], TICKS, 0)[0]).on_save(arguments, state, None)
    history, readings = histories(tracker(), model, [NAME], TICKS, 0)
    callback = WeightHistoryCallback(history, "steps", 1, readings)
    with pytest.raises(InputError, match="half.*: no weight history in this checkpoint"):
        callback.on_train_begin(arguments, state, None)
