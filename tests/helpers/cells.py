"""Finished studies of the verdict without a study: folders as prunelab/mirror/kept.py leaves them, effects planted.

Every window of text has its own difficulty, every seed its own level, and every cell of a seed a wobble of its own, on
top of what the cell costs (`excess`, nats above dense).
"""

import csv
import json
import re
from pathlib import Path

import numpy as np

from prunelab.mirror.kept import Kept
from prunelab.verdict.cells import Regime

RATES, FEW = (30, 40, 50, 60, 70, 80), (40, 60, 80)
SEEDS = ("s1", "s2", "s3", "s4", "s5")
HASH = "cd" * 32
ONE_SHOT = ("systematic", "history-threshold", "magnitude", "magnitude-sigma", "random", "best-magnitude")
AVERAGED = ("systematic-average", "average-magnitude", "systematic-half", "systematic-quarter")
IDS = (
    "dense", "dense-average", "dense-best", "dense-retrained",
    *(f"{method}-{rate}" for method in ONE_SHOT for rate in RATES),
    *(f"{method}-{rate}" for method in AVERAGED for rate in FEW),
    *(f"{method}-{rate}-retrained" for method in ("systematic", "magnitude", "random") for rate in (50, 60, 80)),
)  # fmt: skip


def broken_line(rate: float, at: float = 62.0, before: float = 0.0005, change: float = 0.02) -> float:
    """Nats above dense: a slow rise, and a fast one from `at` percent on."""
    return before * rate + change * max(0.0, rate - at)


def alike(identifier: str) -> float:
    """Every method costs the same: there is no effect but that of the rate."""
    rate = re.search(r"-(\d+)", identifier)
    return broken_line(int(rate[1])) if rate else 0.0


def losses(excess, ids=IDS, seeds=SEEDS, windows: int = 60, wobble: float = 0.001, number: int = 0) -> dict:
    """The loss of every window by path; `excess(identifier)`: nats above dense; number: of the draw."""
    draw = np.random.default_rng(number)
    difficulty = draw.normal(1.9, 0.3, windows)
    found = {}
    for tag in seeds:
        level = draw.normal(0, 0.02)
        for identifier in ids:
            own = 0.0 if identifier == "dense" else excess(identifier) + draw.normal(0, wobble)
            found[f"{tag}/{identifier}"] = difficulty + level + own + draw.normal(0, 0.001, windows)
    return found


def regime(name: str, excess, **changes) -> Regime:
    """A regime in memory."""
    by_variant: dict[str, dict] = {}
    for path, values in losses(excess, **changes).items():
        tag, _, identifier = path.partition("/")
        by_variant.setdefault(identifier, {})[tag] = values
    about = {"study": "verdict", "headline": "loss", "seeds": list(SEEDS), "settings": {}}
    return Regime(name, Kept(Path("none"), about, [{"text_sha256": HASH}], {}), by_variant)


def write(folder: Path, study: str, excess, text: str = HASH, **changes) -> Path:
    """A finished study in `folder`, with followed weights and curves; returns its own folder."""
    from safetensors.numpy import save_file

    place = folder / study
    place.mkdir(parents=True)
    found = {path: values.astype(np.float32) for path, values in losses(excess, **changes).items()}
    save_file(found, place / "losses.safetensors")
    with open(place / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "path", "loss", "text_sha256", "windows"])
        for path, values in found.items():
            writer.writerow([path.partition("/")[2], path, values.mean(), text, len(values)])
    settings = {"study": study, "train": {"epochs": 40 if "past" in study else 8, "batch_size": 12}}
    about = {
        "study": study, "task": "language", "headline": "loss", "seeds": list(changes.get("seeds", SEEDS)),
        "key": study, "settings": settings, "settings_sha256": "0" * 64, "git_revision": "1" * 40,
        "kept_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    (place / "study.json").write_text(json.dumps(about))
    _training(place)
    return place


def _training(place: Path) -> None:
    import pandas

    draw, rows = np.random.default_rng(1), []
    for index in range(12):
        walk = draw.normal(0, 0.05) + draw.normal(0, 0.02, 6).cumsum() * (index % 4)
        rows += [
            {"tick": tick + 1, "step": 10 * tick, "tensor": "h.0.weight", "index": index, "value": value,
             "named": index == 11}
            for tick, value in enumerate(walk)
        ]  # fmt: skip
    pandas.DataFrame(rows).to_parquet(place / "trajectories.parquet")
    curve = {"seed": "s1", "step": [10, 20], "epoch": [1, 2], "tick": [1, 2], "train_loss": [2.0, 1.5]}
    pandas.DataFrame(curve | {"validation_loss": [2.1, 1.9], "learning_rate": [1e-3, 1e-4]}).to_csv(
        place / "curves.csv", index=False
    )
