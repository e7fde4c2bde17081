"""What every step of a recipe is made from."""

from pathlib import Path
from typing import Any, NamedTuple


class Given(NamedTuple):
    """The settings of a study, one of its seeds, and what the stages before left for it."""

    settings: Any  # study.params.Settings
    tag: str  # of the seed, such as s1
    dense: Path  # folder of the dense model of that seed
    data: Path | None = None  # folder of the stage fetch, for steps that train
    calibration: Path | None = None  # folder of the stage calibrate, for steps that look at text

    @property
    def seed(self) -> int:
        return self.settings.seed_of(self.tag)
