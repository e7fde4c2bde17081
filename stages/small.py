"""Train the floor: a dense model of a structured variant's size, from scratch, with as many tokens.

    python -m stages.small --like models/mlp-width-50 --data data/fetched --out models/dense-small

A pruned and recovered model that is no better than this one was not worth pruning.
"""

import argparse
from pathlib import Path

from prunelab.disk.files import read_json, whole_directory
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.small", description=__doc__.partition("\n")[0])
    parser.add_argument("--like", type=Path, required=True, help="folder of the variant whose size it gets")
    parser.add_argument("--data", type=Path, required=True, help="folder that the stage fetch wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", help="a replica's tag, such as s2; without it the study's own seed")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    settings = params.load()
    changes = read_json(arguments.like / "sparsity.json")["structure"]["config_changes"]
    with energy.stage_meter("small-dense-small", arguments.energy, long=True, country=settings.energy.country):
        from prunelab.training import training

        with whole_directory(arguments.out, arguments.like, arguments.data) as partial:
            training.run(floor(settings, changes), arguments.data, partial, settings.seed_of(arguments.seed))
    print(f"dense-small: trained from scratch with {', '.join(f'{k} {v}' for k, v in changes.items())}")


def floor(settings: params.Settings, changes: dict) -> params.Settings:
    """The settings of the same training at the variant's size; where variants are recovered, with those tokens more."""
    train, extra = settings.train, 0
    if settings.recover.variants and train.windows_per_epoch:
        extra = -(-settings.recover.tokens // (train.windows_per_epoch * train.context))  # rounded up: in its favour
    small = train.model_copy(update={"config": {**train.config, **changes}, "epochs": train.epochs + extra})
    return settings.model_copy(update={"train": small})


if __name__ == "__main__":
    exit_cleanly(main)
