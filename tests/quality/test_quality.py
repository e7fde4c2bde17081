"""Scores against a plain, slow, double-precision implementation, and against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prunelab.errors import InputError
from prunelab.quality import heads, quality, windows
from prunelab.quality.windows import PADDING, Windows
from tests.helpers import decoders

STORIES = Path(__file__).parents[2] / "../shared/data/stories260K-hf"
ARCHITECTURES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24},
    "gemma2": {  # caps its logits
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "hidden_size": 16,
        "intermediate_size": 24,
        "final_logit_softcapping": 0.5,
    },
    "granite": {  # divides them
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "logits_scaling": 3.0,
    },
    "opt": {  # projects its states down before the head
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "word_embed_proj_dim": 8,
        "ffn_dim": 24,
        "max_position_embeddings": 32,
        "do_layer_norm_before": False,
    },
}


def tiny(architecture="gpt2", vocabulary=50, seed=0):
    torch.manual_seed(seed)
    extra = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": vocabulary}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], **extra))
    for parameter in model.parameters():  # default initial weights give nearly uniform predictions
        parameter.data += 0.2 * torch.randn_like(parameter)
    return quality.ready(model)


def random_tokens(count=9, context=12, vocabulary=50, seed=1):
    return np.random.default_rng(seed).integers(0, vocabulary, (count, context)).astype(np.int32)


def slow_probabilities(model, tokens) -> np.ndarray:
    """log p of every next token, (windows, context - 1, vocabulary), in float64, one window at a time."""
    model = model.to(torch.float64)
    rows = []
    with torch.no_grad():
        for window in tokens:
            logits = model(torch.tensor(window[None].astype(np.int64))).logits[0, :-1].numpy()
            rows.append(logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)))
            rows[-1] -= logits.max(-1, keepdims=True)
    model.to(torch.float32)
    return np.stack(rows)


def slow_nll(log_probabilities, tokens):
    return np.array(
        [[-log_probabilities[w, t, tokens[w, t + 1]] for t in range(tokens.shape[1] - 1)] for w in range(len(tokens))]
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_divergence_and_agreement_equal_a_slow_double_precision_implementation(architecture, monkeypatch):
    monkeypatch.setattr(quality, "CHUNK_BYTES", 4 * 50 * 7)  # 7 rows a chunk: borders fall everywhere
    dense, variant, tokens = tiny(architecture), tiny(architecture, seed=5), random_tokens()
    left = quality.score(dense, tokens, "dense", batch_tokens=30, leave=5)
    found = quality.score(variant, tokens, "v", batch_tokens=30, dense=left.states, dense_choice=left.choice)

    p, q = slow_probabilities(dense, tokens), slow_probabilities(variant, tokens)
    assert left.nll == pytest.approx(slow_nll(p, tokens), abs=2e-5)
    assert found.nll == pytest.approx(slow_nll(q, tokens), abs=2e-5)
    assert found.loss == pytest.approx(slow_nll(q, tokens).mean(1), abs=1e-5)
    assert found.kl.shape == (5,)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(1)[:5], abs=1e-5)
    assert (left.choice == p.argmax(-1)).all()
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(1))
    assert found.kl.mean() > 0.01, "the two models must differ for this test to say anything"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_known_head_is_split_off_so_that_no_batch_of_logits_exists(architecture):
    model = tiny(architecture)
    _, head = heads.split(model)
    assert head.weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("architecture", decoders.CONFIGS)
def test_every_promised_architecture_is_scored_as_by_its_own_loss_without_a_batch_of_logits(architecture):
    model = quality.ready(decoders.random_model(architecture))
    tokens = random_tokens(vocabulary=decoders.VOCABULARY)
    found = quality.score(model, tokens, "x", batch_tokens=30, leave=0)
    ids = torch.tensor(tokens.astype(np.int64))
    with torch.no_grad():
        assert found.loss.mean() == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-5)
    assert heads.split(model)[1].weight is not None


def test_an_architecture_with_an_unknown_step_after_the_head_is_still_scored_rightly():
    model = tiny("granite")
    model.config.logits_scaling = 1.0  # what the split reads; the model itself keeps dividing
    reference = tiny("granite")
    forward = reference.forward
    model.forward = lambda *args, **kw: _scaled(forward(*args, **kw))
    _, head = heads.split(model)
    assert head.weight is None
    tokens = random_tokens()
    with torch.no_grad():
        logits = model(torch.tensor(tokens.astype(np.int64))).logits[:, :-1].double()
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(tokens[:, 1:].astype(np.int64)).flatten(), reduction="none"
    )
    found = quality.score(model, tokens, "x", batch_tokens=30, leave=2)
    assert found.nll.ravel() == pytest.approx(expected.numpy(), abs=1e-5)
    again = quality.score(model, tokens, "x", batch_tokens=30, dense=found.states, dense_choice=found.choice)
    assert (again.kl == 0).all() and (again.agreement == 1).all()


def _scaled(output):
    output.logits = output.logits**3 + 1.0
    return output


def test_identical_models_have_no_divergence_and_agree_everywhere():
    for vocabulary in (10, 50):  # logits kept (fewer than states), hidden states and head kept
        model, tokens = tiny(vocabulary=vocabulary), random_tokens(vocabulary=vocabulary)
        left = quality.score(model, tokens, "dense", batch_tokens=40, leave=9)
        assert (left.states.head.weight is None) == (vocabulary == 10)
        same = quality.score(model, tokens, "x", batch_tokens=40, dense=left.states, dense_choice=left.choice)
        assert (same.kl == 0).all() and (same.agreement == 1).all() and (same.loss == left.loss).all()


def test_what_a_batch_holds_does_not_change_the_loss():
    model, tokens = tiny(), random_tokens()
    one = quality.score(model, tokens, "x", batch_tokens=1)
    many = quality.score(model, tokens, "x", batch_tokens=10_000)
    assert one.nll == pytest.approx(many.nll, abs=1e-5)


def test_padding_is_neither_scored_nor_does_it_change_what_is():
    model, tokens = tiny(), random_tokens(count=2)
    short = np.full_like(tokens, PADDING)
    short[:, :8] = tokens[:, :8]
    found = quality.score(model, short, "x", batch_tokens=1000)
    whole = quality.score(model, tokens, "x", batch_tokens=1000)
    assert np.isnan(found.nll[:, 7:]).all()
    assert found.loss == pytest.approx(whole.nll[:, :7].mean(1), abs=1e-5)


def test_bits_per_byte_by_hand():
    # Two windows of 3 tokens; 4 scored tokens of 1, 2, 3 and 2 nats on 8 bytes of text: 8 nats, 1 nat a byte.
    nll = np.array([[1.0, 2.0], [3.0, 2.0]], dtype=np.float32)
    scores = quality.Scores(nll, nll.mean(1, dtype=np.float64), None, None, None, None)
    cut = Windows(np.zeros((2, 3), np.int32), np.array([3, 5]), None)
    figures = quality.summary(scores, cut, dense_loss=np.array([1.0, 2.0]), draws=1000)
    assert figures["tokens"] == 4 and figures["bytes"] == 8
    assert figures["loss"] == 2.0 and figures["perplexity"] == pytest.approx(math.e**2)
    assert figures["bits_per_byte"] == pytest.approx(1 / math.log(2))
    assert figures["loss_diff"] == 0.5  # (1.5 - 1 + 2.5 - 2) / 2
    assert figures["kl_to_dense"] is None and figures["top1_agreement"] is None


def test_the_interval_is_of_paired_differences_not_of_two_losses():
    generator = np.random.default_rng(0)
    hard = generator.normal(3, 2, 400)  # windows differ far more than the models do
    nll = (hard + 0.1 + generator.normal(0, 0.02, 400))[:, None].astype(np.float32)
    scores = quality.Scores(nll, nll.mean(1, dtype=np.float64), None, None, None, None)
    cut = Windows(np.zeros((400, 2), np.int32), np.ones(400, np.int64), None)
    figures = quality.summary(scores, cut, hard, 2000)
    assert 0.095 < figures["loss_diff_lo"] < figures["loss_diff"] < figures["loss_diff_hi"] < 0.105


def test_one_window_has_no_interval_and_no_float_holds_the_perplexity_of_a_wrecked_model():
    nll = np.full((1, 2), 900.0, dtype=np.float32)
    scores = quality.Scores(nll, nll.mean(1, dtype=np.float64), None, None, None, None)
    figures = quality.summary(scores, Windows(np.zeros((1, 3), np.int32), np.array([2]), None), np.array([1.0]), 100)
    assert figures["loss_diff_lo"] is None and figures["loss_diff_hi"] is None
    assert figures["perplexity"] is None and figures["loss"] == 900.0


def test_a_loss_that_is_not_finite_names_the_variant_and_where():
    model = tiny()
    model.transformer.wte.weight.data[3] = float("nan")
    tokens = random_tokens(vocabulary=3)
    tokens[4, 2] = 3
    model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 16))
    with pytest.raises(InputError, match=r"wanda-50.*not finite in 1 of 9 windows, first in window 4"):
        quality.score(model, tokens, "wanda-50", batch_tokens=100)


def test_a_window_longer_than_the_models_context_is_refused():
    with pytest.raises(InputError, match=r"quality.context: 33 tokens.*32"):
        quality.score(tiny(), random_tokens(context=33), "x", batch_tokens=100)


def test_bf16_comes_close_to_fp32():
    model, tokens = tiny(), random_tokens()
    exact = quality.score(model, tokens, "x", batch_tokens=100)
    rough = quality.score(quality.ready(model.bfloat16()), tokens, "x", batch_tokens=100)
    assert rough.loss == pytest.approx(exact.loss, rel=0.02)
    assert (rough.loss != exact.loss).any()


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp16")]
)
def test_a_model_is_judged_in_the_precision_that_it_was_loaded_in(dtype, name):
    model = quality.ready(tiny().to(dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert quality.precision(model) == name


def test_a_model_in_bf16_is_held_against_a_dense_one_in_fp32():
    """The head of each reads its own states, so what is between them is what rounding to bf16 costs."""
    model, tokens = tiny(), random_tokens()
    exact = quality.score(model, tokens, "dense", batch_tokens=100, leave=5)
    rough = quality.score(
        tiny().bfloat16(), tokens, "x", batch_tokens=100, dense=exact.states, dense_choice=exact.choice
    )
    assert exact.states.hidden.dtype == torch.float32
    assert 0 < rough.kl.mean() < 0.01 and rough.agreement.mean() > 0.9


@pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained model stories260K is not beside this repository")
def test_a_real_pretrained_model_predicts_its_own_kind_of_story():
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " * 12
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    model = quality.ready(AutoModelForCausalLM.from_pretrained(STORIES))
    cut = windows.cut(*windows.tokenise(tokenizer, text), context=64, limit=None)
    found = quality.score(model, cut.tokens, "stories", batch_tokens=256, leave=2)
    # One window, by the library's own loss.
    ids = torch.tensor(cut.tokens[:1].astype(np.int64))
    with torch.no_grad():
        assert found.loss[0] == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-5)
    figures = quality.summary(found, cut, found.loss, 100)
    assert figures["loss"] < 1.5 < math.log(512)
    assert figures["bits_per_byte"] < 1.2

    # Noise on the weights must show in every figure.
    noisy = quality.ready(AutoModelForCausalLM.from_pretrained(STORIES))
    torch.manual_seed(0)
    for parameter in noisy.parameters():
        parameter.data += 0.1 * parameter.std() * torch.randn_like(parameter)
    damaged = quality.score(noisy, cut.tokens, "n", batch_tokens=256, dense=found.states, dense_choice=found.choice)
    worse = quality.summary(damaged, cut, found.loss, 1000)
    assert worse["kl_to_dense"] > 0.01 and worse["top1_agreement"] < 0.99


def test_threads_side_by_side_score_as_one_does_and_are_given_back():
    model, tokens, before = tiny(), random_tokens(count=23), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = quality.score(model, tokens, "x", batch_tokens=48, leave=5)
        torch.set_num_threads(3)
        three = quality.score(model, tokens, "x", batch_tokens=48, leave=5)
        assert torch.get_num_threads() == 3
        with pytest.raises(IndexError):
            quality.score(model, tokens + 50, "x", batch_tokens=48)  # not in the vocabulary
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert three.nll == pytest.approx(one.nll, abs=1e-5)
    assert torch.allclose(three.states.hidden, one.states.hidden, atol=1e-5), "kept in the order of the windows"
