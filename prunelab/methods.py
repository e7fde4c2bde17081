"""The pruning methods as a table: what each ranks weights by, what survives, and what it must be given.

A new method is one score function in `scores.py` (or a module of its own, if it also rewrites weights), one row here,
one test, one row in docs/methods.md.
"""

from typing import Literal, NamedTuple


class Method(NamedTuple):
    score: str  # a key of scores.SCORES
    keep: Literal["final", "average"] = "final"  # the weights that survive: of the checkpoint, or of the averaged clone
    group: Literal["tensor", "row"] = "tensor"  # the lowest scores are found within each

    @property
    def needs_training(self) -> bool:
        """Whether it looks at how the weights evolved, which only a model trained here can tell."""
        return self.score == "history" or self.keep == "average"


METHODS = {
    "random": Method("random"),
    "magnitude": Method("magnitude"),
    "average-magnitude": Method("magnitude", keep="average"),
    "systematic": Method("history"),
    "systematic-average": Method("history", keep="average"),
}
