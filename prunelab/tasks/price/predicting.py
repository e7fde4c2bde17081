"""The price of one picture by the model in a folder: dense, pruned or quantised, whatever holds a price.json."""

import string
from pathlib import Path
from typing import NamedTuple

from prunelab.errors import InputError, nearest
from prunelab.tasks.price import about
from prunelab.tasks.price.money import amount

ROOM = 2  # tokens that an answer may be longer than the longest of training


class Prediction(NamedTuple):
    price: float
    answer: str  # what the model wrote
    text: str  # the price as people read it


def predict(folder, picture, columns: dict[str, str]) -> Prediction:
    """What the model in `folder` says that the thing on the file `picture` costs; columns: those of its prompt.

    Raises InputError for a column too many or too few, a picture that cannot be read, and an answer without a price;
    what needs no model is looked at before one is loaded.
    """
    folder, picture = Path(folder), Path(picture)
    facts = about.read(folder)
    prompt = prompt_of(facts["prompt"], columns)
    if not picture.is_file():
        raise InputError(f"{picture}: no such file; expected a picture")

    import torch

    from prunelab.quantised import opening
    from prunelab.tasks.price import templates
    from prunelab.tasks.price.seeing import encoding, processing

    processor = processing.of_folder(folder)
    encoder = encoding.Encoder(processor, processor.config, Path())
    encoded = encoder.prompt({"id": str(picture), "where": str(picture), "picture": picture, "prompt": prompt})
    model = opening.load(folder).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    (answer,) = encoding.answers(model, encoder, [encoded], facts["answer_tokens"] + ROOM, 1)
    price = templates.price_in(answer, facts["answer"], facts["currency"], facts["decimals"])
    if price is None:
        raise InputError(f"{folder}: answered {answer!r}, in which there is no price of the form {facts['answer']!r}")
    return Prediction(price, answer, amount(price, facts["currency"], facts["decimals"]))


def prompt_of(template: str, columns: dict[str, str]) -> str:
    """The prompt with the columns filled in. Raises InputError where they are not those of the template."""
    from prunelab.tasks.price import templates

    wanted = [name for _, name, _, _ in string.Formatter().parse(template) if name and f"{{{name}}}" != templates.PLACE]
    told = ", ".join(dict.fromkeys(wanted)) or "none"
    if unknown := next((name for name in columns if name not in wanted), None):
        raise InputError(f"--text: this model reads no {unknown!r}{nearest(unknown, wanted)}; it reads: {told}")
    if missing := next((name for name in wanted if name not in columns), None):
        raise InputError(f"--text: expected {missing}=…, found none; this model reads: {told}")
    try:
        return templates.prompt(template, columns)
    except ValueError as error:
        raise InputError(f"--text: {error}") from None
