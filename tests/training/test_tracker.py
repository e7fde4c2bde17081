"""Weight history against a plain loop over stored snapshots."""

import math

import pytest
import torch

from prunelab.errors import InputError
from prunelab.training.tracker import WeightHistory, WeightHistoryCallback
from tests.helpers import tiny


def snapshots(model, count, seed=0):
    """Take `count` random steps; yields the model after each and collects copies of its weights."""
    torch.manual_seed(seed)
    for _ in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        yield {name: p.detach().double().clone() for name, p in model.named_parameters()}


def coefficient(weighting, tick, last, beta):
    return {"linear": tick, "sqrt": math.sqrt(tick), "uniform": 1.0, "exponential": beta ** (last - tick)}[weighting]


@pytest.mark.parametrize("value", ["absolute", "signed"])
@pytest.mark.parametrize("weighting", ["linear", "sqrt", "uniform", "exponential"])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_the_accumulator_agrees_with_a_loop_over_snapshots(value, weighting, window):
    model = tiny.gpt2()
    name = "transformer.h.0.attn.c_attn.weight"
    history = WeightHistory(model, [name], value=value, weighting=weighting, beta=0.8, window=window, total_ticks=9)
    seen = []
    for weights in snapshots(model, 9):
        history.tick(model)
        seen.append(weights)
    counted = list(enumerate(seen, start=1))[-window if window else 0 :]
    factors = [coefficient(weighting, tick, 9, 0.8) for tick, _ in counted]

    def mean(of, transform):
        return sum(c * transform(w[of]) for c, (_, w) in zip(factors, counted, strict=True)) / sum(factors)

    expected = mean(name, torch.abs if value == "absolute" else lambda w: w)
    assert torch.allclose(history.importance()[name].double(), expected, rtol=1e-5, atol=1e-7)
    for other in ("transformer.wte.weight", "transformer.ln_f.bias", name):
        assert torch.allclose(history.average()[other].double(), mean(other, lambda w: w), rtol=1e-5, atol=1e-6)


def test_the_paper_s_formula_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    history = WeightHistory(model, ["weight"])
    for value in (1.0, -2.0, 4.0):
        model.weight.data.fill_(value)
        history.tick(model)
    assert history.importance()["weight"].item() == pytest.approx((1 * 1 + 2 * 2 + 3 * 4) / 6)
    assert history.average()["weight"].item() == pytest.approx((1 * 1 - 2 * 2 + 3 * 4) / 6)


def test_a_window_of_one_tick_is_the_final_magnitude():
    model = tiny.gpt2()
    name = "transformer.h.1.mlp.c_fc.weight"
    history = WeightHistory(model, [name], window=1, total_ticks=5)
    for _ in snapshots(model, 5):
        history.tick(model)
    assert torch.allclose(history.importance()[name], dict(model.named_parameters())[name].abs(), rtol=1e-6)


def test_two_fp32_copies_at_most_and_one_where_signed():
    model = tiny.gpt2()
    names = [n for n, p in model.named_parameters() if p.dim() == 2]

    def bytes_held(value):
        history = WeightHistory(model, names, value=value)
        tensors = [*history._average.values(), *history._importance.values()]
        return sum(t.nbytes for t in {id(t): t for t in tensors}.values())

    every = sum(p.numel() * 4 for p in model.parameters())
    assert bytes_held("absolute") <= 2 * every
    assert bytes_held("signed") == every


def test_state_that_is_saved_and_loaded_goes_on_to_the_bit(tmp_path):
    model = tiny.gpt2()
    name = "transformer.h.0.mlp.c_fc.weight"

    def new():
        return WeightHistory(model, [name], weighting="exponential", trajectories=3, seed=5)

    unbroken, first = new(), new()
    for tick, _ in enumerate(snapshots(model, 8)):
        unbroken.tick(model, step=10 * tick)
        if tick == 4:
            first.save(tmp_path)
            first = new()
            first.load(tmp_path)
        first.tick(model, step=10 * tick)
    assert torch.equal(unbroken.importance()[name], first.importance()[name])
    assert torch.equal(unbroken.average()[name], first.average()[name])
    assert unbroken.trajectories() == first.trajectories() and len(first.trajectories()) == 8 * 3


def test_trajectories_are_the_weights_themselves():
    model = tiny.gpt2()
    name = "transformer.h.0.attn.c_proj.weight"
    history = WeightHistory(model, [name], trajectories=4)
    values = []
    for weights in snapshots(model, 3):
        history.tick(model)
        values.append(weights[name].flatten())
    for row in history.trajectories():
        assert row["value"] == pytest.approx(values[row["tick"] - 1][row["index"]].item(), rel=1e-6)


def test_weights_that_are_named_are_followed_beside_those_that_chance_chose():
    model = tiny.gpt2()
    name, other = "transformer.h.0.attn.c_proj.weight", "transformer.ln_f.weight"
    drawn = WeightHistory(model, [name], trajectories=2)
    history = WeightHistory(model, [name], trajectories=2, named={name: [0, 7], other: [3]})
    values = []
    for weights in snapshots(model, 2):
        history.tick(model)
        drawn.tick(model)
        values.append(weights)
    rows = history.trajectories()
    assert {(row["tensor"], row["index"]) for row in rows if row["named"]} == {(name, 0), (name, 7), (other, 3)}
    by_chance = {row["index"] for row in drawn.trajectories()}
    assert {row["index"] for row in rows if row["tensor"] == name} == by_chance | {0, 7}
    for row in rows:
        expected = values[row["tick"] - 1][row["tensor"]].flatten()[row["index"]].item()
        assert row["value"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"transformer.h.9.weight": [0]}, "the model has no parameter 'transformer.h.9.weight'"),
        (
            {"transformer.ln_f.bias": [1, 10**6]},
            r"'transformer.ln_f.bias' has \d+ weights, so there is none of index 1000000",
        ),
    ],
)
def test_a_weight_that_is_not_there_is_told(named, told):
    with pytest.raises(InputError, match=told):
        WeightHistory(tiny.gpt2(), [], named=named)


def test_a_state_of_other_options_is_refused(tmp_path):
    model = tiny.gpt2()
    history = WeightHistory(model, [], weighting="linear")
    history.tick(model)
    history.save(tmp_path)
    with pytest.raises(InputError, match="this run asks for"):
        WeightHistory(model, [], weighting="sqrt").load(tmp_path)


def test_mistakes_are_named(tmp_path):
    model = tiny.gpt2()
    with pytest.raises(InputError, match="no parameter 'transformer.nothing'"):
        WeightHistory(model, ["transformer.nothing"])
    with pytest.raises(InputError, match="total_ticks"):
        WeightHistory(model, [], window=3)
    with pytest.raises(InputError, match="no tick was taken"):
        WeightHistory(model, []).importance()
    with pytest.raises(InputError, match="no weight history in this checkpoint"):
        WeightHistory(model, []).load(tmp_path)


class Alone(torch.nn.Module):
    """A module of one's own that happens to call its only layer `module`: no wrapper."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(2, 1, bias=False)


WRAPS = {
    "compiled": torch.compile,
    "parallel": torch.nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "compiled-parallel": lambda model: torch.compile(torch.nn.DataParallel(model)),
    "parallel-compiled": lambda model: torch.nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("first", ["plain", "wrapped"])
def test_a_wrapped_model_has_the_history_of_the_model_inside(wrap, first):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))
    wrapped = WRAPS[wrap](model)
    inside = dict(wrapped.named_parameters())
    made_of = (model, ["0.weight"]) if first == "plain" else (wrapped, list(inside))
    history = WeightHistory(*made_of, trajectories=1)
    for tick, value in enumerate((1.0, -2.0, 4.0)):
        for parameter in (*inside.values(), model[0].weight):
            parameter.data.fill_(value)
        history.tick(wrapped if tick % 2 else model)
    assert history.importance()["0.weight"].item() == pytest.approx((1 * 1 + 2 * 2 + 3 * 4) / 6)
    assert history.average().keys() == {"0.weight"}
    assert [row["tensor"] for row in history.trajectories()] == ["0.weight"] * 3


def test_a_part_that_is_compiled_keeps_its_name():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))
    history = WeightHistory(model, ["0.weight"])
    model[0] = torch.compile(model[0])
    history.tick(model)
    assert torch.equal(history.importance()["0.weight"], model[0].weight.abs())


def test_a_layer_that_is_called_module_is_no_wrapper():
    model = Alone()
    history = WeightHistory(model, ["module.weight"])
    history.tick(model)
    assert torch.equal(history.importance()["module.weight"], model.module.weight.abs())


def test_a_signed_importance_of_a_frozen_parameter_is_refused_and_an_absolute_one_is_not():
    model = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    with pytest.raises(InputError, match="'weight' is frozen, so it has no signed mean"):
        WeightHistory(model, ["weight"], value="signed")
    history = WeightHistory(model, ["weight"])
    history.tick(model)
    assert history.importance()["weight"].item() == abs(model.weight.item()) and history.average() == {}


def test_a_parameter_that_is_gone_or_has_another_shape_is_told_and_nothing_is_counted():
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    history = WeightHistory(model, ["0.weight"], trajectories=1)
    history.tick(model)
    before = history.importance()["0.weight"].clone()
    for other, found in (
        (torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False)), r"has become \(1, 3\)"),
        (torch.nn.Sequential(torch.nn.ReLU()), "is gone"),
    ):
        with pytest.raises(InputError, match=rf"'0.weight' of shape \(1, 2\) {found} since the history began"):
            history.tick(other)
    assert history.ticks == 1 and len(history.trajectories()) == 1
    assert torch.equal(history.importance()["0.weight"], before)


def test_a_parameter_that_is_tied_or_frozen_later_is_still_followed():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1, bias=False), "b": torch.nn.Linear(1, 1, bias=False)})
    history = WeightHistory(model, ["b.weight"])
    model["a"].weight.data.fill_(3.0)
    model["b"].weight = model["a"].weight  # named_parameters() lists it once, as a.weight
    model.requires_grad_(False)
    history.tick(model)
    assert history.importance()["b.weight"].item() == 3.0
    assert {name: mean.item() for name, mean in history.average().items()} == {"a.weight": 3.0, "b.weight": 3.0}


@pytest.mark.parametrize("value", ["absolute", "signed"])
def test_a_model_that_moves_to_another_device_takes_its_history_along(value):
    model = torch.nn.Linear(1, 1, bias=False)
    history = WeightHistory(model, ["weight"], value=value)
    history.tick(model)
    history.tick(model.to("meta"))
    assert history.importance()["weight"].device.type == history.average()["weight"].device.type == "meta"


def notebook_trainer(folder, model, history, tick, every):
    """A Trainer as a notebook would write one: 10 samples in batches of 2, so 5 steps an epoch."""
    from transformers import Trainer, TrainingArguments

    rows = torch.arange(10 * 8).view(10, 8) % 40
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=3, per_device_train_batch_size=2, save_strategy="epoch",
        report_to="none", disable_tqdm=True, use_cpu=True, seed=1,
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in rows]
    callback = WeightHistoryCallback(history, tick=tick, every=every)
    return Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])


NAME = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("tick", "every", "steps"), [("epoch", 1, [5, 10, 15]), ("epoch", 2, [10]), ("steps", 4, [4, 8, 12])]
)
def test_the_callback_ticks_in_a_trainer_of_one_s_own(tmp_path, tick, every, steps):
    model = tiny.gpt2()
    history = WeightHistory(model, [NAME], trajectories=2)
    notebook_trainer(tmp_path, model, history, tick, every).train()
    assert sorted({row["step"] for row in history.trajectories()}) == steps
    final = dict(model.named_parameters())[NAME].detach().flatten()
    if steps[-1] == 15:
        last = [row for row in history.trajectories() if row["step"] == 15]
        assert all(row["value"] == pytest.approx(final[row["index"]].item()) for row in last)


def test_a_resumed_trainer_of_one_s_own_ends_with_the_same_history(tmp_path):
    ended = []
    for checkpoint in (None, str(tmp_path / "checkpoint-10")):
        model = tiny.gpt2()
        history = WeightHistory(model, [NAME], trajectories=2)
        notebook_trainer(tmp_path, model, history, "epoch", 1).train(resume_from_checkpoint=checkpoint)
        ended.append(history)
    unbroken, resumed = ended
    assert resumed.ticks == unbroken.ticks == 3
    assert torch.equal(resumed.importance()[NAME], unbroken.importance()[NAME])
    assert resumed.trajectories() == unbroken.trajectories()
