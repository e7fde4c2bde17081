"""Importances against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from prunelab.calibration.samples import split
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.structure import importance, structure
from prunelab.structure.importance import Evidence, Inputs
from tests.helpers import architectures


def test_statistics_in_one_pass_equal_those_of_everything_at_once():
    x = torch.randn(7, 5, 3, dtype=torch.float32) * 4 + 10
    seen = Inputs()
    for part in x.split([1, 4, 2]):
        seen.add(part)
    flat = x.flatten(0, 1)
    assert torch.allclose(seen.mean, flat.mean(0), atol=1e-5)
    assert torch.allclose(seen.variance, flat.var(0, correction=0), rtol=1e-4)
    assert torch.allclose(seen.norm, flat.norm(dim=0), rtol=1e-5)


class Toy(nn.Module):
    """A gated MLP of three neurons with weights to calculate with by hand."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(2, 3, bias=False)
        self.up = nn.Linear(2, 3, bias=False)
        self.down = nn.Linear(3, 2, bias=False)
        self.gate.weight.data = torch.tensor([[1.0, -2.0], [0.0, 1.0], [3.0, 3.0]])
        self.up.weight.data = torch.tensor([[2.0, 2.0], [5.0, -1.0], [0.0, 1.0]])
        self.down.weight.data = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 3.0, 0.0]])


NEURONS = structure.Site(
    0,
    3,
    (structure.Part("gate", 1, False), structure.Part("up", 1, False)),
    structure.Part("down", 1, False),
)


def seen(*rows):
    inputs = Inputs()
    inputs.add(torch.tensor(rows))
    return {"down": inputs}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Var(x) = (1, 4, 0); column sums of squares of down: (2, 9, 4)
        ("flap", [2.0, 36.0, 0.0]),
        # ‖x‖ = (2, sqrt(8 + 0), sqrt(18)) for the rows below; column sums of |down|: (2, 3, 2)
        ("wanda", [2 * 2**0.5, 3 * 8**0.5, 2 * 18**0.5]),
        ("norms", [3 * 4.0, 1 * 6.0, 6 * 1.0]),
        # unbiased variance of two numbers: half the squared difference
        ("variance", [4.5 + 0.0, 0.5 + 18.0, 0.0 + 0.5]),
        ("maxabs", [2 + 2.0, 1 + 5.0, 3 + 1.0]),
    ],
)
def test_importances_of_neurons_by_hand(kind, expected):
    evidence = Evidence(inputs=seen([1.0, 2.0, 3.0], [-1.0, -2.0, 3.0]))
    found = importance.of_units(Toy(), NEURONS, kind, evidence)
    assert torch.allclose(found, torch.tensor(expected)), found


def test_history_and_taylor_sum_over_all_weights_of_a_unit():
    values = {
        "gate.weight": torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 2.0]]),
        "up.weight": torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]),
        "down.weight": torch.tensor([[0.5, 0.0, 1.0], [0.5, 0.0, 1.0]]),
    }
    assert importance.of_units(Toy(), NEURONS, "taylor", Evidence(taylor=values)).tolist() == [4.0, 3.0, 4.0]
    signed = {name: -value for name, value in values.items()}  # a signed history ranks by its size
    assert importance.of_units(Toy(), NEURONS, "history", Evidence(history=signed)).tolist() == [4.0, 3.0, 4.0]


def test_a_group_of_heads_sums_over_its_columns():
    site = structure.Site(0, 2, (structure.Part("gate", 2, False),), structure.Part("wide", 2, False))
    toy = nn.Module()
    toy.wide = nn.Linear(4, 1, bias=False)
    toy.wide.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    inputs = Inputs()
    inputs.add(torch.tensor([[1.0, 1.0, 0.0, 2.0], [-1.0, 1.0, 0.0, -2.0]]))  # variances 1, 0, 0, 4
    assert importance.of_units(toy, site, "flap", Evidence({"wide": inputs})).tolist() == [1.0, 64.0]
    with pytest.raises(InputError, match="importances of neurons, not of heads"):
        importance.of_units(toy, site, "norms", Evidence())


def test_conv1d_and_linear_give_the_same_importances():
    model = architectures.build("gpt2")
    site = structure.mlp_sites(model)[0]
    plain = nn.Module()
    plain.fc1, plain.fc2 = nn.Linear(24, 96, bias=False), nn.Linear(96, 24, bias=False)
    plain.fc1.weight.data = model.transformer.h[0].mlp.c_fc.weight.data.T
    plain.fc2.weight.data = model.transformer.h[0].mlp.c_proj.weight.data.T
    same = structure.Site(0, 96, (structure.Part("fc1", 1, False),), structure.Part("fc2", 1, False))
    inputs = Inputs()
    inputs.add(torch.randn(50, 96))
    for kind in ("flap", "wanda", "norms", "variance", "maxabs"):
        one = importance.of_units(model, site, kind, Evidence({site.reader.module: inputs}))
        assert torch.allclose(one, importance.of_units(plain, same, kind, Evidence({"fc2": inputs}))), kind


def test_watched_inputs_are_those_of_the_reader():
    model = architectures.build("llama")
    sites = structure.mlp_sites(model)
    found = importance.watch_inputs(model, sites, split({"input_ids": architectures.IDS}, 1))
    kept = {}
    handle = model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.update(x=args[0]))
    with torch.no_grad():
        model(input_ids=architectures.IDS)
    handle.remove()
    assert torch.allclose(found["model.layers.2.mlp.down_proj"].mean, kept["x"].flatten(0, 1).mean(0), atol=1e-5)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_taylor_is_weight_times_gradient_and_leaves_no_gradients_behind():
    model = architectures.build("llama")
    sites = structure.mlp_sites(model)
    found = importance.watch_gradients(model, sites, [{"input_ids": architectures.IDS}])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model(input_ids=architectures.IDS, labels=architectures.IDS).loss.backward()
    weight = model.model.layers[1].mlp.up_proj.weight
    expected = (weight * weight.grad).abs()
    assert torch.allclose(found["model.layers.1.mlp.up_proj.weight"], expected, rtol=1e-4, atol=1e-8)


def test_influence_is_one_minus_the_cosine_of_what_enters_and_leaves():
    model = architectures.build("opt")
    found = importance.influence(model, split({"input_ids": architectures.IDS}, 2))
    with torch.no_grad():
        states = model.model(input_ids=architectures.IDS, output_hidden_states=True).hidden_states
    blocks = len(models.decoder_blocks(model)[1])
    for index in range(blocks - 1):  # the last of `hidden_states` has passed the final norm
        cosine = torch.nn.functional.cosine_similarity(states[index], states[index + 1], dim=-1).mean()
        assert abs(found[index] - (1 - cosine)) < 1e-5


def test_what_fills_a_sample_up_counts_in_no_importance():
    model = architectures.build("llama")
    sites, ids = structure.mlp_sites(model), architectures.IDS[:2]
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    together, alone = [{"input_ids": ids, "attention_mask": mask}], [{"input_ids": ids[:1]}, {"input_ids": ids[1:, :5]}]
    found, expected = (importance.watch_inputs(model, sites, batches) for batches in (together, alone))
    for name, seen in found.items():
        assert seen.count == expected[name].count == ids.shape[1] + 5
        assert torch.allclose(seen.mean, expected[name].mean, atol=1e-5)
    one, other = (importance.influence(model, batches) for batches in (together, alone))
    assert torch.allclose(one, other, atol=1e-5)
