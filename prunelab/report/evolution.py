"""How sampled weights moved while the model trained: which grow, stay flat, shrink, or diverge from their start.

The paper shows such curves and names the kinds; it gives no rule. Ours measures in units of the tensor's own spread
(standard deviation of its sampled final values), so that wide and narrow layers count alike:

    stay flat   the whole path spans less than half that spread
    diverge     it ends on the other side of zero
    grow        it ends further from zero than it began
    shrink      it ends nearer to zero than it began: what a final magnitude forgets and a history remembers
"""

from typing import NamedTuple

import numpy as np

KINDS = ("grow", "stay flat", "shrink", "diverge")
FLAT = 0.5  # of the tensor's spread


class Path(NamedTuple):
    tensor: str
    index: int
    steps: np.ndarray  # (ticks,) optimizer steps
    values: np.ndarray  # (ticks,)
    kind: str


def paths(table) -> list[Path]:
    """The paths in a frame with the columns tick, step, tensor, index, value (history/trajectories.parquet)."""
    table = table.sort_values(["tensor", "index", "tick"])
    spread = table[table["tick"] == table["tick"].max()].groupby("tensor")["value"].std(ddof=0)
    found = []
    for (tensor, index), one in table.groupby(["tensor", "index"], sort=False):
        values = one["value"].to_numpy(dtype=float)
        kind = classify(values, float(spread.get(tensor, 0.0)))
        found.append(Path(tensor, int(index), one["step"].to_numpy(), values, kind))
    return found


def classify(values: np.ndarray, spread: float) -> str:
    """The kind of one path, (ticks,), in a tensor whose final values spread by `spread`."""
    if np.ptp(values) < FLAT * spread:
        return "stay flat"
    if values[0] * values[-1] < 0:
        return "diverge"
    return "grow" if abs(values[-1]) > abs(values[0]) else "shrink"


def shares(found: list[Path]) -> dict[str, float]:
    """The share of each kind, 0 to 1."""
    return {kind: sum(path.kind == kind for path in found) / len(found) for kind in KINDS}
