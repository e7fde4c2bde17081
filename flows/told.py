"""A stage in plain words: its name, and what it found, from the small files that it wrote.

A file or a figure that is not there is left out: what is told is a help, the stage's success does not hang on it.
"""

import csv
import json
import re
from pathlib import Path

from prunelab.tasks import Headline

WORDS = {  # kind of stage → what people call it, where the name of DVC's stage is no word
    "further": "make",
    "quality-further": "quality",
    "efficiency-further": "efficiency",
    "efficiency-dense": "efficiency dense",
}

LONGEST = 100  # of a line that a stage says itself


def name(stage: str, show_seed: bool) -> str:
    """`quality-further@depth-25-s2` → `quality depth-25 s2`; without the seed where a study has one alone."""
    kind, variant, seed = split(stage)
    return " ".join(filter(None, (WORDS.get(kind, kind), variant, seed if show_seed else None)))


def split(stage: str) -> tuple[str, str, str | None]:
    """(kind, variant, seed) of a stage's name; what it does not say is empty, the seed None."""
    kind, _, rest = stage.partition("@")
    match = re.fullmatch(r"(?:(?P<variant>.*)-)?(?P<seed>s[0-9]+)", rest)
    return (kind, match["variant"] or "", match["seed"]) if match else (kind, rest, None)


def facts(stage: str, headline: Headline, said: list[str] = (), root: Path = Path()) -> list[str]:
    """What the finished `stage` found, a phrase each; headline: what the study's models are judged by; `said`: the
    lines that it printed."""
    kind, variant, seed = split(stage)
    models, results = (root / folder / (seed or "") for folder in ("models", "results"))
    variant = variant or "dense"
    match kind:
        case "fetch":
            return _text(_json(root / "data/fetched/text/manifest.json")) or _last(said)
        case "train":
            return _training(models / "dense")
        case "calibrate":
            return _calibration(_json(models / "calibration/calibration.json"))
        case "prune" | "further":
            return _pruning(_json(models / variant / "sparsity.json"))
        case "cells":
            return _last(said)
        case "reference" | "quality" | "quality-further":
            return _quality(_json(results / variant / "quality.json"), headline)
        case "efficiency" | "efficiency-dense" | "efficiency-further":
            return _time(_json(results / variant / "efficiency.json"), variant)
        case "probes" | "recommend" | "export":  # their last line is made for people
            return _last(said)
        case "mirror":  # which may end in a link: whole
            return list(said[-1:])
    return []


def _last(said: list[str]) -> list[str]:
    return [line if len(line) <= LONGEST else f"{line[:LONGEST]} …" for line in said[-1:]]


def _text(manifest: dict) -> list[str]:
    count = sum(part.get("characters", 0) for part in manifest.get("parts", {}).values())
    return [_short(count, " characters")] if count else []


def _training(folder: Path) -> list[str]:
    file = folder / "history" / "curve.csv"
    if not file.exists():  # taken as it was
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    return [f"validation loss {float(rows[-1]['validation_loss']):.3f}"] if rows else []


def _calibration(found: dict) -> list[str]:
    if "hash" in found and found["hash"] is None:
        return ["nothing to show"]
    return [f"{found['samples']} × {found['length_tokens']} tokens"] if {"samples", "length_tokens"} <= {*found} else []


def _pruning(record: dict) -> list[str]:
    told = []
    if share := record.get("sparsity_pruned"):
        told.append(f"{100 * share:.0f} % removed")
    if size := record.get("packed_bytes"):
        told.append(_short(size, "B"))
    recovery = record.get("recovery") or {}
    if {"validation_loss_before", "validation_loss_after"} <= {*recovery}:
        told.append(f"loss {recovery['validation_loss_before']:.3f} → {recovery['validation_loss_after']:.3f}")
    return told


def _quality(found: dict, headline: Headline) -> list[str]:
    value, diff = found.get(headline.column), found.get(headline.diff)
    if value is None:
        return []
    told = f"{headline.name} {value:{headline.brief}}"
    return [told if not diff or value == diff else f"{told} ({100 * diff / (value - diff):+.1f} %)"]


def _time(found: dict, variant: str) -> list[str]:
    ratio, low, high = (found.get(f"decode_ratio{end}") for end in ("", "_lo", "_hi"))
    told = []
    if variant == "dense" and low is not None and high is not None:
        told.append(f"A/A test {100 * (low - 1):+.1f} … {100 * (high - 1):+.1f} %")
    elif ratio is not None:
        told.append(" ".join(filter(None, (f"decode {ratio:.2f} × dense:", found.get("decode_verdict")))).rstrip(":"))
    if found.get("unreliable"):
        told.append("unreliable")
    return told


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _short(count: float, unit: str) -> str:
    """`1780608` → `1.8 MB`, or with a word as the unit `1.8 M characters`."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {prefix}{unit}"
    return f"{count:.0f} {unit.strip()}"
