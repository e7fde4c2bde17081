"""Rows as tensors: the loss is of the answer alone and sees nothing behind it; asked greedily, it says the same."""

import pytest
import torch
from PIL import Image

from prunelab.errors import InputError
from prunelab.models import loading
from prunelab.tasks.price.rows import of_part
from prunelab.tasks.price.seeing import encoding, processing
from prunelab.tasks.price.seeing.encoding import Encoder
from tests.helpers import seeing

FAMILIES = list(seeing.PLACES)


class Case:
    """A model of a family, its encoder, and rows with pictures."""

    def __init__(self, family: str, folder):
        self.model = loading.of_folder(seeing.model_of(family))
        data = seeing.rows(folder, family)
        processor = processing.of_folder(seeing.model_of(family))
        self.encoder = Encoder(processor, processor.config, data / "price")
        self.rows = of_part(data, "train")

    def logits(self, encoded: dict, **changed) -> torch.Tensor:
        """(tokens, vocabulary) of one encoded row."""
        inputs = {name: value[None] for name, value in (encoded | changed).items() if name != "labels"}
        with torch.inference_mode():
            return self.model(**inputs, use_cache=False).logits[0]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return Case("LLaVA", tmp_path_factory.mktemp("rows"))


def close(one, other):
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_only_an_answer_and_its_end_have_labels(case):
    row = case.rows[0]
    encoded = case.encoder.row(row)
    known = encoded["labels"] != -100
    assert encoded["labels"][known].tolist() == encoded["input_ids"][known].tolist()
    assert known.tolist() == [False] * (len(known) - 4) + [True] * 4
    assert case.encoder.written(encoded["labels"][known].tolist()) == row["answer"]
    assert int(encoded["labels"][-1]) == case.encoder.processor.tokenizer.eos_token_id
    assert case.encoder.written(encoded["labels"][known][:-1].tolist()) == row["answer"] + "…"  # it had not ended


def test_a_picture_takes_the_places_that_its_model_has_for_it(case):
    encoded = case.encoder.prompt(case.rows[0])
    assert case.encoder.pictures_tokens(encoded) in seeing.PLACES.values()
    lengths = {name: len(value) for name, value in encoded.items() if value.dim() == 1 and "grid" not in name}
    assert len(set(lengths.values())) == 1 and "attention_mask" in lengths


def test_a_later_token_of_an_answer_changes_nothing_before_it(case):
    encoded = case.encoder.row(case.rows[0])
    encoding.require_answers_in_order(case.model, case.encoder, encoded, "mine")
    for place in (-1, -2, -3):
        other = encoded["input_ids"].clone()
        other[place] = (other[place] + 1) % 10
        close(case.logits(encoded, input_ids=other)[:place], case.logits(encoded)[:place])
    assert not torch.allclose(case.logits(encoded, input_ids=other)[-1], case.logits(encoded)[-1])


def test_the_picture_changes_what_is_predicted(case):
    one, other = (case.encoder.row(case.rows[0] | {"picture": row["picture"]}) for row in case.rows[:2])
    assert not torch.allclose(case.logits(one)[-4:], case.logits(other)[-4:], atol=1e-4)


def test_an_answer_is_what_the_trained_logits_say_token_by_token(case):
    """Asking (a cache, positions counted by `generate`) and training (one pass over all) agree."""
    prompt = case.encoder.prompt(case.rows[0])
    inputs = case.encoder.collate([prompt])
    ids = encoding.generate(case.model, case.encoder, inputs, 4)[0]
    asked = len(prompt["input_ids"])
    whole = dict(prompt)
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in prompt:
            fill = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            more = fill.get(name, torch.full_like(ids, case.encoder.fill.get(name, 0)))
            whole[name] = torch.cat([prompt[name], more])
    said = case.logits(whole)[asked - 1 : -1].argmax(-1)
    end = (ids == case.encoder.end).nonzero()
    upto = int(end[0]) + 1 if len(end) else len(ids)
    assert said[:upto].tolist() == ids[:upto].tolist()


def test_what_else_is_asked_does_not_change_an_answer(case):
    prompts = [case.encoder.prompt(row) for row in case.rows[:5]]
    together = encoding.answers(case.model, case.encoder, prompts, 4, 8)
    alone = [encoding.answers(case.model, case.encoder, [prompt], 4, 1)[0] for prompt in prompts]
    assert together == alone
    assert len({len(prompt["input_ids"]) for prompt in prompts}) > 1  # of two lengths


def test_rows_of_several_lengths_are_filled_up_behind_and_that_is_not_seen(case):
    rows = sorted((case.encoder.row(row) for row in case.rows), key=lambda row: len(row["input_ids"]))
    short, long = rows[0], rows[-1]
    assert len(short["input_ids"]) < len(long["input_ids"])
    batch = case.encoder.collate([short, long])
    labels = batch.pop("labels")
    with torch.inference_mode():
        logits = case.model(**batch, use_cache=False).logits
        loss = case.model(**batch, labels=labels, use_cache=False).loss
    close(logits[0, : len(short["input_ids"])], case.logits(short))
    close(logits[1], case.logits(long))
    nats = []
    for row in (short, long):
        logp = case.logits(row)[:-1].log_softmax(-1)
        nats += [-logp[place - 1, row["labels"][place]] for place in (row["labels"] != -100).nonzero()[:, 0].tolist()]
    assert float(loss) == pytest.approx(float(torch.stack(nats).mean()), rel=1e-4)


def test_a_model_that_reads_answers_in_both_directions_is_refused(tmp_path, monkeypatch):
    """PaliGemma, told that an answer belongs to the prompt."""
    monkeypatch.setattr(encoding, "ANSWER_TYPE", {})
    case = Case("PaliGemma", tmp_path)
    with pytest.raises(InputError, match="mine: expected that a token of an answer sees none behind it"):
        encoding.require_answers_in_order(case.model, case.encoder, case.encoder.row(case.rows[0]), "mine")


def test_a_prompt_longer_than_the_context_is_told_by_its_row(llava):
    small = Encoder(llava.encoder.processor, llava.encoder.processor.config, llava.encoder.pictures, 14)
    row = next(row for row in llava.rows if row["columns"]["rooms"] > 9)
    told = rf"{row['where']}: expected at most 14 tokens .*, found \d+, 4 of them its picture's"
    with pytest.raises(InputError, match=told):
        small.row(row)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"picture": "pictures/none.png"}, "its picture cannot be read"),
        ({"picture": "../price/train.jsonl"}, "its picture cannot be read"),
        ({"prompt": "8 rooms:"}, r"expected one \{picture\} in its prompt, found '8 rooms:'"),
        ({"prompt": "{picture}<image>8 rooms:"}, "its prompt says '<image>', which the model's processor reads"),
    ],
)
def test_a_row_that_cannot_be_shown_is_told_by_its_place(llava, changed, told):
    with pytest.raises(InputError, match=rf"rows.csv, line \d+: {told}"):
        llava.encoder.row(llava.rows[0] | changed)


def test_a_picture_in_other_colours_becomes_one_in_red_green_and_blue(llava, tmp_path):
    for kind in ("L", "RGBA", "P", "CMYK"):
        Image.new(kind, (30, 20)).save(tmp_path / "other.tif")
        encoded = llava.encoder.row(llava.rows[0] | {"picture": str(tmp_path / "other.tif")})
        assert encoded["pixel_values"].shape == (3, 16, 16)
