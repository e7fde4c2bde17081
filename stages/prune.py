"""Prune the dense model by one method at one rate.

python -m stages.prune magnitude-50 --dense models/s1/dense --out models/s1/magnitude-50
"""

import argparse
from pathlib import Path

from prunelab.disk import places
from prunelab.disk.files import read_json
from prunelab.energy import energy
from prunelab.errors import InputError, exit_cleanly
from prunelab.making import kept, masking
from prunelab.making.given import Given
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.prune", description=__doc__.partition("\n")[0])
    parser.add_argument("variant", help="<method>[-<allocation>]-<rate>, such as wanda-50")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, help="folder that the stage fetch wrote, for methods that train")
    parser.add_argument("--calibration", type=Path, help="folder of the stage calibrate, for methods that look at text")
    parser.add_argument("--seed", default=params.FIRST_SEED, help="tag of the seed, such as s2 (s1: the study's own)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    inputs = (arguments.dense, arguments.data, arguments.calibration)
    places.check_folder(arguments.out, *(one for one in inputs if one))  # now, not after hours of training
    settings = params.load()
    variant = variants.parse(arguments.variant)
    if variant.prunes != "mask" or variant.steps:
        raise InputError(
            f"{variant.id}: the stage prune zeroes weights; expected <method>-<rate>, such as magnitude-50"
        )
    long = masking.by_blocks(settings, variant) or METHODS[variant.method].trains
    given = Given(settings, arguments.seed, arguments.dense, arguments.data, arguments.calibration)
    with energy.stage_meter(f"prune-{variant.id}", arguments.energy, long=long, country=settings.energy.country):
        kept.row(given, variant, arguments.out, lambda place: masking.mask(given, variant, place))
    record = read_json(arguments.out / "sparsity.json")
    print(
        f"{variant.id}: {record['sparsity_pruned']:.2%} of the weights in scope are zero ({record['sparsity_all']:.2%} "
        f"of all); {record['packed_bytes']:,} bytes packed, {record['dense_bytes']:,} dense"
    )


if __name__ == "__main__":
    exit_cleanly(main)
