import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prunelab.efficiency import latency
from prunelab.errors import InputError
from prunelab.models import checkpoint
from tests.helpers import tiny

WORK = latency.Work(prompt_tokens=8, batch=1, output_tokens=6)


@pytest.fixture(scope="module")
def model():
    return tiny.gpt2()


def rows_of(variant_ms, dense_ms, dropped=()):
    """Rows of A B B A blocks, each a part of its own, from readings of shape (blocks, 2) an arm."""
    rows = []
    for block, (a, b) in enumerate(zip(variant_ms, dense_ms, strict=True)):
        for position, (arm, ms) in enumerate([("variant", a[0]), ("dense", b[0]), ("dense", b[1]), ("variant", a[1])]):
            reading = {"prefill_ms": 3 * ms, "decode_ms_per_token": ms, "decode_ms": 5 * ms, "waited_ms": 0.0}
            place = {"part": block, "block": block, "position": position, "arm": arm, "dropped": block in dropped}
            rows.append({**WORK._asdict(), **place, **reading})
    return rows


def test_the_first_lengths_and_batches_are_the_headline():
    works = latency.sweep([32, 128], [1, 4], 24)
    assert works == [(32, 1, 24), (128, 1, 24), (32, 4, 24)]


def test_every_pass_does_the_same_forced_work(model):
    seen = []
    hook = model.register_forward_pre_hook(
        lambda m, args, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    latency.serve(model, latency.prompts(model, WORK, seed=0), WORK.output_tokens)
    hook.remove()
    assert seen == [(1, 8)] + [(1, 1)] * 5


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_timed_decodes_the_tokens_that_generate_would(model, batch):
    ids = latency.prompts(model, WORK._replace(batch=batch), seed=1)
    with torch.inference_mode():
        token, cache = latency.prefill(model, ids)
        made = [token]
        for _ in range(WORK.output_tokens - 1):
            token, cache = latency.decode_one_token(model, token, cache)
            made.append(token)
    wanted = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=6, max_new_tokens=6, pad_token_id=0
    )
    assert torch.equal(torch.cat([ids, *made], dim=1), wanted)


def test_prompts_are_those_of_the_seed_and_within_the_vocabulary(model):
    ids = latency.prompts(model, WORK._replace(batch=4), seed=1)
    assert ids.shape == (4, 8) and ids.min() >= 0 and ids.max() < 40
    assert torch.equal(ids, latency.prompts(model, WORK._replace(batch=4), seed=1))
    assert not torch.equal(ids, latency.prompts(model, WORK._replace(batch=4), seed=2))


def test_a_prompt_that_leaves_no_room_is_refused(model):
    with pytest.raises(InputError, match="need a context of 36, this model has 32"):
        latency.prompts(model, latency.Work(30, 1, 6), seed=0)


def clockwork(milliseconds):
    """A stand-in for `serve` that takes no time: readings of a model are what `milliseconds` says of its name."""

    def serve(model, ids, output_tokens):
        ms = next(milliseconds[model])
        return latency.Pass(3 * ms, ms, 5 * ms, 0.0)

    return serve


def test_blocks_alternate_in_an_order_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(latency, "serve", clockwork({"v": itertools.repeat(1.0), "d": itertools.repeat(2.0)}))

    def order(seed):
        ticks = itertools.count()
        monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
        rows = latency.interleave({"variant": "v", "dense": "d"}, None, WORK, 10.0, seed)
        assert [row["position"] for row in rows] == [0, 1, 2, 3] * (len(rows) // 4)
        return ["".join(row["arm"][0] for row in rows[i : i + 4]) for i in range(0, len(rows), 4)]

    assert set(order(0)) == {"vddv", "dvvd"}
    assert order(0) == order(0) != order(1)


def test_the_budget_has_parts_and_weights_move_before_each(model, monkeypatch):
    ticks, moved = itertools.count(), []
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
    monkeypatch.setattr(latency, "serve", lambda model, ids, tokens: latency.Pass(3.0, 1.0, 5.0, 0.0))
    monkeypatch.setattr(latency, "move", lambda models, generator: moved.append(len(moved)))
    rows = latency.interleave({"variant": "v", "dense": "d"}, None, WORK, 20.0, seed=0)
    parts = [row["part"] for row in rows]
    assert moved == sorted(set(parts)) == list(range(latency.PARTS)) and parts == sorted(parts)


def test_moved_weights_lie_elsewhere_and_compute_the_same(tmp_path):
    folder = tiny.dense_folder(tmp_path / "dense", tiny.gpt2())
    mapped = checkpoint.load(folder)
    ids = torch.arange(8)[None]
    wanted = mapped(input_ids=ids).logits
    before = [tensor.data_ptr() for tensor in mapped.parameters()]
    latency.move(
        {"variant": mapped, "dense": "not torch's, such as a session of ONNX Runtime"}, np.random.default_rng(0)
    )
    assert sum(a != b.data_ptr() for a, b in zip(before, mapped.parameters(), strict=True)) > len(before) / 2
    assert torch.equal(mapped(input_ids=ids).logits, wanted)
    assert mapped.get_output_embeddings().weight is mapped.get_input_embeddings().weight  # tied weights stay tied


def test_there_are_blocks_enough_for_an_interval_however_small_the_budget(model):
    rows = latency.interleave({"variant": model, "dense": model}, latency.prompts(model, WORK, 0), WORK, 1e-9, seed=0)
    assert len(rows) == 4 * latency.MIN_BLOCKS and {row["part"] for row in rows} == {0, 1, 2}
    assert all(row["prefill_ms"] > 0 and row["decode_ms"] >= row["decode_ms_per_token"] > 0 for row in rows)
    assert all(row["switches"] >= 0 and row["block_s"] > 0 for row in rows)


def test_warm_up_goes_on_until_successive_medians_agree(monkeypatch):
    slow_start = itertools.chain([9.0] * 3, [5.0] * 3, [2.0] * 3, itertools.repeat(2.0))
    monkeypatch.setattr(latency, "serve", clockwork({"v": slow_start, "d": itertools.repeat(2.0)}))
    assert latency.warm_up({"variant": "v", "dense": "d"}, None, 6, 60.0) == {"passes": 12, "steady": True}


def test_warm_up_ends_at_its_limit_and_says_that_it_is_not_steady(monkeypatch):
    monkeypatch.setattr(latency, "serve", clockwork({"v": itertools.count(1.0), "d": itertools.repeat(2.0)}))
    assert latency.warm_up({"variant": "v", "dense": "d"}, None, 6, 0.0) == {"passes": 3, "steady": False}


def test_a_slow_down_is_found_through_a_drift_that_hits_both():
    generator = np.random.default_rng(0)
    drift = np.exp(np.cumsum(generator.normal(0, 0.2, (60, 1)), axis=0))
    noise = np.exp(generator.normal(0, 0.02, (2, 60, 2)))
    figures = latency.summary(rows_of(1.05 * 2.0 * drift * noise[0], 2.0 * drift * noise[1]), seed=0)
    assert figures["decode_ratio_lo"] < 1.05 < figures["decode_ratio_hi"]
    assert figures["decode_ratio_lo"] > 1.0 and figures["decode_ratio_hi"] - figures["decode_ratio_lo"] < 0.03
    assert figures["prefill_ratio"] == pytest.approx(figures["decode_ratio"])


def test_the_figures_are_those_of_the_variant_worked_out_by_hand():
    variant, dense = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.full((3, 2), 2.0)
    figures = latency.summary(rows_of(variant, dense), seed=0)
    assert figures["decode_ms_per_token"] == 3.5 and figures["prefill_ms"] == 10.5
    assert figures["decode_ms_per_token_p10"] == pytest.approx(1.5)
    assert figures["decode_ms_per_token_p90"] == pytest.approx(5.5)
    assert figures["decode_ratio"] == pytest.approx((2 * 12 * 30) ** (1 / 6) / 2)  # few blocks: the geometric mean
    assert figures["decode_tokens_per_s"] == pytest.approx(5 * 1000 / (5 * 3.5))
    assert figures["dense"] == {"prefill_ms": 6.0, "decode_ms_per_token": 2.0, "decode_ms": 10.0, "waited_ms": 0.0}
    assert (figures["blocks"], figures["dropped_blocks"], figures["quiet"]) == (3, 0, True)


def test_a_disturbed_block_leaves_with_both_its_arms():
    variant, dense = np.full((5, 2), 2.0), np.full((5, 2), 2.0)
    variant[1], dense[3] = 50.0, 50.0
    figures = latency.summary(rows_of(variant, dense, dropped=(1, 3)), seed=0)
    assert (figures["blocks"], figures["dropped_blocks"], figures["quiet"]) == (3, 2, True)
    assert (figures["decode_ratio"], figures["decode_ms_per_token_p90"]) == (1.0, 2.0)


def test_when_nearly_all_blocks_are_disturbed_all_count_and_the_session_is_not_quiet():
    readings = np.full((5, 2), 2.0)
    figures = latency.summary(rows_of(readings, readings, dropped=(0, 1, 2)), seed=0)
    assert (figures["blocks"], figures["dropped_blocks"], figures["quiet"]) == (5, 0, False)


@pytest.mark.parametrize(
    ("taken_off_s", "waited_s", "steal_s", "switches", "block_s", "dropped"),
    [
        (0.0, 0.0, 0.0, 99, 0.1, False),  # switches count only where the waiting is unknown
        (0.019, 0.019, 0.0, 0, 0.1, False),
        (0.021, 0.021, 0.0, 0, 0.1, True),
        (0.010, 0.0119, 0.0, 0, 0.1, False),
        (0.010, 0.0121, 0.0, 0, 0.1, True),  # a helper thread waited
        (0.0, None, 0.0, 4, 0.01, False),  # housekeeping of the kernel
        (0.0, None, 0.0, 5, 0.1, True),
        (0.0, None, 0.0, 30, 1.0, False),
        (0.0, None, None, 41, 1.0, True),
        (0.0, 0.0, 0.01, 0, 0.05, False),  # one tick of that clock
        (0.0, 0.0, 0.02, 0, 0.1, True),
        (0.0, 0.0, 0.03, 0, 1.0, False),
        (0.0, 0.0, 0.05, 0, 1.0, True),
        (0.0, 0.0, None, 0, 1.0, False),
    ],
)
def test_the_rule_for_disturbed_blocks_is_the_documented_one(
    monkeypatch, taken_off_s, waited_s, steal_s, switches, block_s, dropped
):
    monkeypatch.setattr(latency.device, "usable_cores", lambda: 2)
    assert latency.disturbed(taken_off_s, waited_s, steal_s, switches, block_s) is dropped


def test_waiting_for_a_core_is_taken_off_and_a_variants_own_sleep_is_not(model, monkeypatch):
    clock, waited = itertools.count(0, 10), itertools.chain([0, 4], itertools.repeat(4))  # seconds
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(latency.device, "waiting", lambda: nullcontext(lambda: next(waited)))
    reading = latency.serve(model, latency.prompts(model, WORK, seed=0), WORK.output_tokens)
    assert reading == (6_000.0, 10_000.0, 50_000.0, 4_000.0)


def test_models_without_a_choice_of_logits_are_served_as_well():
    class Plain:
        device = torch.device("cpu")

        def forward(self, input_ids, past_key_values=None, use_cache=None):
            return SimpleNamespace(logits=torch.eye(5)[input_ids], past_key_values="cache")

        __call__ = forward

    token, cache = latency.prefill(Plain(), torch.tensor([[1, 4], [2, 3]]))
    assert token.tolist() == [[4], [3]] and cache == "cache"
