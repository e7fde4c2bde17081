"""Prune the dense model: `python -m stages.prune magnitude-50 --dense models/dense --out models/magnitude-50`."""

import argparse
from pathlib import Path

from prunelab import energy, params, pruning, variants
from prunelab.errors import exit_cleanly


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.prune", description=__doc__)
    parser.add_argument("variant", help="<method>[-<allocation>]-<rate>[-s<seed>]")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    with energy.stage_meter(f"prune-{arguments.variant}", arguments.energy):
        run(arguments)


def run(arguments) -> None:
    settings = params.load()
    variant = variants.parse(arguments.variant)
    plan = pruning.Plan(
        variant=variant,
        allocation=variant.allocation or settings.prune.allocation,
        scope=settings.prune.scope,
        checkpoint=settings.prune.checkpoint,
        seed=settings.seed_of(variant.seed_tag),
    )
    record = pruning.prune(arguments.dense, arguments.out, plan)
    print(
        f"{variant.id}: {record['sparsity_pruned']:.2%} of the weights in scope are zero ({record['sparsity_all']:.2%} "
        f"of all); {record['packed_bytes']:,} bytes packed, {record['dense_bytes']:,} dense"
    )


if __name__ == "__main__":
    exit_cleanly(main)
