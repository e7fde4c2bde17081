"""Pruning while training: the schedule by hand, movement against a loop with explicit masks, resumes, the stage."""

from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, models, packed
from prunelab.pruning import masks
from prunelab.pruning.traintime import GradualMagnitude, Movement, Schedule
from prunelab.study import params
from stages import prune
from tests.helpers import tiny
from tests.training import test_training

STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These models are so small that sharing their work among threads costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_sparsity_rises_along_the_cubic_and_stays_at_its_end():
    schedule = Schedule(0.8, begin=0.2, end=0.6, every=2)
    found = {step: schedule.at(step, 20) for step in range(1, 21)}
    assert [step for step, sparsity in found.items() if sparsity is not None] == [4, 6, 8, 10, 12]
    # By hand: progress 0, 1/4, 1/2, 3/4, 1 → 1 - (1 - p)³ = 0, 37/64, 7/8, 63/64, 1.
    expected = [0, 0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8]
    assert [found[step] for step in (4, 6, 8, 10, 12)] == pytest.approx(expected)


def test_the_target_is_met_also_where_the_interval_does_not_divide_the_way():
    schedule = Schedule(0.5, begin=0.1, end=0.9, every=7)
    assert schedule.at(18, 20) == pytest.approx(0.5)


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 40, (STEPS, 4, 16), generator=generator)


def train(pruner, first=0, last=STEPS, model=None, optimizer=None, folder=None, watch=None):
    """The events of a Trainer around plain optimizer steps; returns model and optimizer."""
    model = model or tiny.gpt2()
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    args = SimpleNamespace(output_dir=str(folder))
    state = SimpleNamespace(global_step=first, max_steps=STEPS)
    pruner.on_train_begin(args, state, None, model=model)
    for tokens in batches()[first:last]:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        if isinstance(pruner, Movement):
            pruner.on_pre_optimizer_step(args, state, None, model=model)
        optimizer.step()
        state.global_step += 1
        pruner.on_step_end(args, state, None, model=model)
        if watch:
            watch(state.global_step, model)
    if last < STEPS:
        (folder / f"checkpoint-{last}").mkdir(parents=True)
        pruner.on_save(args, state, None)
    return model, optimizer


SCHEDULE = Schedule(0.6, begin=0.1, end=0.7, every=3)


@pytest.mark.parametrize("jointly", [False, True])
def test_gradual_magnitude_removes_the_exact_share_and_never_gives_a_weight_back(jointly):
    pruner, zeros = GradualMagnitude("blocks", SCHEDULE, jointly), {}

    def watch(step, model):
        for name in pruner.names:
            now = model.get_parameter(name) == 0
            assert (now >= zeros.get(name, torch.zeros_like(now))).all()
            zeros[name] = now.clone()

    model, _ = train(pruner, watch=watch)
    shapes = {t["name"]: t["shape"] for t in models.prunable_tensors(model)}
    assert set(zeros) == set(shapes)
    if jointly:
        assert sum(int(z.sum()) for z in zeros.values()) == round(0.6 * sum(z.numel() for z in zeros.values()))
        assert len({int(z.sum()) / z.numel() for z in zeros.values()}) > 1
    else:
        for name, zero in zeros.items():
            assert int(zero.sum()) == round(0.6 * zero.numel()), name
    assert int((model.transformer.wte.weight == 0).sum()) == 0


def movement_by_hand(sparsity_at):
    """The published rule with explicit masks: forward with W∘M, W and S updated from the gradient of W∘M."""
    model = tiny.gpt2()
    names = [tensor["name"] for tensor in models.prunable_tensors(model)]
    weights = {name: model.get_parameter(name).detach().clone() for name in names}
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    keep = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step, tokens in enumerate(batches(), start=1):
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).copy_(weights[name] * keep[name])
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            for name in names:
                parameter = model.get_parameter(name)
                scores[name] += -parameter.grad * weights[name]
                parameter.grad *= keep[name]
                parameter.copy_(weights[name])
        optimizer.step()
        with torch.no_grad():
            weights = {name: model.get_parameter(name).detach().clone() for name in names}
        if (sparsity := sparsity_at(step)) is not None:
            every = torch.cat([score.flatten() for score in scores.values()])
            parts = masks.lowest(every, sparsity).split([score.numel() for score in scores.values()])
            keep = {name: part.view(scores[name].shape) for name, part in zip(names, parts, strict=True)}
    return {name: weights[name] * keep[name] for name in names}


def test_movement_agrees_with_a_loop_that_keeps_masks_and_weights_apart():
    model, _ = train(Movement("blocks", SCHEDULE))
    expected = movement_by_hand(lambda step: SCHEDULE.at(step, STEPS))
    for name, weight in expected.items():
        assert torch.equal(model.get_parameter(name), weight), name
    removed = sum(int((weight == 0).sum()) for weight in expected.values())
    assert removed == round(0.6 * sum(weight.numel() for weight in expected.values()))


@pytest.mark.parametrize("kind", [GradualMagnitude, Movement])
@pytest.mark.parametrize("cut", [1, 9, 17])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, kind, cut):
    unbroken, _ = train(kind("blocks", SCHEDULE))
    model, optimizer = train(kind("blocks", SCHEDULE), last=cut, folder=tmp_path)
    resumed, _ = train(kind("blocks", SCHEDULE), cut, STEPS, model, optimizer, tmp_path)
    for name, parameter in unbroken.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_only_the_weights_in_scope_are_pruned():
    model, _ = train(Movement("attention", SCHEDULE))
    assert all((model.get_parameter(t["name"]) == 0).any() == (t["role"] == "attention")
               for t in models.prunable_tensors(model))  # fmt: skip


def test_a_checkpoint_without_movement_scores_cannot_be_continued(tmp_path):
    with pytest.raises(InputError, match="no movement scores in this checkpoint"):
        train(Movement("blocks", SCHEDULE), first=3, folder=tmp_path)


def test_a_run_too_short_for_its_schedule_is_refused():
    with pytest.raises(InputError, match=r"20 training steps leave none between begin_percent 50 and end_percent 51"):
        train(GradualMagnitude("blocks", Schedule(0.5, begin=0.5, end=0.51)))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_training.write_text(tmp_path / "data")
    test_training.write_settings(tmp_path)
    yaml = YAML(typ="safe", pure=True)
    settings = yaml.load(tmp_path / "params.yaml")
    settings["prune"] |= {"methods": ["gradual-magnitude", "movement"], "rates": [50]}
    settings["prune"]["gradual"] = {"begin_percent": 20, "end_percent": 80, "every_steps": 5}
    settings["efficiency"]["methods"] = []
    yaml.dump(settings, tmp_path / "params.yaml")
    return tmp_path


@pytest.mark.parametrize("method", ["gradual-magnitude", "movement"])
def test_the_stage_trains_a_pruned_model_and_leaves_a_variant_like_any_other(study, method):
    prune.main([f"{method}-50", "--dense", "unused", "--data", "data", "--out", f"models/{method}-50"])
    found = dict(packed.masks_of(f"models/{method}-50"))
    zeros, size = sum(int((~keep).sum()) for keep in found.values()), sum(keep.numel() for keep in found.values())
    assert zeros == pytest.approx(0.5 * size, abs=len(found))
    weights = dict(packed.unpacked(f"models/{method}-50"))
    assert all((weights[name][~keep] == 0).all() for name, keep in found.items())
    record = read_json(f"models/{method}-50/sparsity.json")
    assert record["allocation"] == ("global" if method == "movement" else "uniform")
    assert record["sparsity_pruned"] == pytest.approx(0.5, abs=0.01)
    checkpoint.load(f"models/{method}-50")
    assert sorted(path.name for path in (study / "models").iterdir()) == [f"{method}-50"]
    assert [path.name for path in (study / "checkpoints").iterdir()] == ["beginnings"]  # the note of where it is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradual": None}, "gradual: gradual-magnitude prunes while it trains; fill this section in"),
        ({"rates": ["2of4"]}, "gradual-magnitude: 2of4: it follows a schedule of percents"),
        ({"methods": ["movement-owl"]}, "movement-owl: prune.allocation: owl cannot"),
        ({"gradual": {"begin_percent": 60, "end_percent": 40, "every_steps": 5}}, "60 must be below end_percent: 40"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(study, changes, message):
    yaml = YAML(typ="safe", pure=True)
    settings = yaml.load(study / "params.yaml")
    settings["prune"] |= changes
    yaml.dump(settings, study / "params.yaml")
    with pytest.raises(InputError, match=message):
        params.load()
