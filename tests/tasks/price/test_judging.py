"""A model of prices is judged by what it answers: held against the library's own loss and generation."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, packed, workers
from prunelab.quality import reference
from prunelab.tasks.price import templates
from prunelab.tasks.price.judging import asking, figures, judging
from prunelab.tasks.price.seeing import encoding, processing
from tests.helpers import prices, seeing


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(data, dense, results of dense) after the stage reference."""
    folder = tmp_path_factory.mktemp("prices")
    data = seeing.rows(folder / "data", "LLaVA", {"train": 6, "validation": 2, "test": 7})
    dense = prices.dense(folder / "dense")
    judging.judge_dense(prices.settings(), dense, data, folder / "results")
    return data, dense, folder / "results"


def encoder_of(folder, data):
    processor = processing.of_folder(folder)
    return encoding.Encoder(processor, processor.config, data / "price")


def arrays(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_the_loss_of_an_answer_is_the_librarys(study):
    data, dense, results = study
    model, encoder = checkpoint.load(dense), encoder_of(dense, data)
    wanted = []
    for row in asking.held_out(data, None).rows:
        one = {name: value[None] for name, value in encoder.row(row).items()}
        with torch.no_grad():
            wanted.append(float(model(**one).loss))
    found, _ = arrays(results / "reference.safetensors")
    np.testing.assert_allclose(found["row_loss"], wanted, rtol=1e-5)
    assert read_json(results / "quality.json")["loss"] == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_answers_are_those_that_the_library_generates_one_by_one(study):
    data, dense, results = study
    model, encoder = checkpoint.load(dense), encoder_of(dense, data)
    found, about = arrays(results / "reference.safetensors")
    answers = json.loads(about["prunelab"])["answers"]
    for place, row in enumerate(asking.held_out(data, None).rows):
        one = {name: value[None] for name, value in encoder.prompt(row).items()}
        ids = model.generate(**one, max_new_tokens=6, do_sample=False, eos_token_id=encoder.end, pad_token_id=0)
        text = encoder.written(ids[0, one["input_ids"].shape[1] :].tolist())
        price = templates.price_in(text, "{price}", "$", 0)
        assert (answers[place]["id"], answers[place]["answer"]) == (row["id"], text)
        assert found["predicted"][place] == price or (price is None and np.isnan(found["predicted"][place]))


def test_quality_json_holds_the_figures_controls_and_baselines_of_dense(study):
    data, _, results = study
    told, (found, _) = read_json(results / "quality.json"), arrays(results / "reference.safetensors")
    truth = asking.held_out(data, None).truth
    assert told["variant"] == "dense" and told["rows"] == told["items"] == 7
    assert {key: told[key] for key in ("mae", "r2", "not_a_number_share", "mae_as_zero")} == pytest.approx(
        {key: figures.summary(found["predicted"], truth, 10)[key]
         for key in ("mae", "r2", "not_a_number_share", "mae_as_zero")}
    )  # fmt: skip
    assert told["mae"] == pytest.approx(found["mae"].mean()) and told["loss"] == pytest.approx(found["loss"].mean())
    assert told["mae_diff"] == told["mae_increase_percent"] == told["loss_diff"] == 0
    assert set(told["baselines"]) == {"mean", "median", "ridge"} and set(told["controls"]) == set(judging.CONTROLS)
    assert told["baselines"]["mean"]["mae"] == pytest.approx(np.abs(truth.price - truth.mean).mean())
    assert told["tokens"] == 7 * 4  # three digits and the end


def test_a_variant_is_compared_with_dense_row_by_row(study, tmp_path, capsys):
    _, dense, results = study
    shutil.copytree(dense, tmp_path / "variant")
    model = checkpoint.load(dense)
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    checkpoint.write(model, {}, tmp_path / "variant")
    judging.judge_variant(prices.settings(), "random-50", tmp_path / "variant", results, tmp_path / "out")
    told, left = read_json(tmp_path / "out" / "quality.json"), read_json(results / "quality.json")
    found, _ = arrays(tmp_path / "out" / "windows.safetensors")
    assert told["mae_diff"] == pytest.approx(told["mae"] - left["mae"])
    assert told["loss_diff"] == pytest.approx(told["loss"] - left["loss"]) and told["loss_diff"] != 0
    assert told["mae"] == pytest.approx(found["mae"].mean()) and len(found["predicted_blank_text"]) == 7
    assert told["text_sha256"] == left["text_sha256"] and "baselines" not in told
    said = capsys.readouterr().out
    assert said.startswith("random-50: mean absolute error $") and said.count("\n") == 1
    of_dense = prices.settings(controls="dense")
    judging.judge_variant(of_dense, "random-50", tmp_path / "variant", results, tmp_path / "alone")
    alone = read_json(tmp_path / "alone" / "quality.json")
    assert alone == told | {"controls": {}} and "no text" not in capsys.readouterr().out


def test_the_dense_model_judged_as_a_variant_differs_by_nothing_packed_too(study, tmp_path):
    _, dense, results = study
    model, folder = checkpoint.load(dense), tmp_path / "packed"
    folder.mkdir()
    packed.copy_companions(dense, folder)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    checkpoint.write(model, {name: model.state_dict()[name] != 0}, folder)
    judging.judge_variant(prices.settings(), "magnitude-0", folder, results, tmp_path / "out")
    told = read_json(tmp_path / "out" / "quality.json")
    assert (told["mae_diff"], told["loss_diff"], told["mae_diff_lo"], told["mae_diff_hi"]) == (0, 0, 0, 0)


def test_batches_side_by_side_give_what_one_after_another_does(study):
    data, dense, _ = study
    held, model = asking.held_out(data, None), checkpoint.load(dense)
    with workers.threads(1):
        alone = judging.ask(model, dense, "dense", held, prices.settings())
    with workers.threads(2):
        together = judging.ask(model, dense, "dense", held, prices.settings())
    assert alone.texts == together.texts
    np.testing.assert_allclose(alone.loss, together.loss, rtol=1e-6)


def test_a_variant_that_is_not_comparable_is_refused(study, tmp_path):
    _, dense, results = study

    def judge(settings, folder=dense, name="wanda-50"):
        judging.judge_variant(settings, name, folder, results, tmp_path / "out")

    with pytest.raises(InputError, match=r"price.answer is \$\{price\}, but the reference was made with \{price\}"):
        judge(prices.settings(answer="${price}"))
    with pytest.raises(InputError, match=r"quality.max_windows is 3, but"):
        judge(prices.settings(max_windows=3))
    other = tmp_path / "other"
    shutil.copytree(dense, other)
    (other / "sparsity.json").write_text(json.dumps({"dense_sha256": "0" * 64}))
    with pytest.raises(InputError, match="wanda-50: was made of another dense model"):
        judge(prices.settings(), other)
    assert not (tmp_path / "out").exists()


def test_other_rows_than_those_dense_was_asked_are_refused(study, tmp_path):
    data, dense, results = study
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    path = changed / "price" / "test.jsonl"
    path.write_text(path.read_text().replace("rooms:", "rooms;"), encoding="utf-8")
    tensors, about = reference.read(results / "reference.safetensors")
    about["facts"]["data"] = changed.as_posix()
    reference.write(tmp_path / "reference.safetensors", tensors, about)
    with pytest.raises(InputError, match="expected the rows and pictures that dense was asked, found others"):
        judging.judge_variant(prices.settings(), "wanda-50", dense, tmp_path, tmp_path / "out")


def test_a_reference_of_another_task_is_told(study, tmp_path):
    reference.write(tmp_path / "reference.safetensors", {"tokens": torch.zeros(1)}, {"facts": {}, "asked": {}})
    with pytest.raises(InputError, match="not a reference of this task"):
        judging.load(tmp_path / "reference.safetensors")


def test_a_model_that_predicts_no_numbers_is_refused_with_the_row(study, tmp_path):
    data, dense, _ = study
    model = checkpoint.load(dense)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"wanda-50: the loss is not finite in 7 of 7 rows, first in row rows#9"):
        judging.ask(model, dense, "wanda-50", asking.held_out(data, None), prices.settings())


def test_pictures_that_must_not_be_passed_on_stay_where_they_are(study, tmp_path):
    data, dense, results = study
    shown, _ = arrays(results / "reference.safetensors")
    pictures = [name for name in shown if name.startswith("picture.")]
    assert len(pictures) == 7 and shown[pictures[0]].tobytes()[:2] == b"\xff\xd8"  # JPEG
    secret = tmp_path / "data"
    shutil.copytree(data, secret)
    (secret / "price" / "manifest.json").write_text('{"pass_on": false}')
    judging.judge_dense(prices.settings(), dense, secret, tmp_path / "out")
    assert not [name for name in arrays(tmp_path / "out" / "reference.safetensors")[0] if name.startswith("picture")]
