"""The processor of a folder: its own class, its parts where that asks for what only videos need, or a line why not."""

import json
import shutil

import pytest

from prunelab.errors import InputError
from prunelab.tasks.price.seeing import processing
from tests.helpers import seeing, tiny


@pytest.fixture
def qwen(tmp_path):
    return shutil.copytree(seeing.model_of("Qwen2.5-VL"), tmp_path / "qwen")


def test_one_that_asks_for_torchvision_is_used_by_its_parts(qwen):
    found = processing.of_folder(qwen)
    assert type(found.inner).__name__ == "Qwen2_5_VLProcessor" and found.inner.video_processor is None
    assert type(found.inner.image_processor).__name__.endswith("Pil")


def test_smolvlm_which_asks_for_num2words_lays_pictures_out_as_idefics3(tmp_path):
    folder = shutil.copytree(seeing.model_of("Idefics3"), tmp_path / "model")
    plain = processing.of_folder(folder)
    for name in ("processor_config.json", "tokenizer_config.json"):
        said = json.loads((folder / name).read_text()) | {"processor_class": "SmolVLMProcessor"}
        (folder / name).write_text(json.dumps(said))
    found = processing.of_folder(folder)
    assert type(found.inner).__name__ == "Idefics3Processor" and found.inner.image_seq_len == plain.inner.image_seq_len
    assert found.place == plain.place == "<image>"


def test_the_files_of_a_fetched_processor_travel_as_they_came(qwen, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    processing.of_folder(qwen).save_pretrained(out)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (qwen / name).read_bytes()
    assert not (out / "config.json").exists() and not list(out.glob("*.safetensors"))


def test_a_model_of_text_alone_is_told_that_it_has_no_processor(tmp_path):
    folder = tiny.published(tmp_path / "model")
    with pytest.raises(InputError, match="mine: expected a processor of pictures and text, found "):
        processing.of_folder(folder, "mine")


def test_one_whose_parts_are_not_there_is_refused_with_what_it_asks_for(qwen):
    (qwen / "preprocessor_config.json").unlink()
    with pytest.raises(InputError) as caught:
        processing.of_folder(qwen, "mine")
    assert str(caught.value).startswith("mine: expected a processor") and "\n" not in str(caught.value)
