"""What recipes are made from, in the current folder: a small dense model with its history, a text, a calibration."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunelab import tasks
from prunelab.calibration import calibration
from prunelab.making import masking, precision, steps
from prunelab.making.given import Given
from prunelab.models.tensors import identity
from prunelab.study import params
from prunelab.training.characters import character_tokenizer
from tests.helpers import studies, tiny

TEXT = "The quick brown fox jumps over the lazy dog and runs away.\n" * 40
TRAIN = {
    "config": {"n_layer": 4, "n_head": 2, "n_embd": 16, "n_positions": 32}, "context": 16, "epochs": 2,
    "windows_per_epoch": 8, "batch_size": 4, "warmup_steps": 1, "evaluate_every_epochs": 1, "validation_windows": 4,
}  # fmt: skip
RECOVER = {"tokens": 256, "batch_size": 4, "validation_windows": 4}
RETRAIN = {"steps": 6, "evaluate_every": 2, "validation_windows": 4}


@functools.cache
def _default() -> dict:
    return studies.raw("default")


def settings(*further: str, **changes) -> params.Settings:
    """The default study of plain magnitude at 50 % and `further`, with small sections and `changes` of them."""
    raw = copy.deepcopy(_default())
    raw["train"] |= TRAIN
    raw["recover"] |= RECOVER
    raw["retrain"] |= RETRAIN
    raw["prune"] |= {"methods": ["magnitude"], "rates": [50], "further": list(further)}
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    return params.Settings.model_validate(raw)


def given(*further: str, tag: str = "s1", **changes) -> Given:
    """Settings as above, and the folders that `place` wrote."""
    wanted = settings(*further, **changes)
    folders = Path("models/dense"), Path("data"), Path("models/calibration")
    return Given(wanted, tag, *folders, tasks.of(wanted.task))


@pytest.fixture(scope="module")
def placed(tmp_path_factory) -> Path:
    """A folder with all of it, made once a module; tests work on copies."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        place()
    return folder


def place() -> None:
    """Write models/dense (4 blocks), its average (half of it), its best (3/4), models/calibration and data."""
    for part in ("train", "validation", "test"):
        path = Path("data/text") / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT, encoding="utf-8")
    Path("data/text/manifest.json").write_text('{"parts": {}}')
    tokenizer = character_tokenizer(TEXT)
    model = tiny.gpt2(n_layer=4, vocab_size=len(tokenizer))
    history = {name: parameter.detach() * 0.5 for name, parameter in model.named_parameters()}
    dense = tiny.dense_folder("models/dense", model, history)
    tokenizer.save_pretrained(dense)
    (dense / "best").mkdir()
    save_file({name: value * 1.5 for name, value in history.items()}, dense / "best" / "model.safetensors")
    Path("models/calibration").mkdir()
    samples = torch.randint(len(tokenizer), (4, 16), generator=torch.Generator().manual_seed(0))
    calibration.write(
        "models/calibration", {"input_ids": samples}, {"dense_sha256": identity(dense), "checkpoint": "last"}
    )


def count_steps(monkeypatch) -> list[str]:
    """A list to which every step that is done from now on adds the id of what it makes."""
    done = []

    def counting(step):
        def counted(given, variant, *places):
            done.append(variant.id)
            return step(given, variant, *places)

        return counted

    monkeypatch.setattr(masking, "mask", counting(masking.mask))
    for name in ("remove", "recover", "retrain", "unpruned", "small"):
        monkeypatch.setattr(steps, name, counting(getattr(steps, name)))
    for name in ("in_bf16", "quantise"):
        monkeypatch.setattr(precision, name, counting(getattr(precision, name)))
    return done
