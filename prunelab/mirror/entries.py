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
from prunelab.mirror import stages
from prunelab.report.results import label
from prunelab.study import params
from prunelab.training import points

REPORT = Path("report")
BEST = Path("models/best")
KINDS = {"causal": {}, "picture": {"kind": "image-text-to-text"}}  # what MLflow is to call a model; else causal-lm
# Columns that say which row it is: parameters.
IDENTITY = ("variant", "method", "rate", "seed", "allocation", "path", "dense")
# What only tells, or lists rows: with another one a row stays the same row.
NO_PART_OF_A_ROW = {
    "seeds": True, "runtimes": True, "deploy": True, "report": True, "export": True,
    "prune": {"methods", "rates", "further"}, "efficiency": {"methods"},
}  # fmt: skip
STUDY = ""  # in the place of a row's path: the study itself


class Point(NamedTuple):
    """Of a training. `at_ms`: unix time, None where only the curve is known."""

    step: int
    metric: str
    value: float
    at_ms: int | None = None


class Entry(NamedTuple):
    """One run to be. `curve` holds points; `model` the logged model's tags, and its `name` where that is not the run's;
    None for a study that delivers none. `key` says which run of MLflow is its own while its study still runs; it began
    at `began_ms` (unix time, None: unknown), and its stages took `took_ms`."""

    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    curve: list[Point]
    model: dict[str, str] | None
    artifacts: list[Path]
    key: str = ""
    began_ms: int | None = None
    took_ms: int = 0

    def content(self) -> str:
        """Hex sha256 of everything the run holds. The git commit is no part: it changes without the results; nor is
        when it ran."""
        attached = {path.name: files.sha256_file(path) for path in self.artifacts}
        return hashlib.sha256(json.dumps([*self[:6], attached], sort_keys=True).encode()).hexdigest()


def key(settings: params.Settings, path: str) -> str:
    """Hex sha256 of a row (STUDY: of the study) and of the settings that decide it: a study that was killed and goes on
    finds its runs by it, also where rows were added."""
    decisive = settings.model_dump_json(exclude=None if path == STUDY else NO_PART_OF_A_ROW)
    return hashlib.sha256(f"{path} {decisive}".encode()).hexdigest()


def begun(settings: params.Settings, path: str, row: dict[str, str]) -> Entry:
    """The run of a row of which `row` is known so far (as the report's table will say it, empty: unknown); of STUDY no
    row is needed."""
    own = key(settings, path)
    if path == STUDY:
        return Entry(settings.study, _settled(settings), {}, _tags("study", settings), [], None, [], own)
    numbers = {name: _number(word) for name, word in row.items() if name not in IDENTITY}
    metrics = {name: value for name, value in numbers.items() if value is not None}
    if (rate := _rate(row)) is not None:
        metrics["rate"] = rate
    # What is not known yet may become known, and a run's parameters can't be changed.
    told = {name: word for name, word in _identity(row).items() if row.get(name)} | _options(settings)
    name = label(path, len(settings.seeds) > 1)
    return Entry(name, told, metrics, _tags("variant", settings), [], None, [], own)


def entries(settings: params.Settings) -> list[Entry]:
    """The runs that the files of this study make: its variants in the order of params.yaml, then the study itself."""
    paths = [f"{tag}/{variant.id}" for tag in settings.seeds for variant in settings.variants()]
    rows = {row.get("path"): row for row in _read_csv(REPORT / "results.csv")}
    if missing := [path for path in paths if path not in rows]:
        raise InputError(f"{REPORT / 'results.csv'} has no row for {', '.join(missing)}; write it again: dvc repro")
    measured = [name for name in rows[paths[0]] if name not in IDENTITY]
    numeric = [name for name in measured if any(_number(rows[path][name]) is not None for path in paths)]
    opens = tasks.headline(settings).column
    numeric.sort(key=lambda name: name != opens)  # the comparison opens on the first one
    outputs, kind = _dvc_outputs(), KINDS[tasks.of(settings.task).MODELS]
    advice, options, made = files.read_json(REPORT / "recommendation.json"), _options(settings), []
    stands = {row["variant"]: row for row in advice["rows"]}
    by_row = _by_row(outputs)
    for path in paths:
        row = rows[path]
        own = by_row.get(path, {})
        weights = f"models/{path}"
        curve = _curve(path.partition("/")[0]) if path == row["dense"] else []
        # The same keys in every run, or MLflow's charts leave runs out; what is unknown is not a number.
        metrics = {name: _known(_number(row[name])) for name in numeric} | {"rate": _known(_rate(row))}
        tags = {name: row[name] for name in measured if name not in numeric and row[name]}
        tags |= {"deploy.state": stands[row["variant"]]["state"]} if row["variant"] in stands else {}
        tags |= {"dvc.stage": " ".join(dict.fromkeys(stage for stage, _ in own.values()))}
        tags |= {f"dvc.md5.{path}": md5 for path, (_, md5) in own.items()}
        model = {
            "dvc.path": weights,
            "dvc.md5": outputs.get(weights, ("", "unknown"))[1],
            "dvc.get": f"dvc pull {weights}",
        } | kind
        name = label(path, len(settings.seeds) > 1)
        when = (key(settings, path), *stages.when(stages.bookings(settings, path).values()))
        told = _tags("variant", settings) | tags
        made.append(Entry(name, _identity(row) | options, metrics, told, curve, model, [], *when))
    made.append(_study(settings, made, advice, outputs))
    return made


def _study(settings: params.Settings, made: list[Entry], advice: dict, outputs: dict) -> Entry:
    """The run of the study itself, behind those of its rows."""
    whole = hashlib.sha256("".join(entry.content() for entry in made).encode()).hexdigest()
    summary = {name: _number(value) for name, value in _flat(files.read_json(REPORT / "metrics.json")).items()}
    numbers = {name: value for name, value in summary.items() if value is not None}
    shown = [REPORT / name for name in ("index.html", "results.csv", "recommendation.json")]
    attached = [path for path in (*shown, Path("params.yaml")) if path.exists()]
    tags = _tags("study", settings) | {"prunelab.results": whole}
    tags |= {"deploy.variant": advice["variant"] or "none", "deploy.tied": " ".join(advice["tied"]) or "none"}
    tags |= {"deploy.why": advice["why"], "deploy.told": advice["told"][0]}
    tags |= {f"deploy.variant.{device}": one["variant"] or "none" for device, one in advice["devices"].items()}
    delivered, card = _delivered(outputs)
    when = (key(settings, STUDY), *stages.when(stages.bookings_of_study(settings).values()))
    curve = _curve(settings.seeds[0])
    return Entry(settings.study, _settled(settings), numbers, tags, curve, delivered, attached + card, *when)


def _identity(row: dict[str, str]) -> dict[str, str]:
    return {name: str(row.get(name) or "none") for name in IDENTITY}


def _options(settings: params.Settings) -> dict[str, str]:
    """Settings that every run of a row carries."""
    options = {"study": settings.study, **_flat(settings.train.tracker.model_dump(), "tracker")}
    return options | {"scope": settings.prune.scope, "checkpoint": settings.prune.checkpoint}


def _settled(settings: params.Settings) -> dict[str, str]:
    return {name: str(value)[:6000] for name, value in _flat(settings.model_dump()).items()}


def _rate(row: dict[str, str]) -> float | None:
    """In percent, None where it is not known yet: of `2of4` it is what was really removed."""
    rate = _number(row["rate"])
    if rate is None and (pruned := _number(row["sparsity_pruned"])) is not None:
        return 100 * pruned
    return rate


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


def _curve(tag: str) -> list[Point]:
    """The training curve of a seed's dense model, and what its training said by the clock; a fetched model has none."""
    said = {}
    for line in points.finished(stages.RESULTS / tag / "dense" / "training.jsonl"):
        said |= {(point.step, point.metric): point for point in of_line(line)}
    path, found = stages.MODELS / tag / "dense" / "history" / "curve.csv", {}
    for row in _read_csv(path) if path.exists() else []:
        step = int(row["step"])
        for name, value in ((name, _number(word)) for name, word in row.items() if name != "step"):
            if value is not None:
                at = said[step, name].at_ms if (step, name) in said else None
                found[step, name] = Point(step, name, value, at)
    return sorted((said | found).values(), key=lambda point: point.step)


def of_line(line: dict) -> list[Point]:
    """The points that a line of training.jsonl holds."""
    at = round(1000 * line["at"])
    return [Point(line["step"], name, value, at) for name, value in line.items() if name not in ("step", "at")]


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
