"""Prune the dense model by one method at one rate.

python -m stages.prune magnitude-50 --dense models/s1/dense --out models/s1/magnitude-50
"""

import argparse

from prunelab import tasks
from prunelab.disk import turns
from prunelab.disk.files import read_json
from prunelab.energy import energy
from prunelab.errors import InputError, exit_cleanly
from prunelab.making import given, kept, masking
from prunelab.recipes import variants
from prunelab.study import naming


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.prune", description=__doc__.partition("\n")[0])
    naming.add_variant(parser, "<method>[-<allocation>]-<rate>, such as wanda-50")
    given.add_options(parser)
    arguments = naming.parse(parser, argv)
    told = given.of_options(arguments, tasks.of)
    variant = variants.parse(arguments.variant)
    if variant.prunes != "mask" or variant.steps:
        raise InputError(
            f"{variant.id}: the stage prune zeroes weights; expected <method>-<rate>, such as magnitude-50"
        )
    long, country = told.takes_long(variant), told.settings.energy.country
    with turns.computing(), energy.stage_meter(f"prune-{variant.id}", arguments.energy, long=long, country=country):
        kept.row(told, variant, arguments.out, lambda place: masking.mask(told, variant, place))
    record = read_json(arguments.out / "sparsity.json")
    print(
        f"{variant.id}: {record['sparsity_pruned']:.2%} of the weights in scope are zero ({record['sparsity_all']:.2%} "
        f"of all); {record['packed_bytes']:,} bytes packed, {record['dense_bytes']:,} dense"
    )


if __name__ == "__main__":
    exit_cleanly(main)
