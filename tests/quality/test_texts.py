"""Losses on further texts and on other windows: by hand, and through both stages beside dense."""

import json
import math
from pathlib import Path
from types import SimpleNamespace as Wanted

import numpy as np
import pytest
from safetensors.numpy import load_file

from prunelab.errors import InputError
from prunelab.quality import reference, texts
from prunelab.quality.quality import Scores
from prunelab.training.characters import character_tokenizer
from stages import probes
from tests.quality.test_reference import TEXT, run_quality, run_reference, settings, study  # noqa: F401 (a fixture)


def scores(nll) -> Scores:
    nll = np.array(nll, dtype=np.float32)
    return Scores(nll, nll.mean(axis=1, dtype=np.float64), None, None, None, None)


def test_figures_by_hand():
    """Two windows of three tokens, two scored: 1 and 2 nats a token; dense has 1 and 1.5."""
    wanted = Wanted(texts=["code"], also_contexts=[3], bootstrap_draws=200)
    tokens, sizes = np.zeros((2, 3), dtype=np.int32), np.array([3, 5])
    dense = {f"texts.{name}.{key}": value for name in ("code", "c3") for key, value in
             {"tokens": tokens, "bytes": sizes, "loss": np.array([1.0, 1.5])}.items()}  # fmt: skip
    dense["texts.code.unknown"] = np.array([0.25])
    mine = scores([[0.5, 1.5], [2.0, 2.0]])
    found = texts.figures({"code": mine, "c3": mine}, dense, wanted)
    (code,), (other,) = found["texts"], found["also_contexts"]
    assert code["text"] == "code" and other["context"] == 3
    for one in (code, other):
        assert (one["windows"], one["tokens"], one["bytes"]) == (2, 4, 8)
        assert one["loss"] == pytest.approx(1.5) and one["perplexity"] == pytest.approx(math.exp(1.5))
        assert one["bits_per_byte"] == pytest.approx(6 / math.log(2) / 8)  # 6 nats over 8 bytes
        assert one["loss_diff"] == pytest.approx(0.25)  # 0 and 0.5
        assert one["loss_diff_lo"] <= 0.25 <= one["loss_diff_hi"]
    assert code["unknown_percent"] == 25.0 and "unknown_percent" not in other


def test_windows_of_other_lengths_cover_as_much_of_the_text():
    wanted = Wanted(texts=["code"], texts_windows=3, texts_context=5, context=8, max_windows=4, also_contexts=[2, 16])
    ids = np.arange(100, dtype=np.int32)
    tokenizer = character_tokenizer("abcdefghij")
    arrays = texts.prepare(tokenizer, {"code": "aX" * 55}, (ids, ids + 1), wanted)
    assert arrays["texts.c2.tokens"].shape == (16, 2)  # 4 × 8 tokens
    assert arrays["texts.c16.tokens"].shape == (2, 16)
    assert arrays["texts.code.tokens"].shape == (3, 5)
    unknown = (arrays["texts.code.tokens"] == tokenizer.unk_token_id).mean()
    assert arrays["texts.code.unknown"].tolist() == [unknown] and unknown > 0
    every = texts.prepare(
        tokenizer, {}, (ids, ids + 1), Wanted(texts=[], max_windows=None, context=8, also_contexts=[2])
    )
    assert every["texts.c2.tokens"].shape == (50, 2)


def test_a_text_shorter_than_a_window_is_told_by_its_name():
    wanted = Wanted(texts=["code"], texts_windows=3, texts_context=None, context=80, max_windows=4, also_contexts=[])
    with pytest.raises(InputError, match="80 tokens a window, but the text code of quality.texts has only 10"):
        texts.prepare(character_tokenizer("abc"), {"code": "abcabcabca"}, (np.arange(3), np.arange(3)), wanted)


@pytest.mark.parametrize(
    ("changes", "key"), [({"texts_context": 33}, "texts_context"), ({"also_contexts": [33]}, "also_contexts")]
)
def test_windows_longer_than_the_model_reads_are_told_by_their_setting(study, changes, key):  # noqa: F811
    Path("more.txt").write_text(TEXT, encoding="utf-8")
    settings(texts=["more"], further_texts={"more": {"kind": "path", "name": "more.txt"}}, **changes)
    probes.main(["--out", "data/probes"])
    with pytest.raises(InputError, match=f"quality.{key}: 33 tokens, but this model's context is 32; at most that"):
        run_reference()
    assert not Path("results/dense").exists()


def test_a_variant_is_held_against_dense_text_by_text(study):  # noqa: F811
    Path("more.txt").write_text(TEXT[::-1], encoding="utf-8")
    further = {"more": {"kind": "path", "name": "more.txt"}}
    settings(texts=["more"], texts_windows=5, also_contexts=[8], further_texts=further)
    probes.main(["--out", "data/probes"])
    run_reference()
    dense = json.loads(Path("results/dense/quality.json").read_text())
    found = run_quality("magnitude-50", "variant")
    for key in ("texts", "also_contexts"):
        (mine,), (theirs,) = found[key], dense[key]
        assert theirs["loss_diff"] == theirs["loss_diff_lo"] == theirs["loss_diff_hi"] == 0
        assert mine["loss_diff"] == pytest.approx(mine["loss"] - theirs["loss"], abs=1e-6)
        assert mine["loss_diff_lo"] < mine["loss_diff"] < mine["loss_diff_hi"]
        assert {k: mine[k] for k in ("windows", "bytes")} == {k: theirs[k] for k in ("windows", "bytes")}
    assert found["texts"][0]["windows"] == 5 and found["also_contexts"][0]["windows"] == 40 * 32 // 8
    assert found["texts"][0]["loss"] != found["loss"] != found["also_contexts"][0]["loss"]
    stored = load_file("results/magnitude-50/windows.safetensors")
    assert stored["loss_more"].mean() == pytest.approx(found["texts"][0]["loss"])
    settings(texts=["more"], texts_windows=6, also_contexts=[8], further_texts=further)
    with pytest.raises(InputError, match="quality.texts_windows is 6, but the reference was made with 5"):
        run_quality("magnitude-50", "variant")
    assert reference.load("results/dense/reference.safetensors").asked["texts"] == ["more"]
