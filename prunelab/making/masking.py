"""The step of a recipe that zeroes weights."""

from pathlib import Path

from prunelab.calibration.calibration import Calibration
from prunelab.errors import InputError
from prunelab.making.given import Given
from prunelab.pruning import pruning
from prunelab.recipes.methods import METHODS, allocation_of
from prunelab.recipes.variants import Variant


def by_blocks(settings, variant: Variant) -> bool:
    """Whether a block is pruned before the next one is calibrated, as published: then the model must run."""
    wanted = settings.calibrate
    return METHODS[variant.method].runs_model and wanted is not None and wanted.propagate == "pruned"


def mask(given: Given, variant: Variant, out: Path) -> dict:
    """Write the dense model with `variant`'s zeros into `out`; returns what sparsity.json says.

    Raises InputError for a method that does not exist, and for what it needs and does not get.
    """
    settings, wanted = given.settings, given.settings.calibrate
    if variant.method not in METHODS:
        raise InputError(f"{variant.id}: no method is called {variant.method!r}; allowed: {', '.join(METHODS)}")
    plan = pruning.Plan(
        variant=variant,
        allocation=allocation_of(variant.method, variant.allocation, settings.prune.allocation),
        scope=settings.prune.scope,
        checkpoint=settings.prune.checkpoint,
        seed=given.seed,
        owl=(wanted.owl_outlier_multiple, wanted.owl_span) if wanted else None,
    )
    calibration = Calibration(given.calibration) if given.calibration else None
    # Imported here, because pruning by weights alone needs no model class, whose import takes seconds.
    if METHODS[variant.method].trains:
        from prunelab.pruning import traintime

        return traintime.prune(settings, given.data, out, plan)
    if by_blocks(settings, variant) and calibration:
        from prunelab.pruning import streaming

        decide = streaming.decide_for(settings, plan, given.dense, calibration, disk=Path(out).parent)
        return pruning.prune(given.dense, out, plan, calibration, decide)
    return pruning.prune(given.dense, out, plan, calibration)
