"""Which histories one training keeps: the tracker's own, and further readings of the same run.

A reading is a history with another window, or another mean. `train.tracker` says which there are, and not the methods
that look at them, so that a method which is added trains nothing again. Where they lie: docs/methods.md.
"""

from prunelab.training.tracker import WeightHistory

SIGNED_SQRT = "signed-sqrt"  # as methods.py calls it, of which training knows nothing


def histories(
    tracker, model, names: list[str], ticks: int, seed: int
) -> tuple[WeightHistory, dict[str, WeightHistory]]:
    """The history of the section `train.tracker`, and its further readings by name.

    Args:
        names: of the tensors that get an importance.
        ticks: of the whole training, from whose end windows count back.
        seed: that chooses the trajectories.
    """

    def history(**changes) -> WeightHistory:
        options = {"value": tracker.value, "weighting": tracker.weighting, "window": tracker.window}
        return WeightHistory(
            model,
            names,
            beta=tracker.beta,
            total_ticks=ticks,
            seed=seed,
            device="cpu" if tracker.memory == "cpu" else None,
            **options | changes,
        )

    readings = {name: history(window=max(1, round(share * ticks))) for name, share in tracker.windows.items()}
    if tracker.signed_sqrt:
        readings[SIGNED_SQRT] = history(value="signed", weighting="sqrt")
    followed = tracker.trajectories
    named = dict.fromkeys(followed.tensors, followed.indices)
    return history(trajectories=followed.random, named=named), readings
