"""What sections ask of others: rows of readings that the training keeps, budgets of questions that are asked."""

from prunelab.errors import nearest
from prunelab.recipes.methods import METHODS, SIGNED_SQRT


def readings(settings) -> None:
    """Raises ValueError for a row that reads of the training what `train.tracker` does not keep."""
    tracker = settings.train.tracker
    kept = {None, *tracker.windows, *([SIGNED_SQRT] if tracker.signed_sqrt else [])}
    for variant in settings.variants():
        reading = METHODS[variant.method].reading if variant.prunes == "mask" else None
        if reading not in kept:
            how = "signed_sqrt: true" if reading == SIGNED_SQRT else f"windows: {{{reading}: <share of the ticks>}}"
            raise ValueError(f"prune: {variant.id} reads what this training does not keep; set train.tracker.{how}")


def cells(settings) -> None:
    """Raises ValueError for what cannot be had of rows that are judged and not kept."""
    found = settings.prune.cell_variants
    named = {*settings.runtimes.variants, settings.deploy.variant}
    for variant in found:
        if variant.id in named:
            raise ValueError(f"prune.cells: {variant.id} is judged and not kept; to run it put it into prune.further")
        if settings.looks_at_text(variant):
            raise ValueError(
                f"prune.cells: {variant.id} looks at calibration text, which cells are not given; put it into "
                "prune.further"
            )
    if found and settings.deploy.variant is None:
        raise ValueError(
            "deploy.variant: null may choose one of prune.cells, which are judged and not kept; name a row that is, "
            "such as dense"
        )


def schedule(settings) -> None:
    """Raises ValueError where a training is too short for the schedule of what prunes meanwhile."""
    gradual, steps = settings.prune.gradual, settings.train.steps
    if gradual and steps and any(METHODS[v.method].trains for v in settings.variants() if v.prunes == "mask"):
        begin, end = (round(percent / 100 * steps) for percent in (gradual.begin_percent, gradual.end_percent))
        if begin >= end:
            raise ValueError(
                f"prune.gradual: {steps} training steps leave none between begin_percent {gradual.begin_percent} "
                f"and end_percent {gradual.end_percent}"
            )


def questions(settings) -> None:
    """Raises ValueError for a budget of answers where nothing is asked."""
    for figure in ("accuracy_drop_points", "right_probability_drop_points"):
        asked = figure in settings.deploy.budgets or figure in settings.deploy.minimise
        if asked and not settings.quality.questions.names:
            raise ValueError(f"deploy: {figure} needs questions, but quality.questions.names is []; name some there")


def texts(settings) -> None:
    """Raises ValueError for a text to be judged on that has no source."""
    known = list(settings.fetch.texts)
    if unknown := [name for name in settings.quality.texts if name not in known]:
        raise ValueError(
            f"quality.texts: {unknown[0]!r} is not in fetch.texts{nearest(unknown[0], known)}; put its source there"
        )
