"""What belongs together, and how many units a rate takes."""

import pytest
import torch

from prunelab.errors import InputError
from prunelab.structure import structure
from tests.helpers import architectures


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_every_block_has_its_neurons(name):
    model = architectures.build(name)
    sites = structure.mlp_sites(model)
    assert [site.block for site in sites] == [0, 1, 2]
    assert {site.units for site in sites} == {96 if name == "gpt2" else 32}


def test_a_group_is_a_key_value_head_with_its_queries():
    site = structure.head_sites(architectures.build("qwen3"))[1]
    assert site.units == 2
    assert [maker.size for maker in site.makers] == [24, 8, 8]  # 3 query heads of 8, one key, one value head
    assert site.reader.module == "model.layers.1.self_attn.o_proj"
    assert site.reader.size == 24


def test_the_cost_of_a_unit_is_what_leaves_with_it():
    model = architectures.build("llama")
    assert structure.cost_of_unit(model, structure.mlp_sites(model)[0]) == 3 * 24
    # 3 query heads of 4, a key and a value head of 4, and the 12 columns of the output, each 24 long
    assert structure.cost_of_unit(model, structure.head_sites(model)[0]) == (12 + 4 + 4 + 12) * 24
    gpt2 = architectures.build("gpt2")
    assert structure.cost_of_unit(gpt2, structure.mlp_sites(gpt2)[0]) == 2 * 24


def test_a_rate_is_a_share_of_all_prunable_weights_not_of_the_mlp():
    model = architectures.build("llama")
    prunable = structure.prunable_parameters(model)
    assert prunable == 3 * (24 * 24 + 2 * 8 * 24 + 24 * 24 + 3 * 24 * 32)
    sites = structure.mlp_sites(model)
    kept = structure.kept_units(model, sites, 0.30, 1, "mlp-width-30")
    removed = (32 - kept) * 3 * 72
    assert abs(removed - 0.30 * prunable) <= 3 * 72 / 2
    assert structure.kept_units(model, sites, 0.30, 8, "mlp-width-30") % 8 == 0


@pytest.mark.parametrize(
    ("fraction", "round_to", "words"),
    [
        (0.9, 1, ["hold 60 % of the prunable parameters", "at most 58 %"]),
        (0.01, 8, ["round to none", "structure.round_to: 8", "the least is 15.0 %"]),
    ],
)
def test_a_rate_without_room_says_what_is_possible(fraction, round_to, words):
    model = architectures.build("llama")
    with pytest.raises(InputError) as error:
        structure.kept_units(model, structure.mlp_sites(model), fraction, round_to, "mlp-width-x")
    for word in words:
        assert word in str(error.value)


def test_one_query_key_value_matrix_is_refused_with_the_layers_that_are_there():
    with pytest.raises(InputError, match=r"head-width: block 0 of GPT2LMHeadModel has no layers to cut.*attn\.c_attn"):
        structure.head_sites(architectures.build("gpt2"))


def test_experts_are_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, vocab_size=48,
    )  # fmt: skip
    with pytest.raises(InputError, match="mlp-width: block 0 of MixtralForCausalLM has"):
        structure.mlp_sites(AutoModelForCausalLM.from_config(config))


def test_entries_of_a_unit_are_consecutive():
    assert structure.entries(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
