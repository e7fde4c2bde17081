"""Which text a language model is calibrated on: seeded crops, and what too little text says."""

import pytest
import torch

from prunelab.errors import InputError
from prunelab.tasks.language import crops


def test_samples_are_crops_of_the_text_and_their_seed_decides_which():
    tokens = torch.arange(1000)
    samples = crops.draw(tokens, 8, 50, seed=3)
    assert samples.shape == (8, 50)
    assert (samples.diff(dim=1) == 1).all()
    assert len(set(samples[:, 0].tolist())) == 8
    assert torch.equal(samples, crops.draw(tokens, 8, 50, seed=3))
    assert not torch.equal(samples, crops.draw(tokens, 8, 50, seed=4))


@pytest.mark.parametrize(("samples", "length"), [(21, 50), (1, 1001)])
def test_a_text_shorter_than_asked_is_refused_with_both_numbers(samples, length):
    with pytest.raises(InputError, match=rf"{samples} x {length} = {samples * length} tokens .* has 1000"):
        crops.draw(torch.arange(1000), samples, length, seed=0)


def test_the_text_fetched_for_calibration_comes_before_the_train_text(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("train")
    assert crops.text_of(tmp_path) == ("train", "train")
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "text.txt").write_text("apart")
    assert crops.text_of(tmp_path) == ("apart", "calibration")


def test_the_text_is_read_as_it_is_and_as_it_is_judged(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_bytes("a\r\nb\rc\x85\u2028d".encode())  # as older versions wrote rows
    assert crops.text_of(tmp_path) == ("a\r\nb\rc\x85\u2028d", "train")
