"""A small study of prices, as far as judging and predicting need one."""

import json
from pathlib import Path
from types import SimpleNamespace

from prunelab.study.pricing import Price
from tests.helpers import seeing

PRICE = {
    "rows": {"kind": "path", "name": "rows.csv", "files": None, "sha256": None, "revision": None, "licence": None,
             "pass_on": True},
    "cards": None, "columns": {"picture": "picture", "price": "price", "item": None},
    "prompt": "{picture}{rooms} rooms:", "answer": "{price}", "currency": "$", "decimals": 0, "tabular": ["rooms"],
    "split": {"validation_percent": 20, "test_percent": 20, "seed": 1}, "tower": None,
}  # fmt: skip
FACTS = {key: PRICE[key] for key in ("prompt", "answer", "currency", "decimals")} | {"answer_tokens": 4}


def settings(max_windows=None, **price) -> SimpleNamespace:
    """The sections that judging reads."""
    quality = SimpleNamespace(batch_tokens=64, bootstrap_draws=200, max_windows=max_windows)
    return SimpleNamespace(price=Price.model_validate(PRICE | price), quality=quality, seed=1)


def dense(folder, family: str = "LLaVA") -> Path:
    """A small random model of `family` as the stage train leaves one."""
    folder = seeing.published(folder, family)
    (Path(folder) / "price.json").write_text(json.dumps(FACTS), encoding="utf-8")
    return folder
