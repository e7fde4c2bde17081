"""The step of a recipe that zeroes weights."""

from pathlib import Path

from prunelab.calibration.calibration import Calibration
from prunelab.making.given import Given
from prunelab.pruning import pruning
from prunelab.recipes.methods import METHODS, allocation_of
from prunelab.recipes.variants import Variant


def mask(given: Given, variant: Variant, out: Path) -> dict:
    """Write the dense model with `variant`'s zeros into `out`; returns what sparsity.json says.

    Raises InputError for what the method needs and does not get.
    """
    settings, wanted = given.settings, given.settings.calibrate
    plan = pruning.Plan(
        variant=variant,
        allocation=allocation_of(variant.method, variant.allocation, settings.prune.allocation),
        scope=settings.prune.scope,
        checkpoint=METHODS[variant.method].checkpoint or settings.prune.checkpoint,
        seed=given.seed,
        owl=(wanted.owl_outlier_multiple, wanted.owl_span) if wanted else None,
    )
    calibration = Calibration(given.calibration) if given.calibration else None
    # Imported here, because pruning by weights alone needs no model class, whose import takes seconds.
    if METHODS[variant.method].trains:
        from prunelab.pruning import traintime

        return traintime.prune(settings, given.task, given.data, out, plan)
    if given.goes_by_blocks(variant) and calibration:
        from prunelab.pruning import streaming

        decide = streaming.decide_for(settings, plan, given.dense, calibration, disk=Path(out).parent)
        return pruning.prune(given.dense, out, plan, calibration, decide)
    return pruning.prune(given.dense, out, plan, calibration)
