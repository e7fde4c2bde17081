"""Really remove neurons, heads or blocks of the dense model: one smaller, ordinary model.

python -m stages.remove depth-25 --dense models/dense --calibration models/calibration --out models/depth-25
"""

import argparse
from pathlib import Path

from prunelab.disk import places
from prunelab.energy import energy
from prunelab.errors import InputError, exit_cleanly
from prunelab.recipes import variants
from prunelab.recipes.methods import STRUCTURES
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.remove", description=__doc__.partition("\n")[0])
    parser.add_argument("variant", help="<method>-<percent>[-s<seed>], such as depth-25")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--calibration", type=Path, help="folder of the calibrate stage, for methods that look at data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    places.check_folder(arguments.out, *(one for one in (arguments.dense, arguments.calibration) if one))

    settings = params.load()
    variant = variants.parse(arguments.variant)
    if variant.method not in STRUCTURES:
        raise InputError(f"{variant.id}: no structure is called {variant.method!r}; allowed: {', '.join(STRUCTURES)}")
    with energy.stage_meter(f"remove-{variant.id}", arguments.energy):
        run(arguments, settings, variant)


def run(arguments, settings, variant: variants.Variant) -> None:
    """The work, behind the imports that cost seconds."""
    from prunelab.calibration.calibration import Calibration
    from prunelab.structure import removal

    plan = removal.Plan(
        variant=variant,
        round_to=settings.structure.round_to,
        checkpoint=settings.prune.checkpoint,
        seed=settings.seed_of(variant.seed_tag),
    )
    calibration = Calibration(arguments.calibration) if arguments.calibration else None
    record = removal.remove(arguments.dense, arguments.out, plan, calibration)
    print(
        f"{variant.id}: {record['sparsity_pruned']:.2%} of the prunable parameters are gone (asked: {variant.rate} %), "
        f"{record['parameters']:,} are left; {record['packed_bytes']:,} bytes, {record['dense_bytes']:,} dense"
    )


if __name__ == "__main__":
    exit_cleanly(main)
