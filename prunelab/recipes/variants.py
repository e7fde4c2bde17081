"""The names of variants: `<method>[-<allocation>]-<rate>[-s<seed>]`, in DVC, files, MLflow, Prefect and the report.

A rate is a token: `50` removes 50 percent of the weights in scope, `sigma112` is the paper's PruneRate 1.12
(threshold 1.12 x standard deviation of |w|), `2of4` removes 2 of every 4 consecutive inputs (n:m sparsity).
Tokens hold no dot, colon or `@`: DVC's stage names, MLflow's metrics and Prefect's artifacts refuse them.
"""

import re
from typing import NamedTuple

from prunelab.errors import InputError

ALLOCATIONS = {
    "uniform": "every tensor (or row, where the method says so) loses the same share",
    "global": "one ranking over all tensors in scope",
    "sigma": "one ranking of score / standard deviation of the tensor's scores: the paper's per-tensor threshold",
    "owl": "per-block shares by outlier count (arXiv 2310.05175)",
}

RECOVERED = "recovered"


class Rate(NamedTuple):
    """What one rate token asks for; exactly one of the three is set."""

    sparsity: float | None = None  # fraction of the weights in scope
    prune_rate: float | None = None  # the paper's PruneRate, in standard deviations
    n_of_m: tuple[int, int] | None = None  # (zeros, group size)


class Variant(NamedTuple):
    id: str
    method: str
    allocation: str | None  # None: the study's `prune.allocation`
    rate: str
    seed_tag: str | None  # "s2" for a replica, None for the first model
    dense: str  # the id of the model it is pruned from and compared with


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


def make(method: str, rate, seed_tag: str | None = None) -> Variant:
    """The variant of an entry of `prune.methods` at an entry of `prune.rates`."""
    base, allocation = split_method(method)
    suffix = f"-{seed_tag}" if seed_tag else ""
    return Variant(f"{method}-{rate}{suffix}", base, allocation, str(rate), seed_tag, f"dense{suffix}")


def recovered(variant: Variant, seed_tag: str | None = None) -> Variant:
    """What fine-tuning makes of `variant`: `mlp-width-50` → `mlp-width-50-recovered[-s2]`, a method of its own."""
    suffix = f"-{seed_tag}" if seed_tag else ""
    identifier, method = f"{variant.id}-{RECOVERED}{suffix}", f"{variant.method}-{RECOVERED}"
    return Variant(identifier, method, variant.allocation, variant.rate, seed_tag, f"dense{suffix}")


def parse(identifier: str) -> Variant:
    """The variant with this id. Raises InputError when it is none."""
    match = re.fullmatch(
        r"(?P<method>[a-z][a-z-]*?)-(?P<rate>[0-9]+|sigma[0-9]+|[0-9]+of[0-9]+)(-(?P<seed>s[0-9]+))?", identifier
    )
    if not match:
        raise InputError(f"{identifier!r} is not a variant; expected <method>-<rate>[-s<seed>], such as magnitude-50")
    parse_rate(match["rate"])
    return make(match["method"], match["rate"], match["seed"])
