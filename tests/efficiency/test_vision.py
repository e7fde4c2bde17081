"""Models that see pictures are timed with one: prefill with it, decode without, and the tower's share."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from prunelab.efficiency import latency, memory, vision
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.tasks import price
from tests.helpers import prices, seeing, tiny

WORK = latency.Work(prompt_tokens=12, batch=1, output_tokens=4)


@pytest.fixture(scope="module", params=["LLaVA", "PaliGemma", "Gemma 3", "Qwen2.5-VL"])
def seen(request, tmp_path_factory):
    """(model, its prompt of a picture and text, how many tokens of it are the picture's)."""
    folder = prices.dense(tmp_path_factory.mktemp("seen") / "dense", request.param)
    inputs = price.prompt(prices.settings(), folder, WORK.prompt_tokens, WORK.batch)
    return checkpoint.load(folder), inputs, seeing.PLACES[request.param]


def test_a_prompt_of_tokens_alone_may_be_named_or_not():
    model = tiny.gpt2()
    ids = latency.prompts(model, WORK, 0)
    with torch.inference_mode():
        one, two = (latency.prefill(model, prompt)[0] for prompt in (ids, {"input_ids": ids}))
    assert torch.equal(one, two)
    assert memory.macs_per_token(model, ids) == memory.macs_per_token(model, {"input_ids": ids})
    assert memory.kv_cache_bytes_per_token(model, {"input_ids": ids}) == 2 * 2 * 16 * 4


def test_what_is_timed_behind_a_picture_decodes_the_tokens_that_generate_would(seen):
    model, inputs, _ = seen
    with torch.inference_mode():
        token, cache = latency.prefill(model, latency.placed(model, inputs, WORK))
        made = [token]
        for _ in range(WORK.output_tokens - 1):
            token, cache = latency.decode_one_token(model, token, cache)
            made.append(token)
        wanted = model.generate(**inputs, do_sample=False, min_new_tokens=4, max_new_tokens=4, pad_token_id=0)
    assert torch.equal(torch.cat([inputs["input_ids"], *made], dim=1), wanted)


def test_the_tower_looks_once_at_the_prefill_and_its_share_lies_between_nothing_and_all(seen):
    model, inputs, _ = seen
    calls = []
    hook = vision.tower(model).register_forward_hook(lambda *_: calls.append(1))
    latency.serve(model, inputs, WORK.output_tokens)
    hook.remove()
    assert calls == [1]
    told = vision.figures(model, inputs)
    assert 0 < told["vision_share_p10"] <= told["vision_share"] <= told["vision_share_p90"] < 1
    assert told["vision_ms"] > 0
    assert not vision.tower(model)._forward_hooks and not vision.tower(model)._forward_pre_hooks


def test_a_tower_that_takes_three_of_four_seconds_has_three_quarters(seen, monkeypatch):
    model, inputs, _ = seen
    now, tower = [0.0], vision.tower(model)
    forward = tower.forward

    def takes(seconds: float) -> None:
        now[0] += seconds

    def slow(*args, **named):
        takes(3.0)
        return forward(*args, **named)

    monkeypatch.setattr(vision, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(vision.device, "waiting", lambda: nullcontext(lambda: 0.0))
    monkeypatch.setattr(tower, "forward", slow)
    hook = model.register_forward_pre_hook(lambda *_: takes(1.0))
    told = vision.figures(model, inputs)
    hook.remove()
    assert told["vision_share"] == pytest.approx(0.75) and told["vision_ms"] == pytest.approx(3000)


def test_where_no_picture_goes_in_there_is_no_share(seen):
    model, inputs, _ = seen
    assert vision.figures(tiny.gpt2(), torch.zeros(1, 4, dtype=torch.int64)) == {}
    assert vision.tower(tiny.gpt2()) is None and vision.tower(object()) is None
    assert vision.figures(model, inputs["input_ids"]) == {}


def test_works_say_how_long_a_prompt_really_is_and_equal_ones_are_one():
    lengths = []

    def prompt(tokens: int, batch: int) -> dict:
        lengths.append((tokens, batch))
        return {"input_ids": torch.zeros(batch, max(tokens, 20), dtype=torch.int64)}

    works = latency.sweep([8, 16, 32], [1, 2], 4)
    made = latency.prompted(works, prompt)
    assert list(made) == [(20, 1, 4), (32, 1, 4), (20, 2, 4)] and len(lengths) == 4
    assert all(inputs["input_ids"].shape == (work.batch, work.prompt_tokens) for work, inputs in made.items())


def test_a_prompt_that_leaves_no_room_is_refused_before_it_runs():
    model = tiny.gpt2()
    with pytest.raises(InputError, match="need a context of 36, this model has 32"):
        latency.placed(model, {"input_ids": torch.zeros(1, 32, dtype=torch.int64)}, latency.Work(32, 1, 4))


def test_pixels_come_in_the_precision_of_the_model_and_tokens_stay_numbers():
    model = tiny.gpt2().to(torch.bfloat16)
    inputs = {"input_ids": torch.zeros(1, 4, dtype=torch.int64), "pixel_values": torch.zeros(1, 3, 2, 2)}
    placed = latency.placed(model, inputs, latency.Work(4, 1, 2))
    assert placed["pixel_values"].dtype == torch.bfloat16 and placed["input_ids"].dtype == torch.int64
