"""The figures by which a model is chosen, each with what bounds it, and the rows of results that hold them.

`worse_percent` is the task's headline figure (loss, an error, an accuracy), in percent of dense's and above zero where
it is worse. A candidate is a variant over all its seeds. With one seed a figure has the interval that was measured
(paired windows of text, blocks of timing); with several that over seeds (Student's t), whatever each seed's own was.
"""

import math
from typing import NamedTuple

from prunelab.tasks import Headline

MB = 1e6
SAME_SIZE = 1.005  # masks of one sparsity pack to the same size but for rounding
WORSE = "worse_percent"


class Rule(NamedTuple):
    """Where a figure stands in a row of results, and how two of them are compared (less is better in all)."""

    words: str  # behind the number
    form: str
    column: str
    scale: float = 1.0
    ratio: str | None = None  # the column of its ratio to dense, which was measured side by side
    effect: str | None = None  # the column of what the session cannot tell from nothing, a fraction
    tolerance: float = 0.0  # no worse in what matters: a fraction, of the headline and of accuracy points
    relative: bool = True  # compared as a ratio; the headline and accuracy, differences to dense already, are not
    timed: bool = False  # hangs on the clock, so a session that is marked unreliable decides no budget on it
    less: str = "lower"
    more: str = "higher"
    headline: Headline | None = None  # of the rule that is the headline's

    @property
    def sign(self) -> int:
        """-1: the column's numbers fall where the figure, of which less is better, rises."""
        return self.headline.sign if self.headline else 1

    def turned(self, lo: float, hi: float) -> tuple[float, float]:
        """The ends of an interval of the column as those of the figure, and back."""
        return (lo, hi) if self.sign > 0 else (-hi, -lo)


# fmt: off
RULES: dict[str, Rule | None] = {
    "stored_mb": Rule("MB stored", ".2f", "packed_bytes", 1 / MB, tolerance=SAME_SIZE - 1,
                      less="smaller", more="larger"),
    "memory_mb": Rule("MB of peak memory", ".0f", "peak_memory_bytes", 1 / MB, tolerance=0.01,
                      less="less memory", more="more memory"),
    "prefill_ms": Rule("ms of prefill", ".3g", "prefill_ms", 1.0, "prefill_ratio", "prefill_smallest_effect", 0.03,
                       timed=True, less="faster prefill", more="slower prefill"),
    "decode_ms_per_token": Rule("ms a token", ".3g", "decode_ms_per_token", 1.0, "decode_ratio",
                                "decode_smallest_effect", 0.03, timed=True, less="faster", more="slower"),
    "joules_per_token": Rule("J a token", ".3g", "decode_j_per_token", 1.0, "decode_j_ratio",
                             "decode_j_smallest_effect", 0.03, timed=True, less="less energy", more="more energy"),
    WORSE: None,  # as the task's headline is
    "accuracy_drop_points": Rule("points of accuracy below dense", "+.2f", "accuracy_drop_points", tolerance=0.1,
                                 relative=False, less="higher accuracy", more="lower accuracy"),
    "right_probability_drop_points": Rule("points of the right answers' probability below dense", "+.2f",
                                          "right_probability_drop_points", tolerance=0.1, relative=False,
                                          less="surer of right answers", more="less sure of right answers"),
}
# fmt: on
NOISY = tuple(name for name in RULES if name != "stored_mb")  # bytes are counted


def rules(headline: Headline) -> dict[str, Rule]:
    """The rule of every figure, in the order in which they are written."""
    name = headline.name
    worse = Rule(
        f"% of {name} {headline.beyond} dense", "+.2f", headline.increase_percent, tolerance=0.1, relative=False,
        less=f"{headline.better} {name}", more=f"{headline.worse} {name}", headline=headline,
    )  # fmt: skip
    return {name: worse if rule is None else rule for name, rule in RULES.items()}


class Figure(NamedTuple):
    """A value with its 95 % interval, None where unknown; `doubt`: why it decides no budget, empty where it does."""

    value: float | None
    lo: float | None = None
    hi: float | None = None
    doubt: str = ""
    rule: Rule | None = None


class Candidate(NamedTuple):
    id: str
    rows: list[dict]  # one a seed, in the order of the seeds; the first one's model would be delivered
    figures: dict[str, Figure]

    @property
    def first(self) -> dict:
        return self.rows[0]

    @property
    def is_dense(self) -> bool:
        """Whether it is the model as it was given."""
        return self.first["path"] == self.first["dense"]


def candidates(rows: list[dict], headline: Headline) -> list[Candidate]:
    """Every variant of the rows of a study, pruned or not, dense included, in their order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    by = rules(headline)
    return [
        Candidate(one, mine, {name: figure(mine, name, rule) for name, rule in by.items()})
        for one, mine in found.items()
    ]


def figure(rows: list[dict], name: str, rule: Rule) -> Figure:
    """The figure `name` of a variant from its rows, one a seed."""
    values = [value_of(row, rule) for row in rows]
    if any(value is None for value in values):
        return Figure(None, doubt="not measured", rule=rule)
    doubt = doubt_of(rows, name, rule)
    if name == "stored_mb":  # the first seed's file is the one that is delivered
        return Figure(values[0], min(values), max(values), doubt, rule)
    if len(rows) > 1:
        from prunelab import stats  # only now: who prints a table needn't wait for numpy

        return Figure(*stats.seed_interval(values), doubt, rule)
    lo, hi = ends_of(rows[0], rule)
    return Figure(values[0], lo, hi, doubt or ("" if known(lo, hi) else "without an interval"), rule)


def value_of(row: dict, rule: Rule) -> float | None:
    """A row's figure in the unit of its name."""
    if not rule.relative and row["path"] == row["dense"]:
        return 0.0
    value = row.get(rule.column)
    if rule is RULES["stored_mb"] and value is None:  # a control has the shapes of dense, and other values in them
        value = row.get("dense_bytes")
    return None if value is None or math.isnan(value) else rule.sign * value * rule.scale


def ends_of(row: dict, rule: Rule) -> tuple[float | None, float | None]:
    """The ends of a row's interval, in the same unit."""
    if not rule.relative and row["path"] == row["dense"]:
        return 0.0, 0.0
    lo, hi = (row.get(f"{rule.column}_{end}") for end in ("lo", "hi"))
    return rule.turned(lo * rule.scale, hi * rule.scale) if known(lo, hi) else (None, None)


def doubt_of(rows: list[dict], name: str, rule: Rule) -> str:
    """Why a figure decides no budget: its session is marked unreliable, or its energy was not measured."""
    if name == "joules_per_token" and any(row.get("energy_estimated") for row in rows):
        return "estimated: time × modelled power"
    if rule.timed and any(row.get("unreliable") for row in rows):
        return "marked unreliable"
    return ""


def by_text(quality: dict) -> dict:
    """The columns of further texts and of other windows in quality.json: `loss_code` and its difference to dense with
    its interval, `perplexity_code`; `perplexity_c128` and so on for windows of 128 tokens."""
    rows = {one["text"]: one for one in quality.get("texts") or []}
    rows |= {f"c{one['context']}": one for one in quality.get("also_contexts") or []}
    ends = ("", "_diff", "_diff_lo", "_diff_hi")
    found = {f"loss_{name}{end}": one[f"loss{end}"] for name, one in rows.items() for end in ends}
    return found | {f"perplexity_{name}": one["perplexity"] for name, one in rows.items()}


def drops(quality: dict) -> dict[str, float]:
    """`accuracy_drop_points` and `right_probability_drop_points` with their intervals: below dense, of all questions
    that a quality.json pools.

    Empty where nothing was asked, or nothing that dense answers better than by guessing.
    """
    ends = {"": "", "_lo": "_hi", "_hi": "_lo"}  # what falls most has risen least
    found = {
        f"{name}_drop_points{end}": quality.get(f"pooled_{name}_diff{other}")
        for name in ("accuracy", "right_probability")
        for end, other in ends.items()
    }
    return {name: -100 * value for name, value in found.items() if value is not None}


def known(*numbers) -> bool:
    return all(number is not None and math.isfinite(number) for number in numbers)


def timed_at(row: dict) -> str:
    """The variant whose times a row's are: its own, or those of the one that does the same work."""
    return row.get("timed_as") or row["variant"]
