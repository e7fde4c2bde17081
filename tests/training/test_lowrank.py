"""Low-rank updates: seen from outside the plain model, whatever peft made of it; what is trained is what is said."""

import pytest
import torch

from prunelab.models import models
from prunelab.training import lowrank
from prunelab.training.tracker import WeightHistory
from tests.helpers import architectures, tiny

pytest.importorskip("peft")
IDS = torch.arange(20)[None] % 40


def llama():
    return architectures.build("llama")


def trained(model, new=(), steps=3):
    """peft's model around `model` after some steps of training."""
    torch.manual_seed(0)
    adapted = lowrank.adapt(model, models.prunable_tensors(model), 4, new)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted


@pytest.mark.parametrize("build", [tiny.gpt2, llama])
def test_the_plain_weights_of_an_adapted_model_are_those_that_it_has_when_it_is_merged(build):
    model = build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = trained(model)
    found = lowrank.plain(dict(model.named_parameters()), model)
    merged = lowrank.merge(adapted)
    named = dict(merged.named_parameters())
    assert merged is model and found.keys() == named.keys() == dict(build().named_parameters()).keys()
    for name, value in named.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    prunable = {tensor["name"] for tensor in models.prunable_tensors(model)}
    moved = {name for name, value in named.items() if not torch.equal(value, before[name])}
    assert moved == prunable


def test_what_was_made_here_is_trained_whole():
    model = llama()
    before = model.lm_head.weight.clone() if hasattr(model, "lm_head") else None
    lowrank.merge(trained(model, new=("lm_head.", "model.norm.")))
    assert not torch.equal(model.model.norm.weight, llama().model.norm.weight)
    assert before is None or model.lm_head.weight.shape == before.shape


def test_a_history_follows_the_weights_with_their_updates_in_them():
    model = llama()
    names = [tensor["name"] for tensor in models.prunable_tensors(model)]
    torch.manual_seed(0)
    adapted = lowrank.adapt(model, models.prunable_tensors(model), 4)
    history = WeightHistory(model, names, trajectories=2)
    seen = []
    for step in (1, 2):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.1)
        history.tick(model, step)
        seen.append(
            {
                name: value.detach().clone()
                for name, value in lowrank.plain(dict(model.named_parameters()), model).items()
            }
        )
    importance, average = history.importance(), history.average()
    assert set(importance) == set(names) == set(average)
    for name in names:
        assert torch.allclose(importance[name], (seen[0][name].abs() + 2 * seen[1][name].abs()) / 3, atol=1e-6)
        assert torch.allclose(average[name], (seen[0][name] + 2 * seen[1][name]) / 3, atol=1e-6)
    assert not torch.equal(seen[0][names[0]], seen[1][names[0]])
    lowrank.merge(adapted)
    history.tick(model, 3)  # as a plain model too
