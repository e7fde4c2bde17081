"""Score one variant on what the dense model was scored on, and compare the two.

    python -m stages.quality wanda-50 --model models/s1/wanda-50 --reference results/s1/dense --out results/s1/wanda-50

Writes quality.json and windows.safetensors (the loss of every window, or of what else the task judges by).
"""

import argparse
from pathlib import Path

from prunelab import errors, tasks
from prunelab.disk import places, turns
from prunelab.energy import energy
from prunelab.study import naming, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    naming.add_variant(parser, "its id, such as wanda-50")
    naming.add_seed(parser, "tag of the seed, such as s2, for @seed in the paths")
    parser.add_argument("--model", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--reference", type=Path, required=True, help="results of its dense model")
    parser.add_argument("--probes", type=Path, default=Path("data/probes"), help="folder of the stage probes")
    parser.add_argument("--out", type=Path, required=True, help="folder for its results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = naming.parse(parser, argv)
    places.check_shared(arguments.out, arguments.model, arguments.reference)
    with turns.computing(), energy.stage_meter(f"quality-{arguments.variant}", arguments.energy):
        settings = params.load()
        task = tasks.of(settings.task)
        task.judge(settings, arguments.variant, arguments.model, arguments.reference, arguments.probes, arguments.out)


if __name__ == "__main__":
    errors.exit_cleanly(main)
