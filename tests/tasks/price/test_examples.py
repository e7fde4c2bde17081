"""What a model of prices is trained on and shown: the same for a seed, every row once an epoch, nothing too long."""

import json
import shutil
from collections import Counter

import pytest
import torch

from prunelab import tasks
from prunelab.errors import InputError
from prunelab.models import loading
from prunelab.tasks.price.rows import of_part
from prunelab.tasks.price.seeing import examples, processing, showing, starting
from tests.helpers import seeing

PRICE = tasks.of("price")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = seeing.rows(tmp_path_factory.mktemp("data"), "LLaVA")
    (folder / "model").symlink_to(seeing.model_of("LLaVA"))
    return folder


@pytest.fixture(scope="module")
def started(data):
    return PRICE.start(seeing.settings(), data, 7)


def answers(processor, rows) -> list[str]:
    """The texts of the answers of encoded rows."""
    tokenizer = processor.tokenizer
    return [tokenizer.decode(row["labels"][row["labels"] != -100][:-1]) for row in rows]


def test_an_epoch_is_every_row_once_in_an_order_of_its_own(data, started):
    settings = seeing.settings({"windows_per_epoch": None, "epochs": 3})
    found = PRICE.examples(settings, started.processor, data, 7)
    run = [found.train[index] for index in range(len(found.train))]
    assert (found.train.epochs, found.train.per_epoch, found.train.steps_per_epoch) == (3, 8, 2)
    said = answers(started.processor, run)
    expected = Counter(row["answer"] for row in of_part(data, "train"))
    epochs = [said[start : start + 8] for start in (0, 8, 16)]
    assert all(Counter(epoch) == expected for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    again = PRICE.examples(settings, started.processor, data, 7).train
    assert answers(started.processor, [again[index] for index in (13, 2)]) == [said[13], said[2]]
    other = PRICE.examples(settings, started.processor, data, 8).train
    assert answers(started.processor, [other[index] for index in range(8)]) != epochs[0]


def test_the_last_batch_of_an_epoch_is_filled_from_its_front(data, started):
    settings = seeing.settings({"windows_per_epoch": None, "batch_size": 3})
    train = PRICE.examples(settings, started.processor, data, 7).train
    said = answers(started.processor, [train[index] for index in range(9)])
    assert train.steps_per_epoch == 3 and said[8] == said[0]


def test_batches_are_what_the_model_takes(data, started):
    found = PRICE.examples(seeing.settings(), started.processor, data, 7)
    batch = found.collate([found.train[index] for index in range(4)])
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    with torch.no_grad():
        assert torch.isfinite(started.model(**batch).loss)
    assert len(found.validation) == 3
    assert found.tokens_per_step == pytest.approx(4 * batch["input_ids"].shape[1], abs=4)


def test_a_row_too_long_is_told_before_anything_is_trained(data, started):
    with pytest.raises(InputError, match=r"rows.csv, line \d+: expected at most 15 tokens"):
        PRICE.examples(seeing.settings({"context": 15}), started.processor, data, 7)


def test_rows_that_do_not_fit_into_memory_are_encoded_anew(data, started, monkeypatch):
    kept = PRICE.examples(seeing.settings(), started.processor, data, 7).train
    monkeypatch.setattr(examples, "KEPT_BYTES", 4000)
    anew = PRICE.examples(seeing.settings(), started.processor, data, 7).train
    assert 0 < len(anew.rows._kept) < len(kept.rows._kept) == 8
    for index in range(8):
        assert all(torch.equal(kept[index][name], anew[index][name]) for name in kept[index])


def test_a_held_out_row_that_the_model_cannot_take_is_told_before_anything_is_trained(data, started, tmp_path):
    place = tmp_path / "price"
    shutil.copytree(data / "price", place)
    rows = of_part(tmp_path, "test")
    rows[3]["prompt"] += "0" * 128  # as many as the model has positions
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=rf"{rows[3]['where']}: expected at most 128 tokens"):
        PRICE.examples(seeing.settings(), started.processor, tmp_path, 7)
    (place / rows[1]["picture"]).unlink()
    with pytest.raises(InputError, match=rf"{rows[1]['where']}: its picture cannot be read"):
        PRICE.examples(seeing.settings(), started.processor, tmp_path, 7)


def test_what_price_json_says_is_enough_to_ask(data, started, tmp_path):
    started.processor.save_pretrained(tmp_path)
    started.model.config.save_pretrained(tmp_path)
    PRICE.beside(seeing.settings(), data, tmp_path)
    said = json.loads((tmp_path / "price.json").read_text())
    assert said["answer_tokens"] == 4
    assert (said["prompt"], said["answer"]) == ("{picture}{rooms} rooms:", "{price}")


def test_a_new_model_begins_with_all_letters_and_the_same_weights_for_a_seed(data):
    one, same, other = (PRICE.start(seeing.settings(tower=True), data, seed) for seed in (1, 1, 2))
    state, again, foreign = (found.model.state_dict() for found in (one, same, other))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not all(torch.equal(state[name], foreign[name]) for name in state)
    tokenizer = one.processor.tokenizer
    for part in ("train", "validation", "test"):
        for row in of_part(data, part):
            text = row["prompt"].replace("{picture}", "") + row["answer"]
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
    assert one.new == ("model.vision_tower.", "model.multi_modal_projector.")


def test_who_sees_the_pictures_is_said_once(data):
    with pytest.raises(InputError, match="price.tower: the fetched model sees pictures by itself"):
        PRICE.start(seeing.settings(price={"tower": dict(vars(seeing.SMALL))}), data, 1)
    blind = seeing.settings(tower=True, price={"tower": None})
    with pytest.raises(InputError, match="price.tower: null, but the model reads text only"):
        PRICE.start(blind, data, 1)


def test_files_are_all_that_decides(data):
    names = {path.name for path in PRICE.files(seeing.settings(), data)}
    assert {"train.jsonl", "validation.jsonl", "test.jsonl", "manifest.json", "model.safetensors"} <= names
    assert "processor_config.json" in names


@pytest.mark.parametrize("family", list(seeing.PLACES))
def test_calibration_samples_are_rows_with_answers_and_their_tokens_are_counted(family, tmp_path):
    folder = seeing.rows(tmp_path, family)
    found, facts = PRICE.samples(seeing.settings(), seeing.model_of(family), folder, 5)
    assert {len(value) for value in found.values()} == {6}
    assert facts["picture_tokens"] == 6 * seeing.PLACES[family] and facts["answer_tokens"] == 6 * 4
    total = found["input_ids"].numel()
    assert facts["picture_tokens"] + facts["text_tokens"] + facts["padding_tokens"] == total
    assert int((found["attention_mask"] == 0).sum()) == facts["padding_tokens"]
    again, _ = PRICE.samples(seeing.settings(), seeing.model_of(family), folder, 5)
    assert all(torch.equal(found[name], again[name]) for name in found)
    model = loading.of_folder(seeing.model_of(family))
    with torch.no_grad():
        assert torch.isfinite(model(**found, use_cache=False).loss)


def test_too_few_and_too_long_samples_are_told(data):
    dense = seeing.model_of("LLaVA")
    many = seeing.settings(calibrate={"samples": 9})
    with pytest.raises(InputError, match="calibrate.samples: 9 are asked for, training has 8 rows"):
        PRICE.samples(many, dense, data, 1)
    with pytest.raises(InputError, match="calibrate.length: expected at most 10 tokens of a sample, found 1"):
        PRICE.samples(seeing.settings(calibrate={"length": 10}), dense, data, 1)


@pytest.mark.parametrize("family", list(seeing.PLACES))
def test_a_prompt_to_be_timed_has_its_picture_and_exactly_so_many_tokens(family):
    dense = seeing.model_of(family)
    encoder = showing.encoder_of(dense, ".")
    found = PRICE.prompt(seeing.settings(), dense, 60, 2)
    assert found["input_ids"].shape == (2, 60) and found["attention_mask"].shape == (2, 60)
    assert int(encoder.places(found["input_ids"][0]).sum()) == seeing.PLACES[family]
    model = loading.of_folder(dense)
    with torch.no_grad():
        assert model(**found, use_cache=False).logits.shape[:2] == (2, 60)
    with pytest.raises(InputError, match="efficiency.prompt_tokens: 4, of which this model's picture alone takes"):
        PRICE.prompt(seeing.settings(), dense, 4, 1)


def test_lessons_are_batches_of_rows_that_begin_anew_each_time(data):
    found = PRICE.recovery(seeing.settings(recover={"tokens": 400, "batch_size": 4}), seeing.model_of("LLaVA"), data, 3)
    first, again = list(found.batches), list(found.batches)
    assert len(first) == len(found.batches) == 400 // found.tokens_per_step + 1
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in zip(first, again, strict=True))
    assert all(batch["labels"].shape == batch["input_ids"].shape for batch in first)
    assert sum(len(batch["input_ids"]) for batch in found.validation) == 3


def test_a_folder_without_a_processor_is_told(tmp_path, data):
    with pytest.raises(InputError, match="expected a processor"):
        processing.of_folder(tmp_path)
    assert starting.require_eyes(seeing.settings(tower=True), False) is None
