"""A quantised row's loss token by token beside that of a whole window, and a kernel that is wrong is found out."""

import numpy as np
import pytest
import torch

from prunelab import quantised
from prunelab.errors import InputError
from prunelab.quality import decoded, quality
from prunelab.quality.windows import PADDING
from prunelab.quantised import kernels
from tests.quality.test_quality import random_tokens, tiny


def model(precision="int8", architecture="llama"):
    made = tiny(architecture)
    quantised.quantise(made, precision)
    return quality.ready(made)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_both_losses_are_those_of_the_first_256_tokens_and_near_each_other(precision):
    one, tokens = model(precision), random_tokens(count=40)
    found = decoded.figures(one, tokens, "dense-x")
    assert found["decode_loss_tokens"] == 21 * 11  # windows of 12 tokens: 21 of them are 252
    scored = quality.score(one, tokens[:21], "dense-x", batch_tokens=100).loss.mean()
    assert found["decode_loss_at_once"] == pytest.approx(scored, rel=1e-2)
    assert found["decode_loss"] == pytest.approx(found["decode_loss_at_once"], rel=1e-2)


def test_a_padded_window_ends_where_its_text_does():
    tokens = random_tokens(count=2)
    tokens[1, 5:] = PADDING
    assert decoded.figures(model(), tokens, "x")["decode_loss_tokens"] == 11 + 4


def test_what_is_not_quantised_has_no_second_way():
    assert decoded.figures(tiny(), random_tokens(), "x") == {}


def test_a_kernel_that_reads_past_a_row_is_told_with_both_losses(monkeypatch):
    whole = kernels.few
    monkeypatch.setattr(kernels, "few", lambda grid, x, qdata, scale: whole(grid, x, qdata.roll(1, 0), scale))
    with pytest.raises(
        InputError, match=r"^wanda-50-int8: over 99 tokens its loss is \d\.\d+ nats at once and "
    ) as told:
        decoded.figures(model(), random_tokens(), "wanda-50-int8")
    assert str(told.value).endswith("; take wanda-50-int8 out of prune.further")
    monkeypatch.setattr(kernels, "few", lambda grid, x, *rest: torch.full((len(x), len(rest[0])), torch.nan))
    with pytest.raises(InputError, match="and nan token by token"):
        decoded.figures(model(), random_tokens(), "wanda-50-int8")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_quantised_head_scores_what_the_model_itself_says(architecture):
    one, tokens = model("int4", architecture), random_tokens()
    found = quality.score(one, tokens, "x", batch_tokens=100)
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.inference_mode():
        logp = one(input_ids=ids[:, :-1]).logits.float().log_softmax(-1)
    expected = -logp.gather(-1, ids[:, 1:, None])[..., 0].mean(1)
    assert found.loss == pytest.approx(expected.numpy(), rel=5e-3)
