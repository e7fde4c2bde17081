"""Blocks of many architectures, loaded one at a time, against the whole model."""

import json

import pytest
import torch
from torch import nn

from prunelab.calibration.blocks import BlockModel
from prunelab.errors import InputError
from prunelab.models import models
from tests.helpers import decoders


@pytest.fixture(scope="module", params=list(decoders.CONFIGS))
def folder(request, tmp_path_factory):
    return decoders.dense_folder(tmp_path_factory.mktemp(request.param) / "dense", request.param)


def outputs_of_blocks(folder, tokens):
    """What every block of the whole model returns, by forward hooks."""
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for block in models.decoder_blocks(whole)[1]:
        block.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        whole(tokens, use_cache=False)
    return found


def test_blocks_run_one_at_a_time_give_the_hidden_states_of_the_whole_model(folder, tmp_path):
    tokens = decoders.samples(5)
    model = BlockModel(folder, precision="fp32")
    # Two samples a batch leave a smaller last batch, whose masks have another shape.
    states = model.enter({"input_ids": tokens}, batch=2, folder=tmp_path)
    for index, expected in enumerate(outputs_of_blocks(folder, tokens)):
        with model.loaded(index), torch.no_grad():
            for number in range(len(states)):
                states[number] = model.run(index, states[number], number)
        assert torch.equal(torch.cat([states[i] for i in range(len(states))]), expected)
    assert all(parameter.is_meta for parameter in model.model.parameters())


def test_every_linear_weight_of_a_block_is_found_and_nothing_else(folder):
    model = BlockModel(folder)
    names = [name for index in range(len(model.blocks)) for name in model.linears(index)]
    assert names == [tensor["name"] for tensor in json.loads((folder / "prunable.json").read_text())]
    assert len(names) >= 8
    assert not any(word in name for name in names for word in ("embed", "wte", "wpe", "lm_head", "project_", "norm"))


def test_a_model_whose_blocks_cannot_be_found_is_refused_with_what_was_looked_for():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 4)
            self.head = nn.Linear(4, 4)

    with pytest.raises(InputError, match=r"Recurrent: no decoder blocks found; looked for a ModuleList"):
        models.decoder_blocks(Recurrent())


@pytest.fixture
def llama(tmp_path):
    return decoders.dense_folder(tmp_path / "dense", "llama")


def test_a_file_that_is_cut_off_is_told_by_name(llama):
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: cut off or corrupt"):
        BlockModel(llama)


def test_a_config_of_another_size_is_told_by_tensor_and_shapes(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    model = BlockModel(llama)
    with pytest.raises(InputError, match=r"mlp\.\w+_proj\.weight has shape \[.*\], its config says \[.*\]"):
        model.enter({"input_ids": decoders.samples(2)}, batch=2)


def test_tensors_that_the_file_does_not_have_are_told_by_name(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"9 tensors of LlamaForCausalLM .* such as model\.layers\.2\."):
        BlockModel(llama)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        BlockModel(tmp_path)


def run_through(model, samples, batch: int) -> torch.Tensor:
    """What comes out of the last block."""
    states = model.enter(samples, batch=batch)
    for index in range(len(model.blocks)):
        with model.loaded(index), torch.no_grad():
            for number in range(len(states)):
                states[number] = model.run(index, states[number], number)
    return torch.cat([states[number] for number in range(len(states))])


def test_what_blocks_are_called_with_may_differ_from_text_to_text(llama):
    from transformers import AutoModelForCausalLM

    def places_by_text(module, args, kwargs):
        return args, {**kwargs, "position_ids": kwargs["input_ids"] % 7}

    tokens, found = decoders.samples(5), []
    model, whole = BlockModel(llama, precision="fp32"), AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    for one in (model.model.model, whole.model):
        one.register_forward_pre_hook(places_by_text, with_kwargs=True)
    whole.model.layers[-1].register_forward_hook(lambda _, __, out: found.append(out))
    with torch.no_grad():
        for part in tokens.split(2):
            whole(input_ids=part, use_cache=False)
    assert torch.equal(run_through(model, {"input_ids": tokens}, 2), torch.cat(found))


def test_a_filled_up_sample_comes_out_as_it_does_alone(llama):
    tokens = decoders.samples(4)
    mask = torch.ones_like(tokens)
    mask[1, 20:] = mask[2, 9:] = 0
    out = run_through(BlockModel(llama, precision="fp32"), {"input_ids": tokens, "attention_mask": mask}, 2)
    for sample, own, found in zip(tokens, mask.sum(1).tolist(), out, strict=True):
        alone = run_through(BlockModel(llama, precision="fp32"), {"input_ids": sample[None, :own]}, 1)
        assert torch.allclose(found[:own], alone[0], atol=1e-5)


def test_a_model_that_adds_to_hidden_states_between_its_blocks_is_refused(llama):
    model = BlockModel(llama)
    model.blocks[1].register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]))
    with pytest.raises(InputError, match="it changes the hidden states between blocks 0 and 1 .as DeepStack"):
        model.enter({"input_ids": decoders.samples(4)}, batch=2)


def test_bf16_is_used_where_it_is_asked_for(llama):
    model = BlockModel(llama, precision="bf16")
    states = model.enter({"input_ids": decoders.samples(2)}, batch=2)
    with model.loaded(0) as block, torch.no_grad():
        assert {parameter.dtype for parameter in block.parameters()} == {torch.bfloat16}
        assert model.run(0, states[0], 0).dtype == torch.bfloat16
