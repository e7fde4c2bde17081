"""A model quantised in memory: which weights are, which models are refused and with which words."""

import pytest
import torch
from torch import nn

from prunelab.errors import InputError
from prunelab.quantised import decoding, files, kernels, quantise
from prunelab.quantised.layers import held_bytes, quantised_layers
from tests.helpers import tiny
from tests.quantised.test_files import llama, logits


def test_every_linear_layer_of_the_blocks_the_head_and_the_embedding_are_quantised():
    model = tiny.gpt2()
    names = quantise(model, "int8")
    assert names == [
        *(f"transformer.h.{block}.{path}.weight" for block in range(2)
          for path in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        "transformer.wte.weight",
    ]  # fmt: skip
    assert len(quantised_layers(model)) == len(names)
    assert not any(parameter.dim() == 2 for name, parameter in model.named_parameters() if "wpe" not in name)


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.31), ("int4", 0.28)])
def test_a_quantised_model_holds_what_its_weights_take_and_no_dense_copy(precision, most):
    model = llama(intermediate_size=256, tie_word_embeddings=True)
    before = held_bytes(model)
    quantise(model, precision)
    assert held_bytes(model) < most * before


def test_a_rounding_of_ones_own_is_asked_for_the_blocks_alone():
    model, asked = tiny.gpt2(), []

    def to_zero(name, weight, grid):
        asked.append((name, tuple(weight.shape)))
        return torch.zeros(weight.shape, dtype=torch.int8), grid.steps(weight)

    names = quantise(model, "int8", rounding=to_zero)
    assert [name for name, _ in asked] == names[:-1]
    assert asked[0] == ("transformer.h.0.attn.c_attn.weight", (48, 16))  # (out, in), also of a Conv1D
    assert not model.transformer.h[0].mlp.c_fc.levels().any()
    assert model.lm_head.levels().any()


@pytest.mark.parametrize("before", ["normal weights", "weights on a grid"])
def test_by_how_much_rounding_moves_the_weights_tells_a_model_that_was_int4_before(tmp_path, before):
    source, model = tiny.dense_folder(tmp_path / "dense", tiny.gpt2()), tiny.gpt2()
    if before == "weights on a grid":
        for block in model.transformer.h:
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                levels = torch.randint(-7, 8, layer.weight.shape)
                levels[:1], levels[16:17], levels[32:33], levels[48:49] = -7, 7, -7, 7  # both ends in every group
                layer.weight.data = levels * 0.03125
    (tmp_path / "int4").mkdir()
    facts = files.write(model, source, tmp_path / "int4", "dense-int4", "0" * 64, precision="int4")
    if before == "weights on a grid":
        assert facts["moved_percent"] < 0.1
    else:
        assert 5 < facts["moved_percent"] < 12


class Reader(nn.Module):
    """Takes the weight itself, as state-space models do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states @ self.inner.weight


def test_a_model_that_takes_the_weight_itself_is_refused():
    model = tiny.gpt2()
    model.transformer.h[1].mlp = Reader()
    with pytest.raises(InputError, match="GPT2LMHeadModel cannot be quantised: it uses a weight otherwise than to"):
        quantise(model, "int8")


def test_a_layer_that_is_more_than_linear_is_refused():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = tiny.gpt2()
    model.transformer.h[0].mlp.c_fc = Scaled(16, 64)
    with pytest.raises(InputError, match="transformer.h.0.mlp.c_fc is a Scaled, which is more than a linear layer"):
        quantise(model, "int4")


def test_experts_in_one_tensor_are_refused():
    model = tiny.gpt2()
    model.transformer.h[0].mlp.experts = nn.Parameter(torch.zeros(4, 16, 64))
    with pytest.raises(InputError, match="transformer.h.0.mlp.experts holds several matrices in one tensor"):
        quantise(model, "int8")


def test_an_embedding_that_is_more_than_a_table_stays_and_so_does_the_head_that_is_tied_to_it():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 2 * super().forward(ids)

    model = tiny.gpt2()
    table = Scaled(40, 16)
    table.weight = model.transformer.wte.weight
    model.transformer.wte = table
    names = quantise(model, "int8")
    assert "transformer.wte.weight" not in names
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "int5"}, "precision: 'int5' is none of int8, int4"),
        ({"precision": "int4", "group": 48}, "quantise.group: 48; the kernels take groups of 32, 64, 128, 256"),
        ({"precision": "int4", "head": "bf16"}, "quantise.head: 'bf16' is none of int8, int4"),
    ],
)
def test_what_there_is_no_kernel_for_is_told(options, told):
    with pytest.raises(InputError, match=told):
        quantise(tiny.gpt2(), **options)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_loss_token_by_token_is_that_of_the_window(precision):
    model = llama()
    ids = torch.randint(44, (1, 40), generator=torch.Generator().manual_seed(0))
    assert decoding.decode_loss(model, ids) == pytest.approx(decoding.window_loss(model, ids), rel=1e-5)
    quantise(model, precision)
    assert decoding.decode_loss(model, ids) == pytest.approx(decoding.window_loss(model, ids), rel=1e-3)


def test_a_fault_of_the_decode_path_shows_in_its_loss(monkeypatch):
    from prunelab.quantised import kernels

    model = llama()
    ids = torch.randint(44, (1, 40), generator=torch.Generator().manual_seed(0))
    quantise(model, "int8")
    few = kernels.few
    monkeypatch.setattr(kernels, "few", lambda *args: few(*args).roll(1, -1))
    assert decoding.decode_loss(model, ids) != pytest.approx(decoding.window_loss(model, ids), rel=1e-3)


def test_a_batch_of_many_tokens_computes_what_its_rows_compute_alone():
    model = llama()
    quantise(model, "int4")
    ids = torch.randint(44, (6, kernels.TOKENS["int4"] + 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = model(ids).logits
        assert torch.allclose(both[3], model(ids[3:4]).logits[0], atol=1e-5)
    assert logits(model).isfinite().all()
