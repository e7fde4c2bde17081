"""A recipe of prune.further made step by step from the dense model: depth-25 → depth-25-recovered → …-int4."""

from pathlib import Path

from prunelab.disk.files import read_json
from prunelab.making import kept, masking, precision, steps
from prunelab.making.given import Given
from prunelab.recipes import variants
from prunelab.recipes.variants import Variant


def make(given: Given, variant: Variant, out) -> dict:
    """Write the variant of a recipe into folder `out`; returns what its last step says of it.

    Raises InputError for what a step needs and does not have; nothing is written then.
    """
    precision.require_another(given, variant)
    kept.row(given, variant, out, lambda place: _walk(given, kept.beginnings(given.settings, variant), place))
    return facts_of(out)


def facts_of(folder) -> dict:
    """What the last step of a recipe wrote down of the model in `folder`; nothing of one that was trained."""
    records = (Path(folder) / name for name in ("quantised.json", precision.RECORD, "sparsity.json", "control.json"))
    return next((read_json(record) for record in records if record.exists()), {})


def _walk(given: Given, path: list[Variant], out: Path) -> None:
    """Do the last of the steps of `path`, from where the one before it leads."""
    *before, last = path
    if not before:
        _step(given, last, given.dense, out)
        return
    with kept.beginning(given, before[-1], lambda place: _walk(given, before, place)) as source:
        _step(given, last, source, out)


def _step(given: Given, variant: Variant, source: Path, out: Path) -> None:
    if variant.steps[-1:] == ("retrained",):
        steps.retrain(given, variant, source, out)
    elif variant.id in variants.CONTROLS:
        steps.unpruned(given, variant, out)
    elif variant.id == "dense-small":
        steps.small(given, variant, source, out)
    elif variant.precision:
        (precision.in_bf16 if variant.precision == "bf16" else precision.quantise)(given, variant, source, out)
    elif variant.steps:
        steps.recover(given, variant, source, out)
    elif variant.prunes == "mask":
        masking.mask(given, variant, out)
    else:
        steps.remove(given, variant, out)
