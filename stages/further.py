"""Make one variant of prune.further, whose id says how: removed structure, recovered, quantised, a control, a chain.

    python -m stages.further depth-25-recovered --dense models/s1/dense --calibration models/s1/calibration \\
        --data data/fetched --seed s1 --out models/s1/depth-25-recovered
"""

import argparse

from prunelab import tasks
from prunelab.disk import turns
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.making import given
from prunelab.recipes import variants
from prunelab.study import naming


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.further", description=__doc__.partition("\n")[0])
    naming.add_variant(parser, "its id, such as depth-25, wanda-50-recovered or dense-int4")
    given.add_options(parser)
    arguments = naming.parse(parser, argv)
    told = given.of_options(arguments, tasks.of)
    variant = variants.parse(arguments.variant)
    long, country = told.takes_long(variant), told.settings.energy.country
    with turns.computing(), energy.stage_meter(f"further-{variant.id}", arguments.energy, long=long, country=country):
        from prunelab.making import chain  # after the settings: a misspelt key must not wait for slow imports

        facts = chain.make(told, variant, arguments.out)
    print(f"{variant.id}: {describe(facts)}")


def describe(facts: dict) -> str:
    """What was made, in a line."""
    if recovery := facts.get("recovery"):
        before, after = recovery["validation_loss_before"], recovery["validation_loss_after"]
        kept = f", kept at step {recovery['kept_step']} of {recovery['steps']}" if "kept_step" in recovery else ""
        return (
            f"validation loss {before:.4f} → {after:.4f} nats a token after {recovery['tokens']:,} tokens from "
            f"{recovery['source']}{kept}; {facts['packed_bytes']:,} bytes"
        )
    if "precision" in facts:
        layers = f"{facts['layers']} layers in " if "layers" in facts else ""
        return f"{layers}{facts['precision']}, {facts['bytes']:,} bytes"
    if "sparsity_pruned" in facts:
        return (
            f"{facts['sparsity_pruned']:.2%} of the prunable parameters are zero or gone; "
            f"{facts['packed_bytes']:,} bytes, {facts['dense_bytes']:,} dense"
        )
    return f"the dense model with {facts['weights']}" if "weights" in facts else "trained from scratch"


if __name__ == "__main__":
    exit_cleanly(main)
