"""Continuations against the library's own generation; seeds; repetition by hand."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.quality import samples
from prunelab.training.characters import character_tokenizer


def tiny(positions=64):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", n_layer=2, n_head=2, n_embd=16, n_positions=positions, vocab_size=30, bos_token_id=1, eos_token_id=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_greedy_continuations_are_those_of_the_librarys_generate():
    model, prompts = tiny(), [[5, 6, 7], [9, 4]]
    found = samples.continuations(model, prompts, 20, [None], 1.0)
    assert found.shape == (2, 1, 20)
    for prompt, (tokens,) in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=20,
            min_new_tokens=20,
            pad_token_id=0,
            eos_token_id=None,
        )
        assert tokens.tolist() == expected[0, len(prompt) :].tolist()


def test_a_text_longer_than_the_context_goes_on_from_its_second_half():
    model = tiny(positions=8)
    found = samples.continuations(model, [[5, 6, 7]], 12, [None], 1.0)[0, 0].tolist()
    window, expected = [5, 6, 7], []
    for _ in range(12):
        if len(window) > 8:
            window = window[-4:]
        with torch.no_grad():
            expected.append(model(torch.tensor([window])).logits[0, -1].argmax().item())
        window.append(expected[-1])
    assert found == expected


def test_a_seed_gives_the_same_sample_whatever_else_is_drawn():
    model = tiny()
    alone = samples.continuations(model, [[5, 6, 7]], 30, [4], 1.0)
    beside = samples.continuations(model, [[9], [5, 6, 7]], 30, [None, 3, 4], 1.0)
    assert alone[0, 0].tolist() == beside[1, 2].tolist()
    assert beside[1, 1].tolist() != beside[1, 2].tolist()


def test_sampling_follows_the_models_distribution():
    model = tiny()
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[5]])).logits[0, -1].double() / 0.7, -1).numpy()
    drawn = samples.continuations(model, [[5]], 1, list(range(3000)), 0.7)[0, :, 0]
    assert np.bincount(drawn, minlength=30) / 3000 == pytest.approx(expected, abs=0.04)


def test_a_small_model_borrows_one_thread_and_gives_the_others_back():
    before = torch.get_num_threads()
    samples.continuations(tiny(), [[5]], 2, [None], 1.0)
    assert torch.get_num_threads() == before


def test_repetition_by_hand():
    assert samples.repetition("a b c d") == 0.0  # one 4-gram
    assert samples.repetition("to be or not") == 0.0
    assert samples.repetition("x x x x x x") == pytest.approx(2 / 3)  # xxxx three times, of which two again
    assert samples.repetition("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert samples.repetition("") == 0.0


def test_figures_show_the_text_up_to_its_end():
    tokenizer = character_tokenizer("abcdefg").backend_tokenizer
    ids = np.array([[[0, 1, 2, 3], [4, 5, 5, 5]]])
    rows = samples.figures(tokenizer, ["x"], [None, 7], ids, end=2)
    assert rows[0] == {"prompt": "x", "seed": None, "text": "ab", "repetition": 0.0}
    assert rows[1]["text"] == "efff" and rows[1]["seed"] == 7
    assert samples.figures(tokenizer, ["x"], [None, 7], ids, end=[3, 5])[1]["text"] == "e"


@pytest.mark.parametrize(
    ("end", "texts"),
    [(0, ["", "bc"]), ([0], ["", "bc"]), ([2, 0], ["", "b"]), ([], ["abc", "bca"]), (None, ["abc", "bca"])],
)
def test_a_text_ends_at_the_token_0_only_where_that_is_its_end(end, texts):
    tokenizer = character_tokenizer("abcdefg").backend_tokenizer
    ids = np.array([[[0, 1, 2], [1, 2, 0]]])
    assert [row["text"] for row in samples.figures(tokenizer, ["x"], [None, 7], ids, end)] == texts


def test_repetition_is_compared_sample_by_sample():
    found = samples.repetition_figures(np.array([0.5, 0.3]), np.array([0.1, 0.1]), draws=500)
    assert found["repetition"] == pytest.approx(0.4)
    assert found["repetition_diff"] == pytest.approx(0.3)
    assert found["repetition_diff_lo"] <= 0.3 <= found["repetition_diff_hi"]
    assert samples.repetition_figures(np.ones(1), np.ones(1), 100)["repetition_diff_lo"] is None
