"""Which stages make a row of results, when they ran, and the row itself as far as they have ended."""

from collections.abc import Container, Iterable
from pathlib import Path

from prunelab import tasks
from prunelab.disk.files import read_json
from prunelab.recipes import variants
from prunelab.recipes.variants import QUANTISED, Variant
from prunelab.report import results
from prunelab.study import locations

RESULTS, MODELS = Path("results"), Path("models")  # of the study in the current folder
ENERGY = RESULTS / "energy"
KINDS = ("prune", "quality", "efficiency")  # what makes a row's model and measures it
OF_DENSE = ("train", "reference", "efficiency-dense")


def of_row(settings, path: str) -> dict[str, str]:
    """Kind → the stage of the row `path`, such as quality → quality-further@depth-25-s1; of a cell always cells@s1."""
    return {kind: locations.stage_of(settings, kind, path) for kind in KINDS}


def row_so_far(settings, path: str, ended: Container[str]) -> dict[str, str]:
    """The row `path` as report/results.csv will hold it, as far as the stages `ended` tell; empty: unknown.

    Raises InputError where a file of such a stage is missing or is of another measure than that of dense.
    """
    tag, _, identifier = path.partition("/")
    variant = variants.parse(identifier)
    needed = {path: variant, f"{tag}/{variants.DENSE}": variants.parse(variants.DENSE)}
    if other := settings.timed_as(variant):
        needed[f"{tag}/{other}"] = variants.parse(other)
    files = {name: _files_so_far(settings, name, one, ended) for name, one in needed.items()}
    row = results.row_of(settings, tasks.headline(settings), files, tag, variant)
    return {key: "" if value is None else str(value) for key, value in row.items()}


def _files_so_far(settings, path: str, variant: Variant, ended: Container[str]) -> dict[str, dict]:
    stages, wanted = of_row(settings, path), []
    found, model = locations.results_of(settings, RESULTS, path), locations.model_of(settings, RESULTS, MODELS, path)
    if stages["prune"] in ended:
        wanted += [(model, "sparsity")] if variant.rate is not None else []
        wanted += [(model, "quantised")] if variant.precision in QUANTISED else []
    if stages["quality"] in ended:
        wanted.append((found, "quality"))
    if stages["efficiency"] in ended and settings.timed_as(variant) is None:
        wanted.append((found, "efficiency"))
    return {name: read_json(folder / f"{name}.json") for folder, name in wanted}


def bookings(settings, path: str) -> dict[str, Path]:
    """Stage → the file that books what it used, of the making, judging and timing of the row `path`."""
    tag, _, identifier = path.partition("/")
    if identifier == variants.DENSE:
        names = {f"{name}@{tag}": name for name in OF_DENSE}
    elif locations.is_cell(settings, path):
        names = {f"cells@{tag}": "cells"}
    else:
        making = "further" if identifier in settings.prune.further else "prune"
        kinds = dict(zip(KINDS, (making, "quality", "efficiency"), strict=True))
        names = {stage: f"{kinds[kind]}-{identifier}" for kind, stage in of_row(settings, path).items()}
    if identifier in settings.runtimes.variants:
        names[f"runtimes@{identifier}-{tag}"] = f"runtimes-{identifier}"
    return {stage: ENERGY / tag / f"{name}.json" for stage, name in names.items()}


def bookings_of_study(settings) -> dict[str, Path]:
    """The same of all its stages that book."""
    found = {name: ENERGY / f"{name}.json" for name in ("fetch", "probes")}
    found |= {f"calibrate@{tag}": ENERGY / tag / "calibrate.json" for tag in settings.seeds}
    for tag in settings.seeds:
        for variant in settings.variants():
            found |= bookings(settings, f"{tag}/{variant.id}")
    return found


def when(booked: Iterable[Path]) -> tuple[int | None, int]:
    """(unix ms at which the first of the booked stages began, None where none says; ms in which one of them ran).

    What ran side by side counts once, and what lies between two stages doesn't count: measuring comes last, and DVC's
    cache brings back what ran weeks ago.
    """
    spans = []
    for file in booked:
        content = read_json(file) if file.exists() else {}
        if "began_unix_s" in content:
            spans.append((content["began_unix_s"], content["began_unix_s"] + content["seconds"]))
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return (round(1000 * min(spans)[0]) if spans else None), round(1000 * total)
