"""How sampled weights moved while the model trained: which grow, stay flat, shrink, or diverge from their start.

The paper shows such curves and names the kinds; it gives no rule. Ours measures in units of the tensor's own spread
(standard deviation of its sampled final values), so that wide and narrow layers count alike:

    stay flat   the whole path spans less than half that spread
    diverge     it ends on the other side of zero
    grow        it ends further from zero than it began
    shrink      it ends nearer to zero than it began: what a final magnitude forgets and a history remembers

Weights that chance chose tell the share of each kind; those that somebody named tell of themselves alone.
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
    named: bool = False
    spread: float = 0.0  # of its tensor, in which its moves are measured

    @property
    def name(self) -> str:
        return f"{self.tensor}[{self.index}]"

    @property
    def moved(self) -> float:
        """How far its last value is from its first, in spreads of its tensor."""
        return abs(self.values[-1] - self.values[0]) / self.spread if self.spread else 0.0


def paths(table) -> list[Path]:
    """The paths in a frame with the columns tick, step, tensor, index, value (history/trajectories.parquet), and named
    where it is not from an earlier version."""
    table = table.sort_values(["tensor", "index", "tick"])
    last = table[table["tick"] == table["tick"].max()]
    drawn = last[~last["named"]] if "named" in last else last  # a weight that was picked is no sample of its tensor
    spread = _spread(drawn).combine_first(_spread(last))
    found = []
    for (tensor, index), one in table.groupby(["tensor", "index"], sort=False):
        values = one["value"].to_numpy(dtype=float)
        own = float(spread.get(tensor, 0.0))
        named = "named" in one and bool(one["named"].iloc[0])
        found.append(Path(tensor, int(index), one["step"].to_numpy(), values, classify(values, own), named, own))
    return found


def _spread(last):
    """The standard deviation of each tensor's final values."""
    return last.groupby("tensor")["value"].std(ddof=0)


def classify(values: np.ndarray, spread: float) -> str:
    """The kind of one path, (ticks,), in a tensor whose final values spread by `spread`."""
    if np.ptp(values) < FLAT * spread:
        return "stay flat"
    if values[0] * values[-1] < 0:
        return "diverge"
    return "grow" if abs(values[-1]) > abs(values[0]) else "shrink"


def shares(found: list[Path]) -> dict[str, float]:
    """The share of each kind among the weights that chance chose, 0 to 1 (0 where there is none)."""
    drawn = [path for path in found if not path.named]
    return {kind: sum(path.kind == kind for path in drawn) / max(1, len(drawn)) for kind in KINDS}


def typical(found: list[Path], each: int = 3) -> list[Path]:
    """Of every kind the `each` clearest among the weights that chance chose: those of the longest way from first to
    last value, in spreads of their tensor; of the flat ones those of the shortest."""
    drawn = [path for path in found if not path.named]
    return [
        path
        for kind in KINDS
        for path in sorted(
            (path for path in drawn if path.kind == kind), key=lambda path: path.moved, reverse=kind != "stay flat"
        )[:each]
    ]
