"""Models that are built here: no special tokens, a config that is taken as written, and how long a text they take."""

import pytest
import torch

from prunelab.errors import InputError
from prunelab.models import models
from tests.helpers import zoo

VOCABULARY = 40
_DIMS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_POSITIONS = {**_DIMS, "intermediate_size": 48, "max_position_embeddings": 16}
SPECIAL = {
    "opt": zoo.ARCHITECTURES["OPT"][1],  # pad_token_id 1
    "gemma": zoo.ARCHITECTURES["Gemma"][1],  # pad_token_id 0
    "phi3": zoo.ARCHITECTURES["Phi-3"][1],  # pad_token_id 32000
    "glm": {**_DIMS, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},  # three ends
    "xglm": zoo.ARCHITECTURES["XGLM"][1],  # a start of the decoder that must be a number
    "bert": {**_POSITIONS, "is_decoder": True},  # pad_token_id 0
    "modernbert-decoder": _POSITIONS,  # a padding that must be a number
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": True, "max_position_embeddings": 16},  # pad_index 2
}


def special_tokens(config) -> dict:
    return {k: v for k, v in config.to_dict().items() if models.SPECIAL.search(k) and v is not None}


@pytest.mark.parametrize("architecture", SPECIAL)
def test_a_model_built_here_has_no_special_tokens_so_no_letter_is_padding(architecture, tmp_path):
    model = models.build(architecture, SPECIAL[architecture], vocab_size=VOCABULARY)
    # What must be a number is that of the token for unknown letters, which no text has.
    assert set(special_tokens(model.config).values()) <= {VOCABULARY - 1}
    assert model.get_input_embeddings().padding_idx in (None, VOCABULARY - 1)
    model.save_pretrained(tmp_path)
    from transformers import GenerationConfig

    saved = GenerationConfig.from_pretrained(tmp_path)
    assert special_tokens(saved) == {} and saved.pad_token_id is saved.eos_token_id is saved.bos_token_id is None


@pytest.mark.parametrize("architecture", ["opt", "gemma", "phi3"])
def test_every_letter_is_trained_and_generation_is_the_same_with_and_without_a_mask(architecture):
    torch.manual_seed(0)
    model = models.build(architecture, SPECIAL[architecture], vocab_size=VOCABULARY)
    assert model.config.pad_token_id is None and model.get_input_embeddings().padding_idx is None
    ids = torch.cat([torch.arange(VOCABULARY), torch.tensor([0])])[None]  # ids 0, 1 and 2 are letters like all others
    model(input_ids=ids, labels=ids).loss.backward()
    assert (model.get_input_embeddings().weight.grad.abs().amax(1) > 0).all()
    model.eval()
    with_mask = model.generate(ids[:, :12], attention_mask=torch.ones(1, 12).long(), max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(ids[:, :12], max_new_tokens=8, do_sample=False), with_mask)
    assert with_mask.shape[1] == 20  # and no letter ends a text


def test_special_tokens_that_are_said_are_kept_and_must_exist():
    model = models.build("gpt2", {**zoo.ARCHITECTURES["GPT-2"][1], "eos_token_id": 3}, vocab_size=VOCABULARY)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 3
    assert model.config.bos_token_id is model.config.pad_token_id is None
    with pytest.raises(InputError, match=r"train\.config\.pad_token_id: 40 is none of the 40 tokens of the text"):
        models.build("gpt2", {"n_layer": 1, "pad_token_id": 40}, vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    ("architecture", "config", "line"),
    [
        ("gpt2", {"n_layer": "2"}, "train.config.n_layer: 'gpt2' refuses it: expected int, got str (value: '2')"),
        ("gpt2", {"n_layers": 2}, "train.config.n_layers: unknown to the config of 'gpt2' (did you mean 'n_layer'?)"),
        ("gpt2", {"to_dict": 2}, "train.config.to_dict: unknown to the config of 'gpt2'"),
        ("gpt2", {"activation_function": "swiglu"}, "train.config.activation_function: 'gpt2' knows no 'swiglu'"),
        (
            "gpt2",
            {"n_layer": 2, "num_hidden_layers": 4},
            "train.config.n_layer: 2 is not what 'gpt2' makes of it (4); another key decides it, or says it too",
        ),
        (
            "llama",
            {**_DIMS, "hidden_size": 30},
            "train.config: 'llama' refuses it: The hidden size (30) is not a multiple of the number of attention "
            "heads (4).",
        ),
        ("opt", {"pad_token_id": 41}, "train.config.pad_token_id: 41 is none of the 40 tokens of the text"),
        (
            "gemma3",
            {},
            "train.architecture: 'gemma3' is more than a decoder of text; take 'gemma3_text', its decoder",
        ),
        ("bart", {}, "train.architecture: 'bart' is more than a decoder of text; take another"),
    ],
)
def test_a_config_that_is_not_taken_is_told_in_one_line(architecture, config, line):
    with pytest.raises(InputError) as caught:
        models.build(architecture, config, vocab_size=VOCABULARY)
    assert str(caught.value) == line or str(caught.value).startswith(line + " (did")


LENGTHS = {
    "gpt2": ({"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16}, 16),
    "opt": ({**_DIMS, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 16}, 16),  # a table of 18
    "gptj": ({"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16, "rotary_dim": 4}, 16),
    "ctrl": ({"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16, "dff": 48}, 16),
    "mpt": ({"d_model": 32, "n_layers": 1, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 16}, 16),
    # positions begin behind the padding token
    "roberta": ({**_POSITIONS, "max_position_embeddings": 18, "is_decoder": True, "pad_token_id": 1}, 16),
    # no limit: what is near counts more, or a state is carried on
    "bloom": ({"hidden_size": 32, "n_layer": 1, "n_head": 4, "seq_length": 16}, None),
    "falcon": ({**_DIMS, "alibi": True, "max_position_embeddings": 16}, None),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}, None),
    "xlnet": ({"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48}, None),  # says -1
}


@pytest.mark.parametrize("architecture", LENGTHS)
def test_the_context_is_what_the_model_takes_and_no_token_less(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    config, limit = LENGTHS[architecture]
    config = AutoConfig.for_model(architecture, **config, vocab_size=VOCABULARY)
    assert models.context_length(config) == limit
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.full((1, limit or 40), 7)
    assert model(input_ids=ids).logits.shape[1] == (limit or 40)
    if limit:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 7))


def test_the_context_of_a_model_of_text_and_images_is_that_of_its_decoder():
    from transformers import AutoConfig

    assert models.context_length(AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 77})) == 77
