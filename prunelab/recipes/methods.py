"""The pruning methods as a table: what each ranks weights by, what survives, and what it must be given.

A new method is one score function in `scores.py` (or a module of its own, if it also rewrites weights), one row here,
one test, one row in docs/methods.md.
"""

from typing import Literal, NamedTuple

# The further readings of a training that methods look at: windows, which train.tracker.windows gives a share of the
# ticks, and what train.tracker.signed_sqrt asks for.
WINDOWS = ("half", "quarter")
SIGNED_SQRT = "signed-sqrt"


class Method(NamedTuple):
    score: str  # a key of scores.SCORES
    keep: Literal["final", "average"] = "final"  # the weights that survive: of the checkpoint, or of the averaged clone
    group: Literal["tensor", "row"] = "tensor"  # the lowest scores are found within each
    needs: Literal["norms", "hessians", "gradients"] | None = None  # what calibration.py must have seen
    trains: bool = False  # prunes while a model is trained once more: traintime.py
    allocation: Literal["global"] | None = None  # its own, where the entry in params.yaml names none
    reading: str | None = None  # which reading of the training it looks at (train.tracker); None: the tracker's own
    checkpoint: Literal["best"] | None = None  # its own, whatever prune.checkpoint says
    in_sigmas: bool = False  # its scores count standard deviations already, so a PruneRate cuts them as they are

    @property
    def runs_model(self) -> bool:
        """Whether it can look at every block behind pruned ones; gradients are those of the dense model's loss."""
        return self.needs in ("norms", "hessians")

    @property
    def needs_training(self) -> bool:
        """Whether it looks at how the weights evolved, which only a model trained here can tell."""
        return self.looks_at_history or self.keep == "average" or self.trains or self.checkpoint == "best"

    @property
    def looks_at_history(self) -> bool:
        """Whether its scores are made of the weights' history."""
        return self.score in ("history", "history-threshold")


METHODS = {
    "random": Method("random"),
    "magnitude": Method("magnitude"),
    "average-magnitude": Method("magnitude", keep="average"),
    "systematic": Method("history"),
    "systematic-average": Method("history", keep="average"),
    # The history of the last half and quarter of the training alone, and the averaged clone of that window.
    "systematic-half": Method("history", keep="average", reading="half"),
    "systematic-quarter": Method("history", keep="average", reading="quarter"),
    # Final weights against a threshold that the history of their tensor sets.
    "history-threshold": Method("history-threshold", allocation="global", reading=SIGNED_SQRT, in_sigmas=True),
    "best-magnitude": Method("magnitude", checkpoint="best"),  # the control of early stopping
    "wanda": Method("wanda", group="row", needs="norms"),
    "ria": Method("ria", needs="norms"),
    "taylor": Method("taylor", needs="gradients"),
    "gradual-magnitude": Method("magnitude", trains=True),
    "movement": Method("movement", trains=True, allocation="global"),
    "sparsegpt": Method("sparsegpt", needs="hessians"),  # solves and rewrites: sparsegpt.py, not scores.py
}


def allocation_of(method: str, own: str | None, study: str) -> str:
    """The allocation of a method: what its entry in params.yaml names, else its own, else the study's."""
    return own or METHODS[method].allocation or study


def contradiction(method: str, rate, allocation: str) -> str | None:
    """Why this method cannot be had at this rate or with this allocation, or None."""
    allowed = ("uniform", "global") if METHODS[method].trains else ("uniform", "owl")
    if METHODS[method].trains and not str(rate).isdigit():
        return f"{rate}: it follows a schedule of percents; allowed: a whole number of percent from 1 to 99"
    if METHODS[method].in_sigmas and allocation == "sigma":
        return "prune.allocation: sigma cannot: its scores are in standard deviations already; leave -sigma out"
    if (METHODS[method].trains or METHODS[method].needs == "hessians") and allocation not in allowed:
        return f"prune.allocation: {allocation} cannot: it ranks no scores of all; allowed: {', '.join(allowed)}"
    return None


class Structure(NamedTuple):
    kind: Literal["mlp-width", "head-width", "depth"]  # neurons, attention groups or whole blocks go
    importance: str  # a key of importance.UNITS, or `influence` (blocks)
    compensates: bool = False  # the mean of what was removed becomes a bias

    @property
    def needs_training(self) -> bool:
        return self.importance == "history"

    @property
    def needs_data(self) -> bool:
        """Whether it looks at calibration text."""
        return self.importance in ("flap", "wanda", "taylor", "influence")


# What really gets smaller (removal.py), in `prune.further`; a rate is percent of the prunable parameters.
STRUCTURES = {
    "mlp-width": Structure("mlp-width", "flap", compensates=True),
    **{
        f"mlp-width-{name}": Structure("mlp-width", name)
        for name in ("wanda", "taylor", "norms", "variance", "maxabs", "history", "random")
    },
    "head-width": Structure("head-width", "flap", compensates=True),
    **{f"head-width-{name}": Structure("head-width", name) for name in ("wanda", "taylor", "history", "random")},
    "depth": Structure("depth", "influence"),
    "depth-random": Structure("depth", "random"),
}
