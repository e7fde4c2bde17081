"""The section `train.tracker`: which histories of the weights one training keeps, which single weights it follows."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from prunelab.errors import nearest
from prunelab.recipes.methods import WINDOWS
from prunelab.study.fields import Count, Number, Section, Whole, distinct


class Trajectories(Section):
    random: Whole
    tensors: Annotated[list[str], AfterValidator(distinct)]
    indices: Annotated[list[Whole], AfterValidator(distinct)]

    @model_validator(mode="after")
    def _names_weights_whole(self):
        if bool(self.tensors) != bool(self.indices):
            raise ValueError(
                f"tensors: {self.tensors} and indices: {self.indices} name weights together; fill in both or leave "
                "both empty"
            )
        return self


def _trajectories(given):
    """A bare number is that many random weights of each tensor, none by name."""
    return given if isinstance(given, dict) else {"random": given, "tensors": [], "indices": []}


def _known_window(name: str) -> str:
    if name not in WINDOWS:
        raise ValueError(f"no method reads a window {name!r}{nearest(name, WINDOWS)}; allowed: {', '.join(WINDOWS)}")
    return name


class Tracker(Section):
    value: Literal["absolute", "signed"]
    weighting: Literal["linear", "sqrt", "uniform", "exponential"]
    beta: Annotated[Number, Field(gt=0, le=1)]
    window: Count | None
    windows: dict[Annotated[str, AfterValidator(_known_window)], Annotated[Number, Field(gt=0, lt=1)]]
    signed_sqrt: bool
    tick: Literal["epoch", "steps"]
    every: Count
    trajectories: Annotated[Trajectories, BeforeValidator(_trajectories)]
    memory: Literal["model", "cpu"]
