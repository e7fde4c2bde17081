"""Draw the calibration samples, and see what they do inside the dense model as far as the study's methods ask for it.

    python -m stages.calibrate --dense models/s1/dense --data data/fetched --out models/s1/calibration

One run serves every method and rate (`calibrate.propagate: dense`) or leaves the samples alone, on which each variant
is then pruned block by block (`pruned`).
"""

import argparse
from pathlib import Path

from prunelab import tasks
from prunelab.disk import turns
from prunelab.disk.files import whole_directory, write_json
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.study import naming, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.calibrate", description=__doc__.partition("\n")[0])
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, required=True, help="folder that the stage fetch wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of samples and statistics")
    naming.add_seed(parser, "tag of the seed, such as s2 (s1: calibrate.seed)")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = naming.parse(parser, argv)

    settings = params.load()
    long, country = settings.calibrate is not None, settings.energy.country
    with turns.computing(), energy.stage_meter("calibrate", arguments.energy, long=long, country=country):
        with whole_directory(arguments.out, arguments.dense, arguments.data) as partial:
            if settings.calibrate is None:
                write_json(partial / "calibration.json", {"hash": None})
                print("calibrate: null, so nothing is shown to the model")
                return
            # After the settings: a misspelt key must not wait for five seconds of imports.
            from prunelab.pruning import streaming

            task, seed = tasks.of(settings.task), settings.calibration_seed_of(arguments.seed)
            samples, about = task.samples(settings, arguments.dense, arguments.data, seed)
            facts = streaming.calibrate(settings, arguments.dense, samples, about, partial, seed)
    print(
        f"{facts['samples']} x {facts['length_tokens']} tokens of the {facts['source']} text, seed {facts['seed']}, "
        f"hash {facts['hash'][:12]}; statistics of the dense model: {', '.join(facts['statistics']) or 'none'}"
    )


if __name__ == "__main__":
    exit_cleanly(main)
