"""What a study's numbers allow one to say: against dense, against plain magnitude, and with which interval.

Everything compared is paired: two variants over the same items (windows of text), or, where a study has several, over
the same seeds. Intervals are 95 % t intervals of the mean paired difference; over hundreds of items they equal the
bootstrap ones beside them, and unlike those cost nothing for 500 variants. "No difference" means that the interval
holds zero.
"""

import math
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from prunelab import stats
from prunelab.errors import InputError
from prunelab.tasks import Headline

BASELINE = "magnitude"  # the null hypothesis of every method that wants to know more than the weights themselves


class Group(NamedTuple):
    """One method at one rate over all its seeds; a row that nothing was pruned of is a method of its own, without a
    rate. `value` (the headline figure) and `increase` (percent of dense's) are (mean, lo, hi);
    the interval of `value` is that of the difference to dense, put around the mean. None: unknown."""

    method: str
    rate: str | None
    rows: list[dict]
    sparsity: float
    value: stats.Interval | None
    increase: stats.Interval | None

    @property
    def first(self) -> dict:
        return self.rows[0]


class Effect(NamedTuple):
    """A paired difference of headline figures, in their unit, averaged over `units` items (of text) or seeds."""

    mean: float
    lo: float
    hi: float
    units: int
    unit: str

    @property
    def sign(self) -> int:
        """-1: lower, +1: higher, 0: no difference (or a single unit, which has no interval)."""
        return -1 if self.hi < 0 else 1 if self.lo > 0 else 0


def groups(study) -> list[Group]:
    """The pruned variants by method and rate, in the order of params.yaml."""
    return _groups([row for row in study.rows if row["rate"] is not None], study)


def unpruned(study) -> list[Group]:
    """The rows that nothing was pruned of, but for dense: its controls, a smaller one, a quantised one."""
    return _groups([row for row in study.rows if row["rate"] is None and row["path"] != row["dense"]], study)


def _groups(rows: list[dict], study) -> list[Group]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["method"], row["rate"]), []).append(row)
    headline = study.headline
    dense = {row["path"]: row[headline.column] for row in study.rows if row["path"] == row["dense"]}
    return [_group(method, rate, rows, dense, headline) for (method, rate), rows in found.items()]


def _group(method: str, rate: str | None, rows: list[dict], dense: dict, headline: Headline) -> Group:
    sparsity = sum(row["sparsity_pruned"] or 0.0 for row in rows) / len(rows)
    if any(row[headline.column] is None or row[headline.diff] is None for row in rows):
        return Group(method, rate, rows, sparsity, None, None)
    base = sum(dense[row["dense"]] for row in rows) / len(rows)
    if len(rows) > 1:
        mean, lo, hi = stats.seed_interval([row[headline.diff] for row in rows])
    else:
        mean, lo, hi = (_number(rows[0][f"{headline.diff}{end}"]) for end in ("", "_lo", "_hi"))
    scale = 100 / base
    return Group(
        method, rate, rows, sparsity, (base + mean, base + lo, base + hi), (scale * mean, scale * lo, scale * hi)
    )


def _number(value) -> float:
    return math.nan if value is None else value


def item_values(study, row: dict):
    """The headline figure of every item, (items,), of a variant: the loss of every window of text, nats a token.

    Raises InputError without it.
    """
    path, stage = study.results_of(row["path"]) / "windows.safetensors", study.stage("quality", row["path"])
    try:
        with safe_open(path, "np") as file:
            return file.get_tensor(study.headline.column)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage {stage} writes it: dvc repro") from None
    except SafetensorError as error:
        raise InputError(f"{path}: broken ({error}); write it again: dvc repro -f -s {stage}") from None


def effect(study, one: Group, other: Group) -> Effect | None:
    """Headline of `one` minus that of `other`, paired; None where no seed is common, or sparsity is unequal."""
    if abs(one.sparsity - other.sparsity) > 0.005 or one.value is None or other.value is None:
        return None
    rows = {row["seed"]: row for row in other.rows}
    pairs = [(row, rows[row["seed"]]) for row in one.rows if row["seed"] in rows]
    if not pairs:
        return None
    if len(pairs) > 1:
        column = study.headline.column
        return Effect(*stats.seed_interval([a[column] - b[column] for a, b in pairs]), len(pairs), "seeds")
    a, b = (item_values(study, row) for row in pairs[0])
    return Effect(*stats.seed_interval(a - b), len(a), "items")


def effects(study, found: list[Group], method: str, baseline: str) -> dict[str, Effect]:
    """`effect` of `method` against `baseline` at every rate that both have, by rate."""
    by_rate = {group.rate: group for group in found if group.method == baseline}
    paired = {
        group.rate: effect(study, group, by_rate[group.rate])
        for group in found
        if group.method == method and group.rate in by_rate
    }
    return {rate: result for rate, result in paired.items() if result is not None}


def frontier(rows: list[dict], cost: str, headline: Headline) -> list[dict]:
    """The rows that no other beats in both the column `cost`, of which less is better, and the headline, by cost."""
    best, kept, worth = math.inf, [], headline.column
    for row in sorted(
        (row for row in rows if row[cost] is not None and row[worth] is not None),
        key=lambda row: (row[cost], headline.sign * row[worth]),
    ):
        if headline.sign * row[worth] < best:
            best = headline.sign * row[worth]
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
