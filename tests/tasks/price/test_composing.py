"""A language model given eyes: an ordinary LLaVA model, the same in text, that loads where this package is not."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.tasks.price.seeing import composing
from tests.helpers import seeing

IDS = torch.arange(2, 14)[None]
FRESH = """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
assert "prunelab" not in sys.modules
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1])
inputs = processor(images=[Image.open(sys.argv[2])], text=["<image>12 rooms:"], return_tensors="pt")
with torch.no_grad():
    torch.save({"ids": inputs["input_ids"], "logits": model(**inputs).logits}, sys.argv[3])
"""


def composed(architecture="llama", seed=0, **more):
    words = seeing.tokenizer()
    config = {**seeing.LLAMA, **more}
    torch.manual_seed(seed)
    language = models.build(architecture, config, vocab_size=len(words) - 1)  # the picture's token is still to come
    before = language(input_ids=IDS, use_cache=False).logits
    return before, *composing.compose(seeing.SMALL, language, words)


def test_in_text_it_is_the_language_model_that_it_was_made_of():
    before, model, _ = composed()
    with torch.no_grad():
        assert torch.allclose(model(input_ids=IDS, use_cache=False).logits[..., :-1], before, atol=1e-5)
    assert {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith(composing.NEW)} == {
        "vision_tower", "multi_modal_projector",
    }  # fmt: skip


def test_a_tied_head_stays_tied():
    _, model, _ = composed(tie_word_embeddings=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_its_folder_loads_in_a_fresh_process_without_this_package(tmp_path):
    _, model, processor = composed()
    loading.save(model, tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    picture = Image.effect_noise((40, 20), 80).convert("RGB")
    picture.save(tmp_path / "picture.png")
    command = [sys.executable, "-c", FRESH, *(str(tmp_path / name) for name in ("model", "picture.png", "out.pt"))]
    done = subprocess.run(command, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, expected = torch.load(tmp_path / "out.pt"), processor(picture, "<image>12 rooms:")
    assert torch.equal(found["ids"], expected["input_ids"])
    with torch.no_grad():
        assert torch.allclose(found["logits"], model(**expected).logits, atol=1e-6)


def test_every_part_of_the_tower_is_trained():
    """But for what only a model without a projector uses: the norm of the class token."""
    _, model, processor = composed()
    inputs = processor(Image.effect_noise((16, 16), 80).convert("RGB"), "<image>12 rooms:")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    left = {name for name, value in model.named_parameters() if value.grad is None}
    assert left == {"model.vision_tower.post_layernorm.weight", "model.vision_tower.post_layernorm.bias"}


def test_a_model_whose_head_does_more_is_refused():
    with pytest.raises(InputError, match="price.tower: a 'gemma2' is more than a decoder with a linear head"):
        composed("gemma2", query_pre_attn_scalar=8, final_logit_softcapping=0.5)


def test_a_seed_draws_the_same_tower_again():
    one, same, other = (composed(seed=seed)[1].model.multi_modal_projector.linear_1.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
