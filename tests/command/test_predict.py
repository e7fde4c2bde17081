"""`prunelab predict`: the price of a picture from a model's folder, and what it says where there is none."""

import pytest
import torch
from PIL import Image

from prunelab.command import line
from prunelab.errors import InputError
from prunelab.models import checkpoint, packed
from prunelab.quantised import files as quantised
from prunelab.tasks.price import predicting
from prunelab.tasks.price.money import amount, digits
from prunelab.tasks.price.seeing import encoding, processing
from tests.command.test_line import refused
from tests.helpers import prices


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    Image.new("RGB", (24, 24), "red").save(folder / "house.png")
    return prices.dense(folder / "dense")


@pytest.fixture
def answers(monkeypatch):
    """What the model writes, in place of what a random one would."""

    def write(text: str):
        monkeypatch.setattr(
            encoding, "generate", lambda model, encoder, inputs, tokens: encoder.answer(text)[None, :tokens]
        )

    return write


def predict(dense, *more, folder=None) -> None:
    line.main(["predict", str(folder or dense), str(dense.parent / "house.png"), *more])


def test_a_price_is_printed_as_people_read_it(dense, answers, capsys):
    answers("1250")
    predict(dense, "--text", "rooms=3")
    assert capsys.readouterr().out == "$1,250\n"


def test_it_is_what_the_model_writes_to_that_picture_and_prompt(dense):
    """Without a stand-in: a random model's letters, whatever they are."""
    picture, processor = dense.parent / "house.png", processing.of_folder(dense)
    encoder = encoding.Encoder(processor, processor.config, picture.parent)
    row = {"id": "a", "picture": "house.png", "prompt": "{picture}3 rooms:"}
    (written,) = encoding.answers(checkpoint.load(dense), encoder, [encoder.prompt(row)], 6, 1)
    try:
        assert predicting.predict(dense, picture, {"rooms": "3"}).answer == written
    except InputError as error:
        assert f"answered {written!r}, in which there is no price" in str(error)


def test_a_pruned_and_a_quantised_folder_predict_too(dense, answers, capsys, tmp_path):
    answers("99")
    model = checkpoint.load(dense)
    for name in ("packed", "quantised"):
        (tmp_path / name).mkdir()
    packed.copy_companions(dense, tmp_path / "packed")
    weight = "model.language_model.layers.0.mlp.up_proj.weight"
    keep = torch.rand_like(model.state_dict()[weight]) > 0.5
    checkpoint.write(model, {weight: keep}, tmp_path / "packed")
    quantised.write(
        checkpoint.load(dense), dense, tmp_path / "quantised", "dense-int8", "0" * 64, precision="int8", group=32,
        head="int8",
    )  # fmt: skip
    for name in ("packed", "quantised"):
        predict(dense, "--text", "rooms=3", folder=tmp_path / name)
    assert capsys.readouterr().out == "$99\n$99\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "--text: expected rooms=…, found none; this model reads: rooms"),
        (["--text", "room=3"], "--text: this model reads no 'room' (did you mean 'rooms'?); it reads: rooms"),
        (["--text", "rooms"], "--text: expected COLUMN=VALUE, found 'rooms'"),
        (["--text", "rooms=3", "--text", "rooms=4"], "--text: rooms is given twice; say it once"),
        (["--text", "rooms="], "--text: column 'rooms' is empty"),
    ],
)
def test_wrong_columns_are_told_in_one_line(dense, capsys, more, told):
    assert told in refused(capsys, "predict", str(dense), str(dense.parent / "house.png"), *more)


def test_a_picture_that_is_none_is_told(dense, capsys, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    text = ["--text", "rooms=3"]
    assert "nowhere.png: no such file" in refused(capsys, "predict", str(dense), "nowhere.png", *text)
    told = refused(capsys, "predict", str(dense), str(tmp_path / "text.png"), *text)
    assert "text.png: its picture cannot be read" in told


def test_a_folder_without_prices_is_told(capsys, tmp_path):
    assert "no price.json in it; expected a model" in refused(capsys, "predict", str(tmp_path), "house.png")
    assert "no such folder" in refused(capsys, "predict", str(tmp_path / "nowhere"), "house.png")
    (tmp_path / "price.json").write_text("{}")
    assert "expected 'answer' in it, found none" in refused(capsys, "predict", str(tmp_path), "house.png")


def test_an_answer_without_a_price_is_told_with_what_was_written(dense, answers, capsys):
    answers("a lot")
    told = refused(capsys, "predict", str(dense), str(dense.parent / "house.png"), "--text", "rooms=3")
    assert "answered 'a lot', in which there is no price of the form '{price}'" in told


def test_amounts_read_as_people_write_them():
    assert amount(1234.5, "$") == "$1,234" and amount(1234.5, "€", 2) == "€1,234.50"
    assert amount(1234, "EUR") == "1,234 EUR" and amount(-5, "$") == "−$5" and amount(5, "$", sign=True) == "+$5"
    assert amount(None, "$") == amount(float("nan"), "$") == "no number" and amount(7, "") == "7"


def test_errors_have_at_least_three_digits_that_tell_something():
    assert [digits(error, 0) for error in (234_403.0, 123.4, 20.0, 8.31, 0.05, 0.0)] == [0, 0, 1, 2, 4, 0]
    assert digits(234_403.0, 2) == 2
