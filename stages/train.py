"""Train (or take) the dense model, following every weight: `python -m stages.train --data data/fetched --out …`."""

import argparse
from pathlib import Path

from prunelab import tasks
from prunelab.checks import checks
from prunelab.disk import places, turns
from prunelab.disk.files import whole_directory
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.study import naming, params
from prunelab.training import points


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that the stage fetch wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dense model")
    naming.add_seed(parser)
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    parser.add_argument("--points", type=Path, help="JSON Lines file of its losses, learning rate and speed")
    arguments = naming.parse(parser, argv)

    settings = params.load()
    places.check_folder(arguments.out, arguments.data)
    live = None
    if arguments.points:
        places.check_file(arguments.points)
        live = points.LIVE / f"{arguments.seed}.jsonl"
    if arguments.energy:
        places.check_json(arguments.energy, "meter")
    checks.check_training(settings)  # again: train may have changed since the data was fetched
    long = settings.train.epochs > 0
    country = settings.energy.country
    with turns.computing(), energy.stage_meter("train", arguments.energy, long=long, country=country):
        # After the settings: a misspelt key must not wait for five seconds of imports.
        from prunelab.training import training

        with whole_directory(arguments.out, arguments.data) as partial:
            task = tasks.of(settings.task)
            training.run(settings, task, arguments.data, partial, settings.seed_of(arguments.seed), points=live)
        if live:
            points.hand_over(live, arguments.points)


if __name__ == "__main__":
    exit_cleanly(main)
