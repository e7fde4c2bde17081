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
    serve = clockwork({"v": itertools.repeat(1.0), "d": itertools.repeat(2.0)})
    monkeypatch.setattr(latency, "serve", serve)
    monkeypatch.setattr(latency, "serve_in_turns", lambda models, ids, n: [serve(model, ids, n) for model in models])

    def order(seed):
        ticks = itertools.count()
        monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
        rows = latency.interleave({"variant": "v", "dense": "d"}, None, WORK, 10.0, seed)
        assert [row["position"] for row in rows] == [0, 1, 2, 3] * (len(rows) // 4)
        return ["".join(row["arm"][0] for row in rows[i : i + 4]) for i in range(0, len(rows), 4)]

    assert set(order(0)) == {"vddv", "dvvd"}
    assert order(0) == order(0) != order(1)


class Machine:
    """A machine on which passes take no time but its own clock's, `step_ms(arm)` a step of a pass of ten."""

    def __init__(self, monkeypatch, step_ms, moved=lambda: None):
        self.now, self.parts, self.step_ms, self.dropped = 0.0, 0, step_ms, lambda: False
        self.moved = moved
        monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(latency, "gc", SimpleNamespace(collect=int, disable=int, enable=int))  # a second each
        monkeypatch.setattr(latency, "serve", lambda model, ids, output_tokens: None)  # to fill the caches
        monkeypatch.setattr(latency, "serve_in_turns", self.serve)
        monkeypatch.setattr(latency, "move", self.move)
        quiet = {"waited_s": 0.0, "steal_s": 0.0, "others_s": 0.0, "switches": 0, "block_s": 0.0}
        monkeypatch.setattr(latency.disturbance, "counters", dict)
        monkeypatch.setattr(latency.disturbance, "since", lambda before: dict(quiet))
        monkeypatch.setattr(latency.disturbance, "disturbed", lambda taken_off_s, **counted: self.dropped())

    def serve(self, models, ids, output_tokens):
        times = [self.step_ms(model) for model in models]
        self.now += 10 * sum(times) / 1e3
        return [latency.Pass(3 * ms, ms, 7 * ms, 0.0) for ms in times]

    def move(self, models, generator):
        self.parts += 1
        self.moved()

    def interleave(self, seconds, within=None, seed=0):
        return latency.interleave({"variant": "variant", "dense": "dense"}, None, WORK, seconds, seed, within)


def test_an_absolute_time_has_an_interval_that_holds_what_comes_and_goes_on_the_machine(monkeypatch):
    machine = Machine(monkeypatch, lambda arm: 3.0 if machine.parts % 2 else 3.6)  # both models, every other part
    found = latency.summary(machine.interleave(5.99), seed=0)
    assert found["decode_ratio_lo"] == pytest.approx(1) == pytest.approx(found["decode_ratio_hi"])
    middle = (3.0 * 3.6) ** 0.5
    lo, hi = (found[f"decode_ms_per_token_{end}"] * middle / found["decode_ms_per_token"] for end in ("lo", "hi"))
    assert 3.1 < lo < middle < hi < 3.5
    assert found["prefill_ms_lo"] / found["prefill_ms"] == pytest.approx(lo / middle)


def test_weights_move_before_each_part_and_a_part_is_a_block_where_that_lasts_a_tenth_of_a_second(monkeypatch):
    machine = Machine(monkeypatch, lambda arm: 3.0)  # a block lasts 0.12 s
    rows = machine.interleave(5.99)
    assert [row["part"] for row in rows[0::4]] == list(range(50))
    assert machine.parts == 50


def test_a_part_of_quick_blocks_has_many(monkeypatch):
    rows = Machine(monkeypatch, lambda arm: 0.3).interleave(5.99)  # 0.012 s
    assert [row["part"] for row in rows[0::4]][:-5] == [part for part in range(55) for _ in range(9)]


def test_there_are_ten_parts_also_in_a_small_budget(monkeypatch):
    rows = Machine(monkeypatch, lambda arm: 0.3).interleave(0.23)  # a tenth of it holds two blocks
    assert [row["part"] for row in rows[0::4]] == [part for part in range(10) for _ in range(2)]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.02, 1.3])
def test_timing_ends_with_the_tenth_part_when_its_interval_is_narrow_whatever_its_value(monkeypatch, ratio):
    generator = np.random.default_rng(1)
    step_ms = {"variant": 5.0 * ratio, "dense": 5.0}
    machine = Machine(monkeypatch, lambda arm: step_ms[arm] * generator.normal(1, 0.01))
    figures = latency.summary(machine.interleave(60.0, within=0.03), seed=0)
    assert machine.parts == figures["blocks"] == 10 and latency.width(figures) < 0.03
    assert figures["decode_ratio_lo"] < ratio < figures["decode_ratio_hi"]


def test_without_a_limit_of_width_all_of_the_time_is_taken(monkeypatch):
    machine = Machine(monkeypatch, lambda arm: 2.5)
    machine.interleave(60.0)
    assert machine.now == pytest.approx(60.0, abs=0.2)


def test_a_wide_interval_is_looked_at_again_after_a_quarter_more_parts_each_time(monkeypatch):
    looked = []
    monkeypatch.setattr(latency, "width", lambda figures: looked.append(figures["blocks"]) or 1.0)
    machine = Machine(monkeypatch, lambda arm: 3.0)
    machine.interleave(4.79, within=0.03)
    assert looked == [10, 13, 17, 22, 28, 35]
    assert machine.now == pytest.approx(4.8)  # and no longer than it may


def test_parts_without_an_undisturbed_block_do_not_count_towards_the_first_look(monkeypatch):
    machine = Machine(monkeypatch, lambda arm: 3.0)
    machine.dropped = lambda: machine.parts <= 3
    rows = machine.interleave(60.0, within=0.03)
    assert machine.parts == 13 and latency.summary(rows, seed=0)["dropped_blocks"] == 3


@pytest.mark.parametrize("takes_our_core", [False, True])
def test_beside_a_process_that_spins_2_s_of_every_10_all_but_two_of_twelve_rows_are_narrow_enough(
    monkeypatch, takes_our_core
):
    """It makes passes slower by half and ten times as uneven; on our core, blocks are dropped as well. One row follows
    the other on the same clock, each for 10 s at most; a block of quiet passes lasts 0.13 s."""
    generator = np.random.default_rng(5)
    places, now, narrow = {}, 0.0, 0

    def spinning():
        return machine.now % 10 < 2

    def step_ms(arm):
        slower, spread = (1.5, 0.1) if spinning() else (1.0, 0.01)
        return 3.2 * slower * np.exp(places[arm] + spread * generator.normal())

    for row in range(12):
        machine = Machine(
            monkeypatch,
            step_ms,
            lambda: places.update(variant=generator.normal(0, 0.01), dense=generator.normal(0, 0.01)),
        )
        machine.now = now
        machine.dropped = lambda machine=machine: takes_our_core and (spinning() or (machine.now - 0.1) % 10 < 2)
        figures = latency.summary(machine.interleave(10.0, within=0.03, seed=row), seed=row)
        now = machine.now
        narrow += latency.width(figures) <= 0.03
    assert narrow >= 10


def heavy_tails(generator):
    """Student's t with three degrees of freedom, in the scale of a normal one."""
    return generator.standard_t(3) / 3**0.5


def drift(generator):
    """Steps of a speed that wanders for both models, on top of what is each pass's own."""
    speed = [0.0]

    def draw(_):
        speed[0] += generator.normal(0, 0.5)
        return generator.normal() + speed[0]

    return draw


@pytest.mark.parametrize(
    ("noise", "pass_sd"),
    [
        (lambda generator: lambda g: g.normal(), 0.02),
        (lambda generator: heavy_tails, 0.025),
        (drift, 0.02),
    ],
    ids=["normal", "heavy tails", "drift"],
)
def test_the_interval_of_equal_models_holds_one_92_times_of_100_when_its_width_ends_the_timing(
    monkeypatch, noise, pass_sd
):
    """Both arms lie in places of their own for the length of a part, worth 1.5 % each: 10 to 40 parts are needed."""
    paired = latency.stats.paired_ratio
    monkeypatch.setattr(latency.stats, "paired_ratio", lambda a, b, draws, **named: paired(a, b, 1000, **named))
    generator = np.random.default_rng(3)
    places: dict = {}
    runs, held, early, parts = 300, 0, 0, []
    for run in range(runs):
        draw = noise(generator)
        machine = Machine(
            monkeypatch,
            lambda arm, draw=draw: 3.0 * np.exp(places[arm] + pass_sd * draw(generator)),
            lambda: places.update(variant=generator.normal(0, 0.015), dense=generator.normal(0, 0.015)),
        )
        figures = latency.summary(machine.interleave(4.8, within=0.03, seed=run), seed=run)
        held += figures["decode_ratio_lo"] <= 1 <= figures["decode_ratio_hi"]
        early += machine.now < 4.4
        parts.append(machine.parts)
    assert held >= 0.92 * runs
    assert early > 0.7 * runs and np.quantile(parts, 0.9) > 20  # it was width that ended them, and not at once


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


def test_waiting_for_a_core_is_taken_off_and_a_variants_own_sleep_is_not(model, monkeypatch):
    clock, waited = itertools.count(0, 10), itertools.chain([0, 4], itertools.repeat(4))  # seconds
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(latency.device, "waiting", lambda: nullcontext(lambda: next(waited)))
    reading = latency.serve(model, latency.prompts(model, WORK, seed=0), WORK.output_tokens)
    assert reading == (6_000.0, 10_000.0, 50_000.0, 4_000.0)


def test_a_wait_that_is_booked_late_makes_no_step_shorter_than_nothing(model, monkeypatch):
    clock, waited = itertools.count(0, 10), itertools.chain([0, 0], itertools.repeat(14))  # seconds: steps of 10
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(latency.device, "waiting", lambda: nullcontext(lambda: next(waited)))
    reading = latency.serve(model, latency.prompts(model, WORK, seed=0), WORK.output_tokens)
    assert reading == (10_000.0, 10_000.0, 50_000.0, reading.waited_ms)


def test_two_passes_take_turns_of_three_steps_and_the_first_of_a_turn_is_not_read(monkeypatch):
    """Prefill lasts 100 s; a step 1 s, after the other model's turn 50 s more, as with cold caches."""
    now, order = [0.0], []

    def prefill(model, ids):
        now[0] += 100
        order.append(model.upper())
        return "token", "cache"

    def decode_one_token(model, token, cache):
        now[0] += 1 + 50 * (order[-1].lower() != model or order[-1].isupper())
        order.append(model)
        return token, cache

    monkeypatch.setattr(latency, "prefill", prefill)
    monkeypatch.setattr(latency, "decode_one_token", decode_one_token)
    monkeypatch.setattr(latency, "synchronise", lambda model: None)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(latency.device, "waiting", lambda: nullcontext(lambda: 0.0))
    a, b = latency.serve_in_turns(["a", "b"], None, 8)
    assert "".join(order) == "AB" + "bbbaaa" + "aaabbb" + "ba"
    assert a == b == (100_000.0, 1_000.0, 7_000.0, 0.0)  # ms: seven steps of a second


def test_models_without_a_choice_of_logits_are_served_as_well():
    class Plain:
        device = torch.device("cpu")

        def forward(self, input_ids, past_key_values=None, use_cache=None):
            return SimpleNamespace(logits=torch.eye(5)[input_ids], past_key_values="cache")

        __call__ = forward

    token, cache = latency.prefill(Plain(), torch.tensor([[1, 4], [2, 3]]))
    assert token.tolist() == [[4], [3]] and cache == "cache"
