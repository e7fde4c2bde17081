"""Where the results of a row lie and which stage writes them, from its path: `s1/wanda-50` is wanda-50 of seed s1."""

from pathlib import Path


def is_cell(settings, path: str) -> bool:
    """Whether the row is one of prune.cells, which are judged and not kept."""
    return any(variant.id == path.partition("/")[2] for variant in settings.prune.cell_variants)


def results_of(settings, results, path: str) -> Path:
    """The folder of a row's results: `path` itself, but that cells lie together in a folder of their seed."""
    tag, _, identifier = path.partition("/")
    return Path(results) / tag / ("cells" if is_cell(settings, path) else "") / identifier


def model_of(settings, results, models, path: str) -> Path:
    """The folder that says how a row's model was made: the model's own, or of a cell that of its results."""
    return results_of(settings, results, path) if is_cell(settings, path) else Path(models) / path


def stage_of(settings, kind: str, path: str) -> str:
    """The name of the stage that makes a row's model ("prune") or measures it ("quality", "efficiency").

    Such as prune@wanda-50-s1, quality-further@depth-25-s1, efficiency-dense@s1; of a cell cells@s1.
    """
    tag, _, identifier = path.partition("/")
    if is_cell(settings, path):
        return f"cells@{tag}"
    if identifier == "dense":
        return {"prune": "train", "quality": "reference", "efficiency": "efficiency-dense"}[kind] + f"@{tag}"
    if identifier in settings.prune.further:
        kind = "further" if kind == "prune" else f"{kind}-further"
    return f"{kind}@{identifier}-{tag}"
