"""Where the training of a model of prices begins: a fetched one that sees pictures, or one that is given eyes here."""

from pathlib import Path

import torch
from transformers import set_seed

from prunelab.disk.files import write_json
from prunelab.errors import InputError
from prunelab.models import composites, loading, models, owncode
from prunelab.models.tensors import stored_dtype, weight_files
from prunelab.tasks.price import about
from prunelab.tasks.price.rows import PARTS, of_part
from prunelab.tasks.price.seeing import composing, processing
from prunelab.tasks.price.seeing.examples import folder_of
from prunelab.tasks.price.templates import PLACE
from prunelab.training.examples import Start
from prunelab.training.taking import fetched


def start(settings, data, seed: int) -> Start:
    """The model and processor that training starts from, and the dtype in which the result is stored.

    Raises InputError where the fetched model and `price.tower` don't go together.
    """
    stored, train = torch.float32, settings.train
    if train.start == "fetched":
        folder = fetched(data)
        stored = stored_dtype(weight_files(folder))
        language = loading.of_folder(folder, stored if train.parameters == "lora" else torch.float32)
        sees = composites.is_composite(language.config) or owncode.is_own(language.config)
        require_eyes(settings, sees)
        if sees:
            return Start(language, processing.of_folder(folder), stored)
        tokenizer = loading.tokenizer_of(folder, folder)
        if tokenizer.eos_token_id is None:
            raise InputError(f"{folder}: expected a tokenizer with a token that ends an answer (eos_token), found none")
        set_seed(seed)
    else:
        require_eyes(settings, False)
        texts = [row[key].replace(PLACE, "") for row in all_rows(data) for key in ("prompt", "answer")]
        tokenizer = composing.characters(texts)
        set_seed(seed)
        language = models.build(train.architecture, train.config, vocab_size=len(tokenizer))
    model, processor = composing.compose(settings.price.tower, language, tokenizer)
    return Start(model, processor, stored, composing.NEW)


def require_eyes(settings, sees: bool) -> None:
    """Raises InputError where nothing sees the pictures, or two towers would."""
    if sees and settings.price.tower is not None:
        raise InputError("price.tower: the fetched model sees pictures by itself; set price.tower: null")
    if not sees and settings.price.tower is None:
        raise InputError(
            "price.tower: null, but the model reads text only; fill it in, or fetch a model that sees pictures"
        )


def all_rows(data) -> list[dict]:
    return [row for part in PARTS for row in of_part(data, part)]


def beside(settings, data, model) -> None:
    """Write price.json into the folder `model`: all that is needed to ask it for a price and to read its answer."""
    price, answers = settings.price, [row["answer"] for row in of_part(data, "train")]
    tokenizer = processing.of_folder(Path(model)).tokenizer
    tokens = map(len, tokenizer(answers, add_special_tokens=False, verbose=False)["input_ids"])
    facts = {
        "prompt": price.prompt,
        "answer": price.answer,
        "currency": price.currency,
        "decimals": price.decimals,
        "answer_tokens": max(tokens) + 1,  # of the longest answer of training, with the token that ends it
    }
    write_json(Path(model) / about.FILE, facts)


def files(settings, data) -> list[Path]:
    """The files that decide start and examples; the manifest says the hash of the pictures."""
    read = [folder_of(data) / f"{part}.jsonl" for part in PARTS] + [folder_of(data) / "manifest.json"]
    if settings.train.start == "fetched":
        read += sorted(path for path in fetched(data).iterdir() if path.is_file() and path.name != "manifest.json")
    return read
