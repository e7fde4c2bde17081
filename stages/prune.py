"""Prune the dense model: `python -m stages.prune magnitude-50 --dense models/dense --out models/magnitude-50`."""

import argparse
from pathlib import Path

from prunelab.calibration.calibration import Calibration
from prunelab.disk import places
from prunelab.energy import energy
from prunelab.errors import InputError, exit_cleanly
from prunelab.pruning import pruning
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS, allocation_of
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.prune", description=__doc__)
    parser.add_argument("variant", help="<method>[-<allocation>]-<rate>[-s<seed>]")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, help="folder that the stage fetch wrote, for methods that train")
    parser.add_argument("--calibration", type=Path, help="folder of the stage calibrate, for methods that look at text")
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    inputs = (arguments.dense, arguments.data, arguments.calibration)
    places.check_folder(arguments.out, *(one for one in inputs if one))  # now, not after hours of training
    settings = params.load()
    variant = variants.parse(arguments.variant)
    if variant.method not in METHODS:
        raise InputError(f"{variant.id}: no method is called {variant.method!r}; allowed: {', '.join(METHODS)}")
    wanted = settings.calibrate
    # As published, a block is pruned before the next one is calibrated: the model must run.
    by_blocks = METHODS[variant.method].runs_model and wanted is not None and wanted.propagate == "pruned"
    name, country = f"prune-{arguments.variant}", settings.energy.country
    with energy.stage_meter(name, arguments.energy, long=by_blocks or METHODS[variant.method].trains, country=country):
        run(arguments, settings, variant, by_blocks)


def run(arguments, settings, variant: variants.Variant, by_blocks: bool) -> None:
    wanted = settings.calibrate
    plan = pruning.Plan(
        variant=variant,
        allocation=allocation_of(variant.method, variant.allocation, settings.prune.allocation),
        scope=settings.prune.scope,
        checkpoint=settings.prune.checkpoint,
        seed=settings.seed_of(variant.seed_tag),
        owl=(wanted.owl_outlier_multiple, wanted.owl_span) if wanted else None,
    )
    calibration = Calibration(arguments.calibration) if arguments.calibration else None
    # Imported here, because pruning by weights alone needs no model class, whose import takes seconds.
    if METHODS[variant.method].trains:
        from prunelab.pruning import traintime

        record = traintime.prune(settings, arguments.data, arguments.out, plan)
    elif by_blocks and calibration:
        from prunelab.pruning import streaming

        decide = streaming.decide_for(settings, plan, arguments.dense, calibration, disk=arguments.out.parent)
        record = pruning.prune(arguments.dense, arguments.out, plan, calibration, decide)
    else:
        record = pruning.prune(arguments.dense, arguments.out, plan, calibration)
    print(
        f"{variant.id}: {record['sparsity_pruned']:.2%} of the weights in scope are zero ({record['sparsity_all']:.2%} "
        f"of all); {record['packed_bytes']:,} bytes packed, {record['dense_bytes']:,} dense"
    )


if __name__ == "__main__":
    exit_cleanly(main)
