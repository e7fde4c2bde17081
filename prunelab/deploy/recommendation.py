"""report/recommendation.json: the one answer that export, report, MLflow and the command line read.

variant     the id to deploy; null where nothing qualifies (then the dense model is delivered, and `told` says so)
tied        ids that nothing asked for tells apart from it
why, told   a phrase; sentences, the first of which is the headline
asked       budgets, minimise and variant of the settings
rows        every variant: its state, why, its figures with intervals, every budget held against it
frontier    ids that no other significantly dominates in what was asked
nearest     where nothing qualifies: the id that fails by least, and what it fails
device      of the measuring machine
devices     the same (without what follows) for every entry of deploy.devices
rivals      columns of results.csv by variant: each beside the dense rivals
comparison  one sentence: removal, mask, quantising, or both
headline    the figure that rows are judged by: its column of results.csv, name, unit, form, and which way is better
"""

import math

from prunelab.deploy import rivals, words
from prunelab.deploy.choosing import Asked, Choice, Judged, Kept, choose, nearest, runners_up
from prunelab.deploy.comparing import Values
from prunelab.deploy.figures import Candidate, Figure, candidates
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.tasks import Headline

DENSE = "dense"
KEYS = ("variant", "tied", "why", "told", "rows", "devices", "rivals", "comparison")


def make(rows: list[dict], headline: Headline, wanted, values: Values | None = None, device: str | None = None) -> dict:
    """The recommendation for the rows of a study (report.results); wanted: the section `deploy` of the settings."""
    found = candidates(rows, headline)
    compared = rivals.comparison(values)
    return {
        **of_machine(found, wanted, values, device),
        "devices": {},
        "rivals": rivals.columns(found, compared),
        "comparison": rivals.comparison_told(found, compared, wanted.worse_percent),
        "headline": {key: getattr(headline, key) for key in ("column", "name", "unit", "form", "lower_is_better")},
    }


def of_machine(found: list[Candidate], wanted, values: Values | None = None, device: str | None = None) -> dict:
    """The recommendation by the figures of one machine."""
    here = {one.id for one in found}
    asked = Asked(wanted.budgets, list(wanted.minimise), wanted.variant if wanted.variant in here else None)
    choice = choose(found, asked, values)
    near = nearest(choice) if choice.head is None else None
    return {
        "variant": choice.head.id if choice.head else None,
        "tied": [one.id for one in choice.chosen[1:]],
        "why": words.why(choice),
        "told": words.told(choice),
        "asked": {"budgets": asked.budgets, "minimise": asked.minimise, "variant": asked.variant},
        "rows": [_row(choice, one) for one in choice.judged],
        "runners_up": [one.candidate.id for one in runners_up(choice)],
        "frontier": [one.id for one in choice.frontier],
        "nearest": near and {"variant": near.candidate.id, "fails": [_kept(b) for b in near.budgets if not b.holds]},
        "device": device,
    }


def _row(choice: Choice, one: Judged) -> dict:
    return {
        "variant": one.candidate.id,
        "path": one.candidate.first["path"],
        "state": one.state,
        "why": _reason(choice, one),
        "figures": {name: _figure(figure) for name, figure in one.candidate.figures.items()},
        "budgets": [_kept(budget) for budget in one.budgets],
    }


def _reason(choice: Choice, one: Judged) -> str:
    """Why a row is where it is, in a phrase."""
    match one.state:
        case "recommended" | "tied":
            return words.why(choice)
        case "dominated":
            parts = (words.apart(choice, one.candidate, one.by, name) for name in choice.asked.figures)
            return f"dominated by {one.by.id}: {', '.join(parts)}"
        case "behind" if one.figure:
            return f"beside {one.by.id} {words.apart(choice, one.candidate, one.by, one.figure)}"
        case "fails":
            failing = (budget for budget in one.budgets if budget.holds is False)
            return "; ".join(f"{b.name} {words.number(b.figure)}, allowed {b.limit:g}" for b in failing)
    return one.why or "as good as the one that was named"


def _kept(budget: Kept) -> dict:
    excess = 100 * budget.excess
    return {
        "name": budget.name, "limit": budget.limit, "holds": budget.holds, "why": budget.why,
        **_figure(budget.figure), "excess_percent": excess if math.isfinite(excess) else None,
    }  # fmt: skip


def _figure(figure: Figure) -> dict:
    """JSON knows no not-a-number."""
    ends = {"value": figure.value, "lo": figure.lo, "hi": figure.hi}
    ends = {name: end if end is not None and math.isfinite(end) else None for name, end in ends.items()}
    return {**ends, "doubt": figure.doubt or None}


def read(path, identifiers: list[str]) -> dict:
    """The recommendation in the file `path`, for a study of these variants.

    Raises InputError where there is none, or it is of another list of rows.
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        raise InputError(f"{path}: holds no recommendation; write it again: dvc repro -f -s recommend")
    listed = [row["variant"] for row in content["rows"]]
    if listed != list(identifiers):
        other = next((name for name in (*identifiers, *listed) if (name in listed) != (name in identifiers)), "order")
        raise InputError(f"{path}: is of another list of rows ({other}); write it again: dvc repro recommend")
    return content


def delivered(content: dict) -> str:
    """The variant whose model is delivered: the recommended one, else the dense model."""
    return content["variant"] or DENSE
