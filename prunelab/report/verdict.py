"""What a study's numbers allow one to say: against dense, against plain magnitude, and with which interval.

Everything compared is paired: two variants over the same windows of text, or, where a study has several, over the same
seeds. Intervals are 95 % t intervals of the mean paired difference; over hundreds of windows they equal the bootstrap
ones beside them, and unlike those cost nothing for 500 variants. "No difference" means that the interval holds zero.
"""

import math
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from prunelab import stats
from prunelab.errors import InputError

BASELINE = "magnitude"  # the null hypothesis of every method that wants to know more than the weights themselves


class Group(NamedTuple):
    """One method at one rate over all its seeds; a row that nothing was pruned of is a method of its own, without a
    rate. `loss` (nats) and `increase` (percent of dense) are (mean, lo, hi);
    the interval of `loss` is that of the difference to dense, put around the mean. None: unknown."""

    method: str
    rate: str | None
    rows: list[dict]
    sparsity: float
    loss: stats.Interval | None
    increase: stats.Interval | None

    @property
    def first(self) -> dict:
        return self.rows[0]


class Effect(NamedTuple):
    """A paired difference of losses, nats; `unit` is what it was averaged over: windows or seeds."""

    mean: float
    lo: float
    hi: float
    units: int
    unit: str

    @property
    def sign(self) -> int:
        """-1: lower loss, +1: higher, 0: no difference (or a single unit, which has no interval)."""
        return -1 if self.hi < 0 else 1 if self.lo > 0 else 0


def groups(study) -> list[Group]:
    """The pruned variants by method and rate, in the order of params.yaml."""
    return _groups([row for row in study.rows if row["rate"] is not None], study.rows)


def unpruned(study) -> list[Group]:
    """The rows that nothing was pruned of, but for dense: its controls, a smaller one, a quantised one."""
    return _groups([row for row in study.rows if row["rate"] is None and row["path"] != row["dense"]], study.rows)


def _groups(rows: list[dict], among: list[dict]) -> list[Group]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["method"], row["rate"]), []).append(row)
    dense = {row["path"]: row["loss"] for row in among if row["path"] == row["dense"]}
    return [_group(method, rate, rows, dense) for (method, rate), rows in found.items()]


def _group(method: str, rate: str | None, rows: list[dict], dense: dict) -> Group:
    sparsity = sum(row["sparsity_pruned"] or 0.0 for row in rows) / len(rows)
    if any(row["loss"] is None or row["loss_diff"] is None for row in rows):
        return Group(method, rate, rows, sparsity, None, None)
    base = sum(dense[row["dense"]] for row in rows) / len(rows)
    if len(rows) > 1:
        mean, lo, hi = stats.seed_interval([row["loss_diff"] for row in rows])
    else:
        mean, lo, hi = (_number(rows[0][f"loss_diff{end}"]) for end in ("", "_lo", "_hi"))
    scale = 100 / base
    return Group(
        method, rate, rows, sparsity, (base + mean, base + lo, base + hi), (scale * mean, scale * lo, scale * hi)
    )


def _number(value) -> float:
    return math.nan if value is None else value


def window_losses(study, row: dict):
    """Loss of every window of text, (windows,) nats a token, of a variant. Raises InputError without it."""
    path, stage = study.results / row["path"] / "windows.safetensors", study.stage("quality", row["path"])
    try:
        with safe_open(path, "np") as file:
            return file.get_tensor("loss")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage {stage} writes it: dvc repro") from None
    except SafetensorError as error:
        raise InputError(f"{path}: broken ({error}); write it again: dvc repro -f -s {stage}") from None


def effect(study, one: Group, other: Group) -> Effect | None:
    """Loss of `one` minus loss of `other`, paired; None where they have no seed in common or unequal sparsity."""
    if abs(one.sparsity - other.sparsity) > 0.005 or one.loss is None or other.loss is None:
        return None
    rows = {row["seed"]: row for row in other.rows}
    pairs = [(row, rows[row["seed"]]) for row in one.rows if row["seed"] in rows]
    if not pairs:
        return None
    if len(pairs) > 1:
        return Effect(*stats.seed_interval([a["loss"] - b["loss"] for a, b in pairs]), len(pairs), "seeds")
    a, b = (window_losses(study, row) for row in pairs[0])
    return Effect(*stats.seed_interval(a - b), len(a), "windows")


def effects(study, found: list[Group], method: str, baseline: str) -> dict[str, Effect]:
    """`effect` of `method` against `baseline` at every rate that both have, by rate."""
    by_rate = {group.rate: group for group in found if group.method == baseline}
    paired = {
        group.rate: effect(study, group, by_rate[group.rate])
        for group in found
        if group.method == method and group.rate in by_rate
    }
    return {rate: result for rate, result in paired.items() if result is not None}


def frontier(rows: list[dict], cost: str, worth: str = "loss") -> list[dict]:
    """The rows that no other beats in both columns (less is better), by rising `cost`."""
    best, kept = math.inf, []
    for row in sorted(
        (row for row in rows if row[cost] is not None and row[worth] is not None),
        key=lambda row: (row[cost], row[worth]),
    ):
        if row[worth] < best:
            best = row[worth]
            kept.append(row)
    return kept


def alternatives(rows: list[dict]) -> list[dict]:
    """Unpruned rows with a size of their own: a smaller dense model, a quantised one."""
    return [
        row for row in rows if row["rate"] is None and row["path"] != row["dense"] and row["packed_bytes"] is not None
    ]


def masked_only(row: dict, dense: dict) -> bool:
    """Whether a variant has zeros but the dense model's shape: no dense kernel skips a zero."""
    return row["rate"] is not None and row["parameters"] is not None and row["parameters"] == dense["parameters"]
