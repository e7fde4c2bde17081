"""Score the dense model, and leave what the variants and controls are compared with.

    python -m stages.reference --dense models/s1/dense --data data/fetched --out results/s1/dense

Writes quality.json and reference.safetensors.
"""

import argparse
from pathlib import Path

from prunelab import errors, tasks
from prunelab.disk import places, turns
from prunelab.energy import energy
from prunelab.study import naming, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, required=True, help="folder that the fetch stage wrote")
    parser.add_argument("--probes", type=Path, default=Path("data/probes"), help="folder of the stage probes")
    parser.add_argument("--out", type=Path, required=True, help="folder of its results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    naming.add_seed(parser, "tag of the seed, such as s2, for @seed in the paths")
    arguments = naming.parse(parser, argv)
    places.check_shared(arguments.out, arguments.dense, arguments.data)
    with turns.computing(), energy.stage_meter("reference", arguments.energy):
        settings = params.load()
        task = tasks.of(settings.task)
        task.reference(settings, arguments.dense, arguments.data, arguments.probes, arguments.out)


if __name__ == "__main__":
    errors.exit_cleanly(main)
