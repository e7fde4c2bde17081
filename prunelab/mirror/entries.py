"""What a study's files say, as the runs that MLflow shall show. Reads files, knows nothing of MLflow.

The list of variants comes from the settings, never from what lies in a folder: files of rates that were struck out
again are still there.
"""

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple

from prunelab import tasks
from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.report.results import label
from prunelab.study import params

REPORT = Path("report")
BEST = Path("models/best")
KINDS = {"causal": {}, "picture": {"kind": "image-text-to-text"}}  # what MLflow is to call a model; else causal-lm
IDENTITY = (
    "variant",
    "method",
    "rate",
    "seed",
    "allocation",
    "path",
    "dense",
)  # columns that say which row it is: parameters


class Entry(NamedTuple):
    """One run to be. `curve` holds (step, metric, value); `model` the logged model's tags, and its
    `name` where that is not the run's; None for a study that delivers none."""

    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    curve: list[tuple[int, str, float]]
    model: dict[str, str] | None
    artifacts: list[Path]

    def content(self) -> str:
        """Hex sha256 of everything the run holds. The git commit is no part: it changes without the results."""
        attached = {path.name: files.sha256_file(path) for path in self.artifacts}
        return hashlib.sha256(json.dumps([*self[:6], attached], sort_keys=True).encode()).hexdigest()


def entries(settings: params.Settings) -> list[Entry]:
    """The runs that the files of this study make: its variants in the order of params.yaml, then the study itself."""
    paths = [f"{tag}/{variant.id}" for tag in settings.seeds for variant in settings.variants()]
    rows = {row.get("path"): row for row in _read_csv(REPORT / "results.csv")}
    if missing := [path for path in paths if path not in rows]:
        raise InputError(f"{REPORT / 'results.csv'} has no row for {', '.join(missing)}; write it again: dvc repro")
    measured = [key for key in rows[paths[0]] if key not in IDENTITY]
    numeric = [key for key in measured if any(_number(rows[path][key]) is not None for path in paths)]
    opens = tasks.headline(settings).column
    numeric.sort(key=lambda name: name != opens)  # the comparison opens on the first one
    outputs, kind = _dvc_outputs(), KINDS[tasks.of(settings.task).MODELS]
    options = {"study": settings.study, **_flat(settings.train.tracker.model_dump(), "tracker")}
    options |= {"scope": settings.prune.scope, "checkpoint": settings.prune.checkpoint}
    advice, made = files.read_json(REPORT / "recommendation.json"), []
    stands = {row["variant"]: row for row in advice["rows"]}
    by_row = _by_row(outputs)
    for path in paths:
        row = rows[path]
        own = by_row.get(path, {})
        weights = f"models/{path}"
        curve = _curve(Path(weights)) if path == row["dense"] else []
        chosen = {key: str(row.get(key) or "none") for key in IDENTITY}
        # The same keys in every run, or MLflow's charts leave runs out; what is unknown is not a number.
        metrics = {key: _known(_number(row[key])) for key in numeric}
        metrics["rate"] = _number(row["rate"]) if _number(row["rate"]) is not None else 100 * metrics["sparsity_pruned"]
        tags = {key: row[key] for key in measured if key not in numeric and row[key]}
        tags |= {"deploy.state": stands[row["variant"]]["state"]} if row["variant"] in stands else {}
        tags |= {"dvc.stage": " ".join(dict.fromkeys(stage for stage, _ in own.values()))}
        tags |= {f"dvc.md5.{path}": md5 for path, (_, md5) in own.items()}
        model = {
            "dvc.path": weights,
            "dvc.md5": outputs.get(weights, ("", "unknown"))[1],
            "dvc.get": f"dvc pull {weights}",
        } | kind
        name = label(path, len(settings.seeds) > 1)
        made.append(Entry(name, chosen | options, metrics, _tags("variant", settings) | tags, curve, model, []))
    whole = hashlib.sha256("".join(entry.content() for entry in made).encode()).hexdigest()
    summary = {key: _number(value) for key, value in _flat(files.read_json(REPORT / "metrics.json")).items()}
    numbers = {key: value for key, value in summary.items() if value is not None}
    shown = [REPORT / name for name in ("index.html", "results.csv", "recommendation.json")]
    attached = [path for path in (*shown, Path("params.yaml")) if path.exists()]
    settled = {key: str(value)[:6000] for key, value in _flat(settings.model_dump()).items()}
    tags = _tags("study", settings) | {"prunelab.results": whole}
    tags |= {"deploy.variant": advice["variant"] or "none", "deploy.tied": " ".join(advice["tied"]) or "none"}
    tags |= {"deploy.why": advice["why"], "deploy.told": advice["told"][0]}
    tags |= {f"deploy.variant.{device}": one["variant"] or "none" for device, one in advice["devices"].items()}
    delivered, card = _delivered(outputs)
    made.append(
        Entry(
            settings.study,
            settled,
            numbers,
            tags,
            _curve(Path("models", settings.seeds[0], "dense")),
            delivered,
            attached + card,
        )
    )
    return made


def _by_row(outputs: dict[str, tuple[str, str]]) -> dict[str, dict[str, tuple[str, str]]]:
    """Those of each row: its folder, or what lies in it. One walk, because a study may have 500 rows."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for place, out in outputs.items():
        for row in (_row_of(place), _row_of(Path(place).parent)):
            found.setdefault(row, {})[place] = out
    return found


def _row_of(place) -> str:
    """`models/s1/wanda-50` → `s1/wanda-50`: the row that a folder of models/ or results/ is of."""
    return Path(*Path(place).parts[1:]).as_posix()


def _delivered(outputs: dict) -> tuple[dict[str, str] | None, list[Path]]:
    """The model to deploy as the study's logged model, and its card; nothing where the stage export has not run."""
    if not (BEST / "delivery.json").exists():
        return None, []
    facts = files.read_json(BEST / "delivery.json")
    path = BEST.as_posix()
    model = {"name": BEST.name, "variant": facts["variant"], "chosen": facts["why"]}
    model |= {"dvc.path": path, "dvc.md5": outputs.get(path, ("", "unknown"))[1], "dvc.get": f"dvc pull {path}"}
    return model, [BEST / "README.md"]


def _tags(kind: str, settings: params.Settings) -> dict[str, str]:
    return {"prunelab.kind": kind, "prunelab.study": settings.study}


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the study writes it: dvc repro") from None


def _curve(model: Path) -> list[tuple[int, str, float]]:
    """The training curve of a dense model; a fetched model has none."""
    path = model / "history" / "curve.csv"
    rows = _read_csv(path) if path.exists() else []
    points = [(int(row["step"]), key, _number(row[key])) for row in rows for key in row if key != "step"]
    return [(step, key, value) for step, key, value in points if value is not None]


def _number(word) -> float | None:
    """A finite or infinite number, None for anything else; a flag is no number."""
    try:
        number = None if isinstance(word, bool) else float(word)
    except (TypeError, ValueError):
        return None
    return None if number is None or math.isnan(number) else number


def _known(number: float | None) -> float:
    return math.nan if number is None else number


def _flat(tree: dict, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`, with what MLflow refuses in a name replaced."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= _flat(value, name) if isinstance(value, dict) else {name.replace("@", "/"): value}
    return flat


def _dvc_outputs() -> dict[str, tuple[str, str]]:
    """Path of each output in dvc.lock → (stage, md5); nothing where stages were run by hand."""
    import yaml  # as MLflow brings it; its C reader takes a lock file of 500 variants in a tenth of ruamel's time

    lock = Path("dvc.lock")
    if not lock.exists():
        return {}
    loaded = yaml.load(lock.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    stages = (loaded or {}).get("stages", {})
    return {
        out["path"]: (name, out.get("md5", "unknown"))
        for name, stage in stages.items()
        for out in stage.get("outs", [])
    }
