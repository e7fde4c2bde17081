"""price.json, beside every model of prices: what it is asked, and how its answer is read (seeing/starting.py)."""

from pathlib import Path

from prunelab.disk.files import read_json
from prunelab.errors import InputError

FILE = "price.json"


def read(folder) -> dict:
    """price.json of the model in `folder`. Raises InputError where it has none, or one of another version."""
    path = Path(folder) / FILE
    if not path.is_file():
        found = "no such folder" if not Path(folder).is_dir() else f"no {FILE} in it"
        raise InputError(
            f"{folder}: {found}; expected a model that a study of prices left, such as models/s1/dense or a variant"
        )
    facts = read_json(path)
    if lacking := {"prompt", "answer", "currency", "decimals", "answer_tokens"} - set(facts):
        raise InputError(
            f"{path}: expected {min(lacking)!r} in it, found none; train the model again (dvc repro train)"
        )
    return facts
