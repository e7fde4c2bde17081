"""Every row beside the dense rivals: the model that nobody pruned, stored in fewer bits.

Who prunes wants to know what the same bytes, time and loss cost without pruning. A row is dominated by a rival that is
significantly better in stored bytes, decode time or the headline figure and in none of them worse beyond what counts
(figures.RULES).
"""

import math
import re

from prunelab.deploy.comparing import Comparison, Values, tolerance
from prunelab.deploy.figures import SAME_SIZE, WORSE, Candidate, known
from prunelab.recipes import variants

COMPARED = ("stored_mb", "decode_ms_per_token", WORSE)
COLUMNS = (  # and behind them the difference in the headline with its ends, such as rival_loss_diff
    "dominated_by", "best_rival", "rival_bytes_ratio", "rival_decode_ratio", "rival_decode_ratio_lo",
    "rival_decode_ratio_hi",
)  # fmt: skip
STORED = re.compile(r"-(bf16|fp16|int8|int4)(-gptq)?$")  # how a recipe ends that is stored in fewer bits
NOBODY = "none"  # no rival dominates the row; a row that cannot be compared has nothing there


def is_rival(identifier: str) -> bool:
    """`dense-int8`, `dense-int4-gptq`: dense in all but how its weights are stored."""
    ending = STORED.search(identifier)
    return ending is not None and identifier[: ending.start()] == variants.DENSE


def comparison(values: Values | None = None) -> Comparison:
    """How rows and rivals are compared: in bytes, decode time and the headline figure."""
    return Comparison(COMPARED, values)


def columns(found: list[Candidate], compared: Comparison) -> dict[str, dict]:
    """COLUMNS of every candidate by its id, the same for all its seeds; unknown is None."""
    rivals = [one for one in found if is_rival(one.id)]
    return {one.id: _columns(one, [rival for rival in rivals if rival is not one], compared) for one in found}


def _columns(one: Candidate, rivals: list[Candidate], compared: Comparison) -> dict:
    rule = one.figures[WORSE].rule
    apart = [f"rival_{rule.headline.diff}{end}" for end in ("", "_lo", "_hi")]
    told = dict.fromkeys((*COLUMNS, *apart))
    rivals = [rival for rival in rivals if all(compared.difference(one, rival, name) for name in COMPARED)]
    if not rivals:
        return told
    dominating = [rival for rival in rivals if compared.dominates(rival, one)]
    best = best_of(dominating or rivals, one, compared)
    told |= {"dominated_by": best.id if dominating else NOBODY, "best_rival": best.id}
    size, time, worse = (compared.difference(one, best, name) for name in COMPARED)
    told["rival_bytes_ratio"] = math.exp(size.mid)
    # A percent of dense's headline, in its unit.
    percent = one.first[rule.headline.column] / (100 + rule.sign * one.figures[WORSE].value)
    points = rule.sign * worse.mid, *rule.turned(worse.lo, worse.hi)
    for end, log, name, point in zip(("", "_lo", "_hi"), time, apart, points, strict=False):
        told[f"rival_decode_ratio{end}"] = math.exp(log) if known(log) else None
        told[name] = percent * point if known(point) else None
    return told


def best_of(rivals: list[Candidate], one: Candidate, compared: Comparison) -> Candidate:
    """The smallest rival whose headline is no worse than that of `one`; where all are worse, the best."""
    as_good = [rival for rival in rivals if _no_worse(compared, rival, one, WORSE)]
    if as_good:
        return min(as_good, key=lambda rival: rival.figures["stored_mb"].value)
    return min(rivals, key=lambda rival: rival.figures[WORSE].value)


def _no_worse(compared: Comparison, one: Candidate, other: Candidate, name: str) -> bool:
    apart = compared.difference(one, other, name)
    return apart is not None and apart.mid <= max(apart.noise, tolerance(one.figures[name].rule))


def means(identifier: str) -> str:
    """What was done to a row: `depth-25-recovered-int4` → "removal and quantising"."""
    variant = variants.parse(identifier)
    parts = [{"mask": "a mask", "structure": "removal"}.get(variant.prunes)]
    parts += ["quantising" if STORED.search(identifier) else None]
    done = [part for part in parts if part]
    return " and ".join(done) if len(done) > 1 else f"{done[0]} alone" if done else "another dense model"


def comparison_told(found: list[Candidate], compared: Comparison, limit_percent: float | None) -> str:
    """One sentence: at equal loss, bytes and time, is it removal, the mask, quantising, or both, with intervals.

    The anchor is the smallest rival that stays within `limit_percent` of dense's headline, else the best in it.
    """
    measured = [one for one in found if all(known(compared.point(one, name)) for name in COMPARED)]
    rivals = [one for one in measured if is_rival(one.id)]
    if not rivals:
        return (
            "No row is the dense model in fewer bits (`dense-int8`), so this study cannot tell whether pruning beats "
            "quantising."
        )
    within = [one for one in rivals if limit_percent is None or one.figures[WORSE].value <= limit_percent]
    if within:
        anchor = min(within, key=lambda one: one.figures["stored_mb"].value)
    else:
        anchor = min(rivals, key=lambda one: one.figures[WORSE].value)
    others = [one for one in measured if one is not anchor]
    alike = [one for one in others if _no_worse(compared, one, anchor, WORSE)]
    small = [one for one in others if one.figures["stored_mb"].value <= SAME_SIZE * anchor.figures["stored_mb"].value]
    quick = [one for one in others if _no_worse(compared, one, anchor, "decode_ms_per_token")]
    figure, headline = anchor.figures["stored_mb"].value, anchor.figures[WORSE].rule.headline
    no_worse = f"{headline.name} or {'less' if headline.lower_is_better else 'more'}"
    return (
        f"Removal, a mask, quantising or both? Beside `{anchor.id}` ({figure:.2f} MB): at its {no_worse} "
        f"{_least(compared, alike, anchor, 'decode_ms_per_token')} and {_least(compared, alike, anchor, 'stored_mb')}; "
        f"in its bytes or fewer {_least(compared, small, anchor, WORSE)}; in its time or less "
        f"{_least(compared, quick, anchor, WORSE)}."
    )


def _least(compared: Comparison, among: list[Candidate], anchor: Candidate, name: str) -> str:
    """Who has measurably less than the anchor in a figure, and by how much."""
    nothing = {"stored_mb": "smaller", "decode_ms_per_token": "faster"}.get(name, "better")
    less = [one for one in among if compared.difference(one, anchor, name).sign < 0]
    if not less:
        return f"nothing is measurably {nothing}"
    best = min(less, key=lambda one: compared.point(one, name))
    mid, lo, hi = compared.difference(best, anchor, name)[:3]
    if name == WORSE:
        rule = best.figures[name].rule
        mid, (lo, hi) = rule.sign * mid, rule.turned(lo, hi)
        amount = f"{mid:+.2f} [{lo:+.2f}, {hi:+.2f}] % of {rule.headline.name}".replace("-", "−")
    else:
        kind = "bytes" if name == "stored_mb" else "time"
        ends = "" if name == "stored_mb" else f" [{math.exp(lo):.2f}, {math.exp(hi):.2f}]"
        amount = f"{math.exp(mid):.2f}{ends} × its {kind}"
    return f"`{best.id}` is {nothing} ({means(best.id)}: {amount})"
