"""Stages that run side by side get a share of the threads, which must not change what they find."""

import numpy as np
import pytest
import torch

from prunelab import quantised
from prunelab.models import workers
from prunelab.pruning import pruning
from prunelab.quality import quality
from prunelab.quantised.layers import quantised_layers
from prunelab.recipes import variants
from prunelab.recovery import recovery
from prunelab.tasks import language
from prunelab.tasks.language import lessons
from prunelab.training import training
from tests.helpers import recipes, tiny

THREADS = (1, 2, 3)


def wide():
    """A model with matrices as large as the default study's, which threads share."""
    return tiny.gpt2(n_embd=128, n_head=4)


def with_each_count(work) -> list:
    """What `work(count)` returns with each number of threads."""
    before, found = torch.get_num_threads(), []
    try:
        for count in THREADS:
            torch.set_num_threads(count)
            found.append(work(count))
    finally:
        torch.set_num_threads(before)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quality_is_the_same_to_the_last_digit_with_any_share_of_the_threads(dtype):
    model = quality.ready(wide().to(dtype))
    tokens = np.random.default_rng(2).integers(0, 40, (64, 32)).astype(np.int32)
    one, *others = with_each_count(lambda count: quality.score(model, tokens, "x", batch_tokens=1024).nll)
    assert np.ptp(one[np.isfinite(one)]) > 0
    for other in others:
        assert np.array_equal(other, one, equal_nan=True)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantising_and_the_quality_of_what_comes_out_are_the_same_with_any_share_of_the_threads(precision):
    tokens = np.random.default_rng(2).integers(0, 40, (64, 32)).astype(np.int32)

    def made(count: int):
        model = wide()
        quantised.quantise(model, precision)
        held = [part for layer in quantised_layers(model).values() for part in (layer.qdata, layer.scale)]
        return held, quality.score(quality.ready(model), tokens, "x", batch_tokens=1024).nll

    (held, nll), *others = with_each_count(made)
    for other, again in others:
        assert all(torch.equal(one, two) for one, two in zip(held, other, strict=True))
        assert np.array_equal(nll, again, equal_nan=True)


@pytest.mark.parametrize(("method", "rate"), [("magnitude", 50), ("magnitude-global", 50), ("random-sigma", "sigma80")])
def test_pruning_by_scores_is_the_same_to_the_last_byte_with_any_share_of_the_threads(tmp_path, method, rate):
    variant = variants.make(method, rate)
    dense = tiny.dense_folder(tmp_path / "dense", wide())
    plan = pruning.Plan(variant, variant.allocation or "uniform", "blocks", "last", seed=1, owl=None)

    def pruned(count: int) -> dict[str, bytes]:
        pruning.prune(dense, out := tmp_path / str(count), plan)
        return {path.name: path.read_bytes() for path in out.iterdir()}

    one, *others = with_each_count(pruned)
    assert len(one) > 3 and all(other == one for other in others)


def test_a_training_with_one_thread_is_the_same_to_the_last_byte_whatever_share_its_stage_gets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes.place()
    wide_enough = {"n_layer": 2, "n_head": 2, "n_embd": 128, "n_positions": 32}
    settings = recipes.settings(train={"threads": 1, "config": wide_enough, "context": 32})

    def trained(count: int) -> dict[str, bytes]:
        (out := tmp_path / f"trained-{count}").mkdir()
        training.run(settings, language, tmp_path / "data", out, seed=1)
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("**/*.safetensors")}

    one, *others = with_each_count(trained)
    assert len(one) == 4 and all(other == one for other in others)


def test_retraining_with_one_thread_is_the_same_to_the_last_byte_whatever_share_its_stage_gets(tmp_path):
    dense, variant = tiny.dense_folder(tmp_path / "dense", wide()), variants.parse("magnitude-50")
    pruning.prune(dense, tmp_path / "sparse", pruning.Plan(variant, "uniform", "blocks", "last", seed=1))
    text = torch.arange(2000) * 7 % 40
    plan = recovery.Plan(3 * 8 * 32, "data", "full", 0, 1e-3, 0.1, 8, 32, seed=1, evaluate_every=2)

    def retrained(count: int) -> dict[str, bytes]:
        taught = lessons.of_tokens(text, text[:320].view(10, 32), plan.tokens, 8, 32, seed=1)
        with workers.threads(1):
            recovery.recover(tmp_path / "sparse", dense, out := tmp_path / str(count), "x", plan, taught)
        return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}

    one, *others = with_each_count(retrained)
    assert one and all(other == one for other in others)
