"""What becomes of every tensor of a variant: how much each loses, and which weights."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from prunelab.calibration.calibration import Calibration
from prunelab.errors import InputError
from prunelab.pruning import allocation, masks, scores, sparsegpt
from prunelab.recipes import variants
from prunelab.recipes.methods import METHODS


class Plan(NamedTuple):
    """All that decides a pruned variant besides the model: each field is logged in sparsity.json."""

    variant: variants.Variant
    allocation: str
    scope: str  # blocks | attention | mlp
    checkpoint: str  # last | best
    seed: int
    owl: tuple[float, float] | None = None  # outlier multiple M and span λ, where the allocation is owl


class Decision(NamedTuple):
    """What becomes of one tensor."""

    tensor: dict  # its entry of prunable.json
    keep: torch.Tensor  # bool, in its shape
    scores: torch.Tensor | None = None  # in its shape; None where weights are not ranked by a score of their own
    weight: torch.Tensor | None = None  # rewritten, in its shape; None: stays as it is


def shares_of(plan: Plan, scope: list[dict], weights, calibration, layer_of, jointly: bool) -> dict[str, float] | None:
    """Sparsity of every tensor of the scope; None where the rate is a group's (n:m) or one ranking decides (global).

    With `jointly` also a ranking over all tensors is boiled down to shares: for methods that decide one block at a
    time, and see every block but the first only once those before it are pruned.
    """
    rate = variants.parse_rate(plan.variant.rate)
    if plan.allocation == "owl":
        return allocation.owl_shares(scope, weights, calibration, rate.sparsity, *plan.owl)
    if plan.allocation in ("global", "sigma"):
        if not jointly:
            return None
        keeps = _jointly(plan, _all_scores(plan, scope, layer_of))
        return {name: 1 - int(keep.sum()) / keep.numel() for name, keep in keeps.items()}
    return None if rate.n_of_m else {tensor["name"]: rate.sparsity for tensor in scope}


def _all_scores(plan: Plan, scope: list[dict], layer_of) -> dict[str, torch.Tensor]:
    score = scores.SCORES[METHODS[plan.variant.method].score]
    return {tensor["name"]: score(layer_of(tensor)) for tensor in scope}


def by_scores(plan: Plan, scope: list[dict], layer_of, shares: dict[str, float] | None) -> Iterator[Decision]:
    """Decide by rank, each tensor by its share of `shares`, its n:m groups, or all in one ranking."""
    score = scores.SCORES[METHODS[plan.variant.method].score]
    if shares is None and plan.allocation in ("global", "sigma"):
        all_scores = _all_scores(plan, scope, layer_of)
        keeps = _jointly(plan, all_scores)
        for tensor in scope:
            yield Decision(tensor, keeps[tensor["name"]], all_scores.pop(tensor["name"]))
        return
    for tensor in scope:
        values = score(layer_of(tensor))
        yield Decision(tensor, keep_mask(plan, tensor, values, shares), values)


def keep_mask(plan: Plan, tensor: dict, values: torch.Tensor, shares: dict[str, float] | None) -> torch.Tensor:
    """Keep-mask of one tensor, in its shape."""
    rows = values.T if tensor["transposed"] else values  # (out, in)
    n_of_m = variants.parse_rate(plan.variant.rate).n_of_m
    if n_of_m:
        try:
            keep = masks.lowest_n_of_m(rows, *n_of_m)
        except ValueError as error:
            raise InputError(f"{plan.variant.id}: {tensor['name']}: {error}") from None
    # A row's share makes no sense where the share was found by ranking rows against each other.
    elif METHODS[plan.variant.method].group == "row" and plan.allocation not in ("global", "sigma"):
        keep = masks.lowest_per_row(rows, shares[tensor["name"]])
    else:
        keep = masks.lowest(rows, shares[tensor["name"]])
    return keep.T if tensor["transposed"] else keep


def by_solving(plan: Plan, scope: list[dict], weights, calibration: Calibration, shares) -> Iterator[Decision]:
    """Decide and rewrite by SparseGPT, from the dense model's Hessians."""
    solver = Solver(plan, shares)
    for tensor in scope:
        yield solver.decide(tensor, weights[tensor["name"]], calibration)


class Solver:
    """SparseGPT, tensor by tensor; the factor of a Hessian that several tensors share is computed once."""

    def __init__(self, plan: Plan, shares: dict[str, float] | None):
        self.plan, self.shares = plan, shares
        self._leader, self._factor = None, None

    def decide(self, tensor: dict, weight: torch.Tensor, seen) -> Decision:
        """Prune and rewrite `weight`; `seen`, a Calibration or an observer, knows its `hessian` and who shares it.

        Raises InputError for a Hessian that is not finite and for n:m groups that do not fit.
        """
        name, rate = tensor["name"], variants.parse_rate(self.plan.variant.rate)
        rows = weight.T if tensor["transposed"] else weight  # (out, in)
        try:
            if seen.leader(name) != self._leader:
                self._leader, self._factor = seen.leader(name), sparsegpt.factorise(seen.hessian(name))
            new, keep = sparsegpt.solve(rows, self._factor, self.shares[name] if self.shares else None, rate.n_of_m)
        except ValueError as error:
            raise InputError(f"{self.plan.variant.id}: {name}: {error}") from None
        if tensor["transposed"]:
            new, keep = new.T.contiguous(), keep.T.contiguous()
        return Decision(tensor, keep, weight=new)


def _jointly(plan: Plan, all_scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep-masks from one ranking over all tensors; `sigma` divides by each tensor's own standard deviation first.

    The paper's rule, |w| < PruneRate x sigma(|w|), is that ranking cut at PruneRate; a target sparsity cuts it at an
    exact count instead, which is what bisecting PruneRate converges to.
    """
    rate = variants.parse_rate(plan.variant.rate)
    flat = [values.flatten() for values in all_scores.values()]
    if plan.allocation == "sigma":
        flat = [values / values.std() for values in flat]
    ranking = torch.cat(flat)
    if rate.prune_rate is None:
        keep = masks.lowest(ranking, rate.sparsity)
    else:
        counted = plan.allocation == "sigma" or METHODS[plan.variant.method].in_sigmas
        sigma = 1.0 if counted else ranking.std()
        keep = masks.below(ranking, rate.prune_rate * sigma)
    parts = keep.split([values.numel() for values in flat])
    return {name: part.view(values.shape) for (name, values), part in zip(all_scores.items(), parts, strict=True)}
