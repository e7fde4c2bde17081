"""Make one variant of prune.further, whose id says how: removed structure, recovered, quantised, a control, a chain.

    python -m stages.further depth-25-recovered --dense models/s1/dense --calibration models/s1/calibration \\
        --data data/fetched --seed s1 --out models/s1/depth-25-recovered
"""

import argparse
from pathlib import Path

from prunelab.disk import places
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.making.given import Given
from prunelab.recipes import variants
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.further", description=__doc__.partition("\n")[0])
    parser.add_argument("variant", help="its id, such as depth-25, wanda-50-recovered or dense-int8")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--calibration", type=Path, help="folder of the stage calibrate, for steps that look at text")
    parser.add_argument("--data", type=Path, help="folder that the stage fetch wrote, for steps that train")
    parser.add_argument("--seed", default=params.FIRST_SEED, help="tag of the seed, such as s2 (s1: the study's own)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    inputs = (arguments.dense, arguments.data, arguments.calibration)
    places.check_folder(arguments.out, *(one for one in inputs if one))  # now, not after hours of training
    settings = params.load()
    variant = variants.parse(arguments.variant)
    long = "recovered" in variant.steps or variant.id == "dense-small"
    with energy.stage_meter(f"further-{variant.id}", arguments.energy, long=long, country=settings.energy.country):
        from prunelab.making import chain  # after the settings: a misspelt key must not wait for slow imports

        given = Given(settings, arguments.seed, arguments.dense, arguments.data, arguments.calibration)
        facts = chain.make(given, variant, arguments.out)
    print(f"{variant.id}: {describe(facts)}")


def describe(facts: dict) -> str:
    """What was made, in a line."""
    if recovery := facts.get("recovery"):
        before, after = recovery["validation_loss_before"], recovery["validation_loss_after"]
        return (
            f"validation loss {before:.4f} → {after:.4f} nats a token after {recovery['tokens']:,} tokens from "
            f"{recovery['source']}; {facts['packed_bytes']:,} bytes"
        )
    if "layers" in facts and "format" in facts:
        return f"{facts['layers']} layers in int8, {facts['bytes']:,} bytes"
    if "sparsity_pruned" in facts:
        return (
            f"{facts['sparsity_pruned']:.2%} of the prunable parameters are zero or gone; "
            f"{facts['packed_bytes']:,} bytes, {facts['dense_bytes']:,} dense"
        )
    return f"the dense model with {facts['weights']}" if "weights" in facts else "trained from scratch"


if __name__ == "__main__":
    exit_cleanly(main)
