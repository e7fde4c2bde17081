import copy
import time
from collections import Counter

import pytest
import torch

from prunelab.efficiency import joules, latency
from prunelab.energy.wattmeter import Window
from tests.helpers import tiny

WORK = latency.Work(prompt_tokens=8, batch=2, output_tokens=5)
MODELLED = {"cpu": "cpu_load_model", "gpu": "none", "ram": "model"}


class TokenMeter:
    """A meter that bills every token a model is given: `prices` joules of it; and 0.5 J a window for the memory."""

    def __init__(self, models: dict, prices: dict):
        self.tokens = Counter()
        self.prices = prices
        for name, model in models.items():
            model.register_forward_pre_hook(self._counter(name), with_kwargs=True)

    def _counter(self, name):
        def count(model, args, named):
            self.tokens[name] += named["input_ids"].numel()

        return count

    def window(self, work):
        self.tokens.clear()
        start = time.perf_counter()
        work()
        spent = sum(self.prices[name] * count for name, count in self.tokens.items())
        return Window(time.perf_counter() - start, spent, None, 0.5)


@pytest.fixture(scope="module")
def session():
    models = {"variant": tiny.gpt2(), "dense": tiny.gpt2()}
    meter = TokenMeter(models, {"variant": 3.0, "dense": 4.0})
    ids = latency.prompts(models["dense"], WORK, seed=0)
    # 3 passes of prefill and 2 of decode a window, 3 blocks in 3 x 4 x (3 x 2 + 2 x 3) ms
    typical = {"prefill_ms": 2.0, "decode_ms": 3.0}
    return joules.interleave(meter, models, ids, WORK, 0.144, 0.006, typical, seed=0)


def test_windows_alternate_and_hold_the_same_fixed_work(session):
    assert len(session) == 3 * 4 * 2
    assert {(row["phase"], row["passes"], row["tokens"]) for row in session} == {
        ("prefill", 3, 3 * 2 * 8),
        ("decode", 2, 2 * 2 * 4),
    }
    arms = ["".join(r["arm"][0] for r in session if r["block"] == b and r["phase"] == "decode") for b in range(3)]
    assert set(arms) <= {"vddv", "dvvd"}


@pytest.mark.parametrize(
    ("sources", "wanted", "read"),
    [
        ({"cpu": "cpu_load_model", "gpu": "none", "ram": "model"}, 0.1, 0.1),
        ({"cpu": "rapl", "gpu": "none", "ram": "model"}, 0.1, 0.1),
        ({"cpu": "cpu_load_model", "gpu": "nvml_counter", "ram": "model"}, 0.1, 1.0),
        ({"cpu": "rapl", "gpu": "amdsmi_counter", "ram": "model"}, 10.0, 10.0),
    ],
)
def test_a_window_is_no_shorter_than_a_gpus_counter_can_read(sources, wanted, read):
    assert joules.readable(wanted, sources) == read


def test_a_decode_window_bills_decoded_tokens_only_and_a_prefill_window_prompts_only(session):
    price = {"variant": 3.0, "dense": 4.0}
    for row in session:
        assert row["cpu_j"] == price[row["arm"]] * row["tokens"]


def test_joules_per_token_ratio_and_saving_are_the_prices(session):
    figures = joules.summary(session, {"cpu": 0.0, "gpu": None, "ram": 0.0}, MODELLED)
    for phase in joules.PHASES:
        assert figures[f"{phase}_j_per_token"] == 3.0 and figures[f"{phase}_j_per_token_dense"] == 4.0
        assert (figures[f"{phase}_j_per_token_lo"], figures[f"{phase}_j_per_token_hi"]) == (3.0, 3.0)
        assert figures[f"{phase}_j_ratio"] == pytest.approx(0.75)
        assert figures[f"{phase}_j_saving_per_token"] == 1.0
        assert figures[f"{phase}_cpu_j_per_token"] == 3.0
        assert figures[f"{phase}_gpu_j_per_token"] is None
    assert figures["decode_ram_j_per_token"] == pytest.approx(0.5 / 16)


def test_net_is_gross_less_idle_watts():
    rows = [
        {"phase": phase, "arm": arm, "tokens": 10, "seconds": 2.0, "cpu_j": 50.0, "gpu_j": 900.0, "ram_j": 1.0}
        for phase in joules.PHASES
        for arm in ("variant", "dense", "dense", "variant")
    ]
    counted = {"cpu": "rapl", "gpu": "nvml_counter", "ram": "model"}
    figures = joules.summary(rows, {"cpu": 10.0, "gpu": 40.0, "ram": 20.0}, counted)
    assert figures["decode_j_per_token"] == pytest.approx(95.0)
    assert figures["decode_net_j_per_token"] == pytest.approx((950.0 - 2.0 * 50.0) / 10)


BUSY = [{"seconds": 2.0, "cpu_j": 60.0, "gpu_j": None, "ram_j": 40.0}]
IDLE = [Window(1.0, 10.0, None, 20.0)] * 2
TIMING = {
    "prompt_tokens": 8, "batch": 2, "prefill_ms": 16.0, "decode_ms_per_token": 3.0,
    "prefill_ratio": 0.8, "prefill_ratio_lo": 0.7, "prefill_ratio_hi": 0.9,
    "decode_ratio": 0.75, "decode_ratio_lo": 0.72, "decode_ratio_hi": 0.78,
    "dense": {"prefill_ms": 20.0, "decode_ms_per_token": 4.0},
}  # fmt: skip


def test_an_estimated_token_costs_the_watts_above_idle_for_its_time():
    power = joules.session_power(BUSY, IDLE, MODELLED, cores=2)
    assert (power["token_w"], power["above_idle"]) == (20.0, True)  # 30 W less 10 W
    figures = joules.estimate(TIMING, power)
    assert figures["decode_j_per_token"] == pytest.approx(20.0 * 0.003 / 2)  # a step makes two tokens
    assert figures["prefill_j_per_token"] == pytest.approx(20.0 * 0.016 / 16)
    assert figures["decode_j_per_token_lo"] == pytest.approx(0.03 * 0.72 / 0.75)
    assert figures["decode_j_per_token_hi"] == pytest.approx(0.03 * 0.78 / 0.75)
    assert [figures[f"decode_j_ratio{end}"] for end in ("", "_lo", "_hi")] == [0.75, 0.72, 0.78]
    saving = [figures[f"decode_j_saving_per_token{end}"] for end in ("", "_lo", "_hi")]
    assert saving == pytest.approx([0.04 * 0.25, 0.04 * 0.22, 0.04 * 0.28])
    assert figures["decode_net_j_per_token"] == figures["decode_j_per_token"]
    assert figures["decode_cpu_j_per_token"] == pytest.approx(30.0 * 0.003 / 2)  # beside it, gross
    assert figures["decode_ram_j_per_token"] == pytest.approx(20.0 * 0.003 / 2)
    assert figures["decode_gpu_j_per_token"] is None


def test_estimates_have_the_figures_that_counters_give(session):
    counted = joules.summary(session, {"cpu": 0.0, "gpu": None, "ram": 0.0}, MODELLED)
    assert joules.estimate(TIMING, joules.session_power(BUSY, IDLE, MODELLED, cores=2)).keys() == counted.keys()


def test_a_model_that_tells_no_busy_from_idle_bills_all_its_watts():
    constant = MODELLED | {"cpu": "constant"}
    idle = [Window(1.0, 29.9, None, 20.0)] * 2  # a constant of 30 W, and two clocks
    power = joules.session_power(BUSY, idle, constant, cores=2)
    assert (power["token_w"], power["above_idle"]) == (30.0, False)


def test_watts_are_joules_over_seconds():
    windows = [Window(1.0, 10.0, None, 20.0), Window(3.0, 50.0, None, 60.0)]
    assert joules.watts(windows) == {"cpu": 15.0, "gpu": None, "ram": 20.0}


def test_there_are_two_blocks_however_small_the_budget(session):
    models = {"variant": tiny.gpt2(), "dense": tiny.gpt2()}
    meter = TokenMeter(models, {"variant": 1.0, "dense": 1.0})
    ids = latency.prompts(models["dense"], WORK, seed=0)
    rows = joules.interleave(meter, models, ids, WORK, 1e-9, 1e-9, {"prefill_ms": 2.0, "decode_ms": 3.0}, seed=0)
    assert {row["block"] for row in rows} == {0, 1} and {row["passes"] for row in rows} == {1}


WINDOW = {"max_position_embeddings": 64, "sliding_window": 8}


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("mistral", {**tiny.LLAMA, **WINDOW}),
        ("llama", tiny.LLAMA),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 2}),
    ],
)
def test_decoding_again_and_again_starts_from_the_same_prompt(architecture, config):
    """Also behind a full window, and with a state, from which nothing can be taken off again."""
    from prunelab.models import models

    torch.manual_seed(0)
    model = models.build(architecture, config, vocab_size=20).eval()
    with torch.inference_mode():
        start = latency.prefill(model, torch.arange(12)[None])
        before, _ = latency.decode_one_token(model, start[0], copy.deepcopy(start[1]))
        joules._decode(model, start, steps=5, passes=3)
        after, _ = latency.decode_one_token(model, *start)
    assert torch.equal(before, after)
