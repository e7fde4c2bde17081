"""Training, the weight history, resuming, pruning along the way and recovery on a GPU."""

import csv
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from prunelab.disk.files import read_json
from prunelab.making import masking, steps
from prunelab.models import packed
from prunelab.recipes import variants
from prunelab.training.tracker import WeightHistory
from tests.gpu import both
from tests.helpers import tiny
from tests.training.test_training import same_files

pytestmark = pytest.mark.gpu
NAME = "transformer.h.0.attn.c_attn.weight"


class Watching(TrainerCallback):
    """Notes where the model trains, and breaks off after the step `last`, as a killed process would."""

    def __init__(self, last: int | None = None):
        self.last, self.devices = last, set()

    def on_step_end(self, args, state, control, model=None, **_):
        self.devices.add(model.device.type)
        if state.global_step == self.last:
            raise ConnectionAbortedError


def curve(dense):
    with open(dense / "history" / "curve.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_training_ends_where_it_ends_on_the_cpu(study):
    """60 steps of Adam in fp32. It divides a gradient by its own size, so where the gradient is nearly nothing a
    rounding decides the whole step: weights are apart by more than roundings, losses hardly."""
    found, expected = study.dense[both.GPU], study.dense["cpu"]
    rows, others = curve(found), curve(expected)
    assert [row["step"] for row in rows] == [row["step"] for row in others] == ["20", "40", "60"]
    for row, other in zip(rows, others, strict=True):
        for column in ("train_loss", "validation_loss"):
            assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-4)
        assert row["learning_rate"] == other["learning_rate"]
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"]) - 0.2  # it learns
    tensors = {entry["name"] for entry in read_json(found / "prunable.json")}
    for file in ("model.safetensors", "best/model.safetensors", "history/importance.safetensors"):
        one, other = load_file(found / file), load_file(expected / file)
        assert one.keys() == other.keys() >= tensors
        for name in tensors:
            assert both.apart(one[name], other[name]) < 1e-3, (file, name)


def test_training_in_bf16_ends_near_the_training_in_fp32(llama):
    wanted = both.settings(llama.folder, train=llama.settings.train.model_dump(mode="json") | {"precision": "bf16"})
    watching = Watching()
    out = both.train(llama.folder, "dense-bf16-gpu", both.GPU, wanted, [watching])
    assert watching.devices == {both.GPU}
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float32}
    found, expected = (float(curve(dense)[-1]["validation_loss"]) for dense in (out, llama.dense[both.GPU]))
    assert found != expected and found == pytest.approx(expected, rel=0.02)


def test_a_training_that_was_broken_off_ends_as_the_unbroken_one(gpt2, capfd):
    """To the bit, dropout included; that holds for shapes whose kernels add nothing up in an order left to chance."""
    config = both.CONFIGS["gpt2"] | {"resid_pdrop": 0.2}
    tracker = {"windows": {"half": 0.5}, "signed_sqrt": True, "tick": "steps", "every": 3}
    default = both.settings(gpt2.folder).train.model_dump(mode="json")
    changes = {"architecture": "gpt2", "config": config, "tracker": default["tracker"] | tracker}
    wanted = both.settings(gpt2.folder, train=changes)
    unbroken = both.train(gpt2.folder, "unbroken", both.GPU, wanted, [Watching()])
    with pytest.raises(ConnectionAbortedError):
        both.train(gpt2.folder, "broken", both.GPU, wanted, [Watching(last=47)])
    (gpt2.folder / "models" / "broken").rmdir()
    capfd.readouterr()
    watching = Watching()
    broken = both.train(gpt2.folder, "broken", both.GPU, wanted, [watching])
    assert "checkpoint-40" in capfd.readouterr().out
    assert watching.devices == {both.GPU}
    same_files(unbroken, broken)


def snapshots(model, count):
    """Take `count` random steps; yields the weights of each in float64 on the CPU."""
    torch.manual_seed(0)
    for _ in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape).to(parameter.device), alpha=0.1)
        yield {name: parameter.detach().cpu().double() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("memory", [None, "cpu"])
@pytest.mark.parametrize(
    ("weighting", "factor"),
    [("linear", lambda e: e), ("sqrt", math.sqrt), ("uniform", lambda e: 1), ("exponential", lambda e: 0.8 ** (9 - e))],
)
def test_the_history_of_a_model_on_a_gpu_agrees_with_a_loop_over_snapshots(weighting, factor, memory):
    model = tiny.gpt2()
    history = WeightHistory(model, [NAME], weighting=weighting, beta=0.8, trajectories=3, device=memory)
    model.to(both.GPU)  # a trainer moves it when the history is made already
    seen = []
    for weights in snapshots(model, 9):
        history.tick(model)
        seen.append(weights)
    found, average = history.importance()[NAME], history.average()
    assert found.device.type == (memory or both.GPU)
    factors = [factor(tick) for tick in range(1, 10)]

    def mean(name, change=lambda weights: weights):
        return sum(c * change(weights[name]) for c, weights in zip(factors, seen, strict=True)) / sum(factors)

    assert torch.allclose(found.cpu().double(), mean(NAME, torch.abs), rtol=1e-5, atol=1e-7)
    for name in ("transformer.wte.weight", "transformer.ln_f.bias", NAME):
        assert torch.allclose(average[name].cpu().double(), mean(name), rtol=1e-5, atol=1e-6)
    for row in history.trajectories():
        expected = seen[row["tick"] - 1][NAME].flatten()[row["index"]].item()
        assert row["value"] == pytest.approx(expected, rel=1e-6)


def test_a_history_that_is_saved_on_a_gpu_goes_on_to_the_bit(tmp_path):
    model = tiny.gpt2().to(both.GPU)
    unbroken, first = WeightHistory(model, [NAME], trajectories=3), WeightHistory(model, [NAME], trajectories=3)
    for tick, _ in enumerate(snapshots(model, 8)):
        unbroken.tick(model)
        if tick == 4:
            first.save(tmp_path)
            first = WeightHistory(model, [NAME], trajectories=3)
            first.load(tmp_path)
        first.tick(model)
    assert torch.equal(unbroken.importance()[NAME], first.importance()[NAME])
    assert unbroken.trajectories() == first.trajectories()


@pytest.mark.parametrize("method", ["gradual-magnitude", "movement"])
def test_a_model_that_is_pruned_while_it_trains_loses_what_was_asked(llama, method, tmp_path):
    gradual = {"begin_percent": 20, "end_percent": 80, "every_steps": 5}
    train = llama.settings.train.model_dump(mode="json")
    wanted = both.settings(llama.folder, train=train, prune={"methods": ["magnitude", method], "gradual": gradual})
    variant, kept = variants.parse(f"{method}-50"), {}
    for device in (both.GPU, "cpu"):
        with both.on(device, llama.folder):
            record = masking.mask(both.given(llama, wanted), variant, tmp_path / device)
        assert record["sparsity_pruned"] == pytest.approx(0.5, abs=1e-3)
        kept[device] = dict(packed.masks_of(tmp_path / device))
    found, expected = (torch.cat([mask.flatten() for mask in kept[device].values()]) for device in (both.GPU, "cpu"))
    # Trainings drift apart (above), and so do the ranks of weights near the cut.
    assert (found == expected).float().mean() > 0.95


def test_recovery_holds_the_zeros_and_lowers_the_loss_as_on_the_cpu(study, tmp_path):
    variant, made = variants.parse("magnitude-80-recovered"), {}
    masking.mask(both.given(study), variants.parse("magnitude-80"), tmp_path / "masked")
    for device in (both.GPU, "cpu"):
        with both.on(device, study.folder):
            made[device] = steps.recover(both.given(study), variant, tmp_path / "masked", tmp_path / device)["recovery"]
    found, expected = made[both.GPU], made["cpu"]
    assert found["validation_loss_before"] == pytest.approx(expected["validation_loss_before"], rel=1e-4)
    # Each trains in bf16 where it computes that natively, the other maybe not.
    assert found["validation_loss_after"] == pytest.approx(expected["validation_loss_after"], rel=0.02)
    assert found["validation_loss_after"] < found["validation_loss_before"]
    before, after = (dict(packed.masks_of(tmp_path / name)) for name in ("masked", both.GPU))
    assert all(torch.equal(after[name], keep) for name, keep in before.items())
