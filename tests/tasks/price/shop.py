"""A small shop for tests: pictures, a table of things with prices, settings that read them."""

import io
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from prunelab.study.pricing import Price

HEADER = ("file", "name", "cost")
SETTINGS = {
    "rows": {"kind": "path", "name": "shop", "pass_on": True},
    "columns": {"picture": "file", "price": "cost", "item": None},
    "prompt": "{picture} a {name} costs",
    "answer": "{price}",
    "currency": "$",
    "decimals": 2,
    "tabular": [],
    "split": {"validation_percent": 20, "test_percent": 20, "seed": 3},
    "tower": None,
}


def settings(folder, **changed):
    """What `preparing.prepare` is called with: the section `price`, changed, its rows in `folder`."""
    rows = SETTINGS["rows"] | {"name": str(folder)} | changed.pop("rows", {})
    fetch = SimpleNamespace(text=None, split=None, calibration=None, remote=None)
    return SimpleNamespace(
        price=Price.model_validate(SETTINGS | {"rows": rows} | changed), fetch=fetch,
        train=SimpleNamespace(epochs=1), quality=SimpleNamespace(texts=[]),
    )  # fmt: skip


def picture(shade: int, form: str = "PNG") -> bytes:
    """A small picture of one shade; other shades, other bytes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, shade // 256, 7)).save(file, format=form)
    return file.getvalue()


def shop(folder: Path, costs: list, separator: str = ",", names: list[str] | None = None) -> Path:
    """A folder of `rows.csv` and a picture a row."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(HEADER)]
    for number, cost in enumerate(costs):
        (folder / f"{number}.png").write_bytes(picture(number))
        lines.append(separator.join((f"{number}.png", names[number] if names else f"thing {number}", str(cost))))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
