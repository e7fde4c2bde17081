"""The names of variants: recipes, the same in DVC, files, MLflow, Prefect and the report.

    <method>[-<allocation>]-<rate>      weights pruned, or structure removed: magnitude-global-50, depth-25
    … -recovered                        fine-tuned afterwards
    … -retrained                        trained further with the mask held, the best checkpoint of validation kept
    … -bf16 | -int8 | -int4             stored in that precision, always last; int8 and int4 weigh 8 and 4 bits
    … -int8-gptq | -int4-gptq           the same, rounded with calibration text instead of to the nearest
    dense-average | dense-best          the dense model with other weights: the averaged clone, the early-stopped
    dense-retrained                     the same training as … -retrained, of nothing pruned
    dense-small                         a dense model of the first removed structure's size, trained from scratch
    dense-bf16 | dense-int8 | …         the dense model in that precision: the rivals of everything that is pruned

A rate is a token: `50` removes 50 percent of the weights in scope, `sigma112` is the paper's PruneRate 1.12
(threshold 1.12 x standard deviation of |w|), `2of4` removes 2 of every 4 consecutive inputs (n:m sparsity).
Tokens hold no dot, colon or `@`: DVC's stage names, MLflow's metrics and Prefect's artifacts refuse them. The seed is
no part of a name: it is an axis of its own (a tag, `s2`), in folders and columns.
"""

import re
from typing import Literal, NamedTuple

from prunelab.errors import InputError, nearest
from prunelab.recipes.methods import METHODS, STRUCTURES

ALLOCATIONS = {
    "uniform": "every tensor (or row, where the method says so) loses the same share",
    "global": "one ranking over all tensors in scope",
    "sigma": "one ranking of score / standard deviation of the tensor's scores: the paper's per-tensor threshold",
    "owl": "per-block shares by outlier count (arXiv 2310.05175)",
}

DENSE = "dense"
GPTQ = "-gptq"  # behind a precision: rounded with calibration text (arXiv 2210.17323)
QUANTISED = ("int8", "int4")  # whole numbers with scales: prunelab/quantised
PRECISIONS = ("bf16", *QUANTISED, *(f"{name}{GPTQ}" for name in QUANTISED))  # the last link of any chain
TRAINED = ("recovered", "retrained")  # how a pruned model is trained afterwards: as `recover` or `retrain` says
OF_DENSE = ("average", "best", "small", "retrained", *PRECISIONS)  # what the dense model can become without pruning
CONTROLS = ("dense-average", "dense-best", "dense-retrained")  # the dense model with other values in it
RATE = r"[0-9]+of[0-9]+|sigma[0-9]+|[0-9]+"  # the longer one first: `2` alone is not what 2of4 means


class Rate(NamedTuple):
    """What one rate token asks for; exactly one of the three is set."""

    sparsity: float | None = None  # fraction of the weights in scope
    prune_rate: float | None = None  # the paper's PruneRate, in standard deviations
    n_of_m: tuple[int, int] | None = None  # (zeros, group size)


class Variant(NamedTuple):
    id: str
    method: str  # a key of METHODS or STRUCTURES; `dense` where nothing is pruned
    allocation: str | None  # None: the study's `prune.allocation`
    rate: str | None  # None where nothing is pruned
    steps: tuple[str, ...] = ()  # what is done afterwards; of dense what it becomes

    @property
    def family(self) -> str:
        """The id without the rate: `magnitude-global`, `depth-recovered`, `dense-int8`: rows to compare by rate."""
        if self.rate is None:
            return self.id
        method = f"{self.method}-{self.allocation}" if self.allocation else self.method
        return "-".join((method, *self.steps))

    @property
    def prunes(self) -> Literal["mask", "structure"] | None:
        """Whether it zeroes weights, removes structure, or neither."""
        return "mask" if self.method in METHODS else "structure" if self.method in STRUCTURES else None

    @property
    def is_trained(self) -> bool:
        """Whether it is trained after pruning, or as dense-retrained further without."""
        return any(step in TRAINED for step in self.steps)

    @property
    def precision(self) -> str | None:
        """The precision that it is stored in by its recipe: bf16, int8, int4; None where it stays that of dense."""
        last = self.steps[-1] if self.steps else ""
        return last.removesuffix(GPTQ) if last in PRECISIONS else None

    @property
    def rounds_by_text(self) -> bool:
        """Whether its last link is rounded with calibration text (GPTQ)."""
        return bool(self.steps) and self.steps[-1].endswith(GPTQ)

    @property
    def does_the_work_of_dense(self) -> bool:
        """Whether it multiplies what dense multiplies, zeros or not: a mask, or dense with other values in it."""
        return self.precision is None and (self.prunes == "mask" or self.id in (DENSE, *CONTROLS))

    @property
    def same_work(self) -> tuple[str, ...]:
        """Other recipes in a precision that run the same kernels on the same shapes, so that their times are its own.

        Zeros change no time, and how a weight was rounded changes none: of `wanda-50-int8-gptq` dense-int8 and
        dense-int8-gptq, of `depth-25-int4-gptq` depth-25-int4. Nothing for what is in no precision of its own.
        """
        if self.precision is None:
            return ()
        base = DENSE if self.prunes == "mask" else self.id.removesuffix(f"-{self.steps[-1]}")
        found = [f"{base}-{self.precision}"]
        if self.precision in QUANTISED and base == DENSE:
            found.append(f"{base}-{self.precision}{GPTQ}")
        return tuple(found[: found.index(self.id)] if self.id in found else found)

    @property
    def beginnings(self) -> list["Variant"]:
        """The recipe as it grows: of `depth-25-recovered-int8` depth-25, depth-25-recovered, and itself."""
        if self.rate is None:
            return [self]
        base = make("-".join(filter(None, (self.method, self.allocation))), self.rate)
        return [
            base._replace(id="-".join((base.id, *self.steps[:count])), steps=self.steps[:count])
            for count in range(len(self.steps) + 1)
        ]


def parse_rate(token) -> Rate:
    """The meaning of a rate token. Raises InputError that says what is allowed."""
    text = str(token)
    # Written one way only, without leading zeros: `05` and `5` would be two variants of one rate.
    if re.fullmatch(r"[1-9][0-9]?", text):
        return Rate(sparsity=int(text) / 100)
    if match := re.fullmatch(r"sigma([1-9][0-9]{0,3})", text):
        return Rate(prune_rate=int(match[1]) / 100)
    if match := re.fullmatch(r"([1-9][0-9]{0,3})(of|:)([1-9][0-9]{0,3})", text):
        zeros, group = int(match[1]), int(match[3])
        if match[2] == ":":
            raise InputError(f"{token!r} is written {zeros}of{group} (a colon is not allowed in a variant's name)")
        if 0 < zeros < group:
            return Rate(n_of_m=(zeros, group))
        raise InputError(f"{token!r}: n-of-m removes n of every m weights, so 0 < n < m is needed, such as 2of4")
    raise InputError(
        f"{token!r} is not a rate; allowed: a whole number of percent from 1 to 99, "
        "sigma<N> (the paper's PruneRate x 100, such as sigma112), <n>of<m> (such as 2of4), no zeros in front"
    )


def contradiction(rate, allocation: str) -> str | None:
    """Why this rate cannot be had with this allocation, or None."""
    parsed = parse_rate(rate)
    if parsed.prune_rate is not None and allocation not in ("sigma", "global"):
        return (
            f"{rate} is a threshold in standard deviations, which decides the shares itself; prune.allocation: "
            f"{allocation} cannot; allowed: sigma (each tensor's own), global (one for all)"
        )
    if parsed.n_of_m and allocation != "uniform":
        return f"{rate} fixes the share of every group; prune.allocation: {allocation} cannot; allowed: uniform"
    return None


def split_method(name: str) -> tuple[str, str | None]:
    """`magnitude-global` → (`magnitude`, `global`); a method without an allocation of its own → (name, None)."""
    base, _, last = name.rpartition("-")
    return (base, last) if base and last in ALLOCATIONS else (name, None)


def make(method: str, rate) -> Variant:
    """The variant of an entry of `prune.methods` at an entry of `prune.rates`."""
    base, allocation = split_method(method)
    return Variant(f"{method}-{rate}", base, allocation, str(rate))


def parse(identifier: str) -> Variant:
    """The variant with this id. Raises InputError, which names the nearest valid one, when it is none."""
    text = str(identifier)
    if text == DENSE:
        return Variant(DENSE, DENSE, None, None)
    if text.startswith(f"{DENSE}-"):
        made = text.removeprefix(f"{DENSE}-")
        if made in OF_DENSE:
            return Variant(text, DENSE, None, None, (made,))
        near = nearest(made, OF_DENSE, bare=True)
        hint = f" (did you mean '{DENSE}-{near}'?)" if near else ""
        known = ", ".join(f"{DENSE}-{name}" for name in OF_DENSE)
        raise InputError(f"{text!r} is no recipe{hint}; of dense there are {known}")
    match = re.fullmatch(rf"(?P<method>[a-z][a-z-]*?)-(?P<rate>{RATE})(?P<steps>(?:-[a-z0-9]+)*)", text)
    if not match:
        raise InputError(
            f"{text!r} is no recipe{_nearest(text)}; expected <method>-<rate>[-recovered|-retrained][-<precision>], "
            "such as magnitude-50 or depth-25-recovered-int4, or one of dense, such as dense-int8"
        )
    parse_rate(match["rate"])
    variant, steps = make(match["method"], match["rate"]), _words(match["steps"].split("-")[1:])
    if variant.prunes is None:
        raise InputError(
            f"{text!r}: there is no method {variant.method!r}{_nearest(text)}; allowed: "
            f"{', '.join((*METHODS, *STRUCTURES))}"
        )
    if steps != _in_order(steps):
        raise InputError(
            f"{text!r} is no recipe{_nearest(text)}; behind {variant.id} come one of {', '.join(TRAINED)} and one of "
            f"{', '.join(PRECISIONS)}, in this order, each once or not at all"
        )
    return variant._replace(id=text, steps=steps)


def _words(words: list[str]) -> tuple[str, ...]:
    """The steps in the words behind a rate: `gptq` belongs to the precision before it."""
    found: list[str] = []
    for word in words:
        if found and word == GPTQ[1:] and found[-1] in QUANTISED:
            found[-1] += GPTQ
        else:
            found.append(word)
    return tuple(found)


def _in_order(steps) -> tuple[str, ...]:
    """Those of `steps` that a recipe may have, in their order: one way of training, then one precision."""
    first, last = ([step for step in kind if step in steps][:1] for kind in (TRAINED, PRECISIONS))
    return tuple(first + last)


def _nearest(text: str) -> str:
    """The nearest valid recipe as a hint: method, rate and steps each corrected by itself."""
    match = re.fullmatch(rf"(?P<method>[a-z_-]+?)[-_]?(?P<rate>{RATE})(?P<rest>.*)", text)
    if not match:
        return ""
    base, allocation = split_method(match["method"])
    methods = nearest(base, (*METHODS, *STRUCTURES), bare=True)
    known = (*TRAINED, "bf16", *QUANTISED, GPTQ[1:])
    words = [nearest(word, known, bare=True) for word in re.split(r"[-_]", match["rest"]) if word]
    if methods is None or None in words:
        return ""
    plain = [word for word in dict.fromkeys(words) if word != GPTQ[1:]]
    # gptq behind whole numbers, wherever it was put.
    numbers = next((word for word in plain if word in QUANTISED), None)
    steps = _in_order([f"{word}{GPTQ}" if word == numbers and GPTQ[1:] in words else word for word in plain])
    return f" (did you mean {'-'.join(filter(None, (methods, allocation, match['rate'], *steps)))!r}?)"
