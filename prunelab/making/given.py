"""What every step of a recipe is made from, and the options by which a stage is told it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.disk import places
from prunelab.recipes.methods import METHODS
from prunelab.recipes.variants import Variant
from prunelab.study import naming, params


class Given(NamedTuple):
    """The settings of a study, one of its seeds, and what the stages before left for it."""

    settings: Any  # study.params.Settings
    tag: str  # of the seed, such as s1
    dense: Path  # folder of the dense model of that seed
    data: Path | None = None  # folder of the stage fetch, for steps that train
    calibration: Path | None = None  # folder of the stage calibrate, for steps that look at text
    task: Any = None  # the study's, a module of prunelab/tasks, for steps that train

    @property
    def seed(self) -> int:
        return self.settings.seed_of(self.tag)

    def goes_by_blocks(self, variant: Variant) -> bool:
        """Whether a block is pruned before the next one is calibrated, as published: then the model must run."""
        wanted = self.settings.calibrate
        runs = variant.prunes == "mask" and METHODS[variant.method].runs_model
        return runs and wanted is not None and wanted.propagate == "pruned"

    def takes_long(self, variant: Variant) -> bool:
        """Whether something is trained, or the model runs block by block: then a meter reads all the while."""
        trains = variant.prunes == "mask" and METHODS[variant.method].trains
        runs = self.goes_by_blocks(variant) or variant.rounds_by_text
        return trains or runs or variant.is_trained or variant.id == "dense-small"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a stage that makes a variant: what from, where to, and where its energy is booked."""
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, help="folder that the stage fetch wrote, for steps that train")
    parser.add_argument("--calibration", type=Path, help="folder of the stage calibrate, for steps that look at text")
    naming.add_seed(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")


def of_options(arguments: argparse.Namespace, task_of: Callable) -> Given:
    """What a stage was told, with the settings of params.yaml, and their task as `task_of(name)` gives it.

    Raises InputError where the variant cannot be written.

    Now, and not after hours of training.
    """
    inputs = (arguments.dense, arguments.data, arguments.calibration)
    places.check_folder(arguments.out, *(one for one in inputs if one))
    settings = params.load()
    return Given(settings, arguments.seed, *inputs, task_of(settings.task))
