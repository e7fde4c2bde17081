"""What the stage fetch brings for a language model: the texts of training, validation and test, and of calibration."""

from pathlib import Path

from prunelab.data import text
from prunelab.errors import InputError


def check(settings) -> None:
    """Raises InputError for settings that a language model has no use for, or cannot do without."""
    for key in ("text", "split"):
        if getattr(settings.fetch, key) is None:
            raise InputError(f"fetch.{key}: null, but task is language, which learns from a text; fill it in")
    if settings.price is not None:
        raise InputError("price: says nothing where task is language; set price: null, or task: price")
    if settings.prune.towers != ["language"]:
        raise InputError(
            f"prune.towers: a model of text has no other than language, found {settings.prune.towers}; set [language]"
        )


def prepare(settings, out: Path) -> None:
    """Write `text/` and, where the settings name one, `calibration/` into folder `out`, and print what was found."""
    fetch = settings.fetch
    print(f"text: {fetch.text.kind} {fetch.text.name}", flush=True)
    manifest = text.prepare(fetch.text, fetch.split, out / "text")
    for part, entry in manifest["parts"].items():
        same = f", the same as {entry['same_as']}" if entry["same_as"] else ""
        print(f"  {part}: {entry['documents']} documents, {entry['characters']:,} characters{same}", flush=True)
    if fetch.calibration is not None:
        print(f"calibration: {fetch.calibration.kind} {fetch.calibration.name}", flush=True)
        manifest = text.prepare_whole(fetch.calibration, out / "calibration")
        print(f"  {manifest['documents']} documents, {manifest['characters']:,} characters", flush=True)
