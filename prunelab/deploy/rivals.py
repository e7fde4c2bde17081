"""Every row beside the dense rivals: the model that nobody pruned, stored in fewer bits.

Who prunes wants to know what the same bytes, time and loss cost without pruning. A row is dominated by a rival that is
significantly better in stored bytes, decode time or loss and in none of them worse beyond what counts (figures.RULES).
"""

import math
import re

from prunelab.deploy.comparing import Comparison, Losses, tolerance
from prunelab.deploy.figures import SAME_SIZE, Candidate, known
from prunelab.recipes import variants

COMPARED = ("stored_mb", "decode_ms_per_token", "loss_increase_percent")
COLUMNS = (
    "dominated_by", "best_rival", "rival_bytes_ratio", "rival_decode_ratio", "rival_decode_ratio_lo",
    "rival_decode_ratio_hi", "rival_loss_diff", "rival_loss_diff_lo", "rival_loss_diff_hi",
)  # fmt: skip
STORED = re.compile(r"-(bf16|fp16|int8|int4)(-gptq)?$")  # how a recipe ends that is stored in fewer bits
NOBODY = "none"  # no rival dominates the row; a row that cannot be compared has nothing there


def is_rival(identifier: str) -> bool:
    """`dense-int8`, `dense-int4-gptq`: dense in all but how its weights are stored."""
    ending = STORED.search(identifier)
    return ending is not None and identifier[: ending.start()] == variants.DENSE


def comparison(losses: Losses | None = None) -> Comparison:
    """How rows and rivals are compared: in bytes, decode time and loss."""
    return Comparison(COMPARED, losses)


def columns(found: list[Candidate], compared: Comparison) -> dict[str, dict]:
    """COLUMNS of every candidate by its id, the same for all its seeds; unknown is None."""
    rivals = [one for one in found if is_rival(one.id)]
    return {one.id: _columns(one, [rival for rival in rivals if rival is not one], compared) for one in found}


def _columns(one: Candidate, rivals: list[Candidate], compared: Comparison) -> dict:
    told = dict.fromkeys(COLUMNS)
    rivals = [rival for rival in rivals if all(compared.difference(one, rival, name) for name in COMPARED)]
    if not rivals:
        return told
    dominating = [rival for rival in rivals if compared.dominates(rival, one)]
    best = best_of(dominating or rivals, one, compared)
    told |= {"dominated_by": best.id if dominating else NOBODY, "best_rival": best.id}
    size, time, loss = (compared.difference(one, best, name) for name in COMPARED)
    told["rival_bytes_ratio"] = math.exp(size.mid)
    nats = one.first["loss"] / (100 + one.figures["loss_increase_percent"].value)  # a percent of dense's loss
    for end, log, points in zip(("", "_lo", "_hi"), time, loss, strict=False):
        told[f"rival_decode_ratio{end}"] = math.exp(log) if known(log) else None
        told[f"rival_loss_diff{end}"] = nats * points if known(points) else None
    return told


def best_of(rivals: list[Candidate], one: Candidate, compared: Comparison) -> Candidate:
    """The smallest rival whose loss is no higher than that of `one`; where all have more, the one with the lowest."""
    as_good = [rival for rival in rivals if _no_worse(compared, rival, one, "loss_increase_percent")]
    if as_good:
        return min(as_good, key=lambda rival: rival.figures["stored_mb"].value)
    return min(rivals, key=lambda rival: rival.figures["loss_increase_percent"].value)


def _no_worse(compared: Comparison, one: Candidate, other: Candidate, name: str) -> bool:
    apart = compared.difference(one, other, name)
    return apart is not None and apart.mid <= max(apart.noise, tolerance(name))


def means(identifier: str) -> str:
    """What was done to a row: `depth-25-recovered-int4` → "removal and quantising"."""
    variant = variants.parse(identifier)
    parts = [{"mask": "a mask", "structure": "removal"}.get(variant.prunes)]
    parts += ["quantising" if STORED.search(identifier) else None]
    done = [part for part in parts if part]
    return " and ".join(done) if len(done) > 1 else f"{done[0]} alone" if done else "another dense model"


def comparison_told(found: list[Candidate], compared: Comparison, limit_percent: float | None) -> str:
    """One sentence: at equal loss, bytes and time, is it removal, the mask, quantising, or both, with intervals.

    The anchor is the smallest rival that stays within `limit_percent` of dense's loss, else the one of lowest loss.
    """
    measured = [one for one in found if all(known(compared.point(one, name)) for name in COMPARED)]
    rivals = [one for one in measured if is_rival(one.id)]
    if not rivals:
        return (
            "No row is the dense model in fewer bits (`dense-int8`), so this study cannot tell whether pruning beats "
            "quantising."
        )
    within = [
        one for one in rivals if limit_percent is None or one.figures["loss_increase_percent"].value <= limit_percent
    ]
    if within:
        anchor = min(within, key=lambda one: one.figures["stored_mb"].value)
    else:
        anchor = min(rivals, key=lambda one: one.figures["loss_increase_percent"].value)
    others = [one for one in measured if one is not anchor]
    alike = [one for one in others if _no_worse(compared, one, anchor, "loss_increase_percent")]
    small = [one for one in others if one.figures["stored_mb"].value <= SAME_SIZE * anchor.figures["stored_mb"].value]
    quick = [one for one in others if _no_worse(compared, one, anchor, "decode_ms_per_token")]
    figure = anchor.figures["stored_mb"].value
    return (
        f"Removal, a mask, quantising or both? Beside `{anchor.id}` ({figure:.2f} MB): at its loss or less "
        f"{_least(compared, alike, anchor, 'decode_ms_per_token')} and {_least(compared, alike, anchor, 'stored_mb')}; "
        f"in its bytes or fewer {_least(compared, small, anchor, 'loss_increase_percent')}; in its time or less "
        f"{_least(compared, quick, anchor, 'loss_increase_percent')}."
    )


def _least(compared: Comparison, among: list[Candidate], anchor: Candidate, name: str) -> str:
    """Who has measurably less than the anchor in a figure, and by how much."""
    nothing = {"stored_mb": "smaller", "decode_ms_per_token": "faster"}.get(name, "better")
    less = [one for one in among if compared.difference(one, anchor, name).sign < 0]
    if not less:
        return f"nothing is measurably {nothing}"
    best = min(less, key=lambda one: compared.point(one, name))
    mid, lo, hi = compared.difference(best, anchor, name)[:3]
    if name == "loss_increase_percent":
        amount = f"{mid:+.2f} [{lo:+.2f}, {hi:+.2f}] % of loss".replace("-", "−")
    else:
        kind = "bytes" if name == "stored_mb" else "time"
        ends = "" if name == "stored_mb" else f" [{math.exp(lo):.2f}, {math.exp(hi):.2f}]"
        amount = f"{math.exp(mid):.2f}{ends} × its {kind}"
    return f"`{best.id}` is {nothing} ({means(best.id)}: {amount})"
