"""Where the training of a language model begins: a new model with a tokenizer of characters, or the fetched one."""

import tempfile
from pathlib import Path

import torch
from transformers import set_seed

from prunelab.disk.files import read_text
from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.models.tensors import stored_dtype, weight_files
from prunelab.training.characters import character_tokenizer
from prunelab.training.examples import Start
from prunelab.training.taking import fetched

PARTS = ("train", "validation", "test")


def start(settings, data: Path, seed: int) -> Start:
    """The model and tokenizer that training starts from, and the dtype in which the result is stored."""
    train = settings.train
    if train.start == "fetched":
        folder = fetched(data)
        stored = stored_dtype(weight_files(folder))
        return Start(loading.of_folder(folder, torch.float32), loading.tokenizer_of(folder, folder), stored)
    # The alphabet of all three parts: a letter that only a held-out play has must not be an unknown token.
    tokenizer = character_tokenizer(
        "".join(read_text(data / "text" / f"{part}.txt") for part in ("test", "train", "validation"))
    )
    set_seed(seed)
    model = models.build(train.architecture, train.config, vocab_size=len(tokenizer))
    _require_same_tokens(model, tokenizer)
    return Start(model, tokenizer, torch.float32)


def files(settings, data: Path) -> list[Path]:
    """The files that decide start and examples. The test text too: its letters are in the alphabet."""
    read = [data / "text" / f"{part}.txt" for part in PARTS]
    if settings.train.start == "fetched":
        model = fetched(data)
        read += sorted(path for path in model.iterdir() if path.is_file() and path.name != "manifest.json")
    return read


def _require_same_tokens(model, tokenizer) -> None:
    """Raises InputError where everybody who loads the trained folder would read its texts as other tokens.

    For some architectures the library takes a tokenizer class of theirs whatever the folder says: Qwen2's, say, leaves
    blanks out.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = loading.tokenizer_of(folder, "train.tokenizer")
    letters = "".join(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    text = f"{letters} \n {letters[::-1]}"
    if loaded(text)["input_ids"] != tokenizer(text)["input_ids"] or len(loaded) != len(tokenizer):
        raise InputError(
            f"train.architecture: {model.config.model_type!r} cannot have a tokenizer of characters: transformers "
            f"loads every such folder with its {type(loaded).__name__}, which reads a text as other tokens; take "
            "another, such as llama or mistral"
        )
