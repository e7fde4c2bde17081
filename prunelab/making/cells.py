"""Cells: rows that are made, judged and dropped, all of a seed in one process.

A study of hundreds of small rows spends more on the start of its stages, and on what DVC writes down of each, than on
the rows themselves. What a verdict over seeds needs of them is figures and not models, so their results alone are kept:
what the stages prune and quality write of a row into two folders lies here in one, `<id>/`.

A cell that is judged is kept in `checkpoints/cells/<seed>/<hash of all that decides it>/`, so that a killed stage goes
on where it was, and a cell that is added makes none of the others again.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from prunelab.disk import files, places
from prunelab.errors import InputError
from prunelab.making import chain, kept
from prunelab.making.given import Given
from prunelab.recipes.variants import Variant

FOLDER = Path("checkpoints/cells")
RECORDS = ("sparsity.json", "control.json", "quantised.json", "precision.json")  # what is told of a model that was made


def judge(given: Given, reference: Path, probes: Path, out: Path) -> int:
    """Write what is found of every cell of the study into `out`/<id>/; their number.

    reference: results of the seed's dense model; probes: the folder of that stage. Raises InputError where the
    reference is missing, and as making and judging a row do; cells that were judged before are kept then.
    """
    cells, beside = given.settings.prune.cell_variants, Path(reference) / "reference.safetensors"
    if cells and not beside.exists():
        raise InputError(f"{beside}: no such file; run the reference stage first (dvc repro reference)")
    judged = [FOLDER / given.tag / _key(given, variant, files.sha256_file(beside)) for variant in cells]
    with files.whole_directory(out, *filter(None, (given.dense, given.data, reference, probes))) as partial:
        for variant, place in zip(cells, judged, strict=True):
            if not place.is_dir():
                _judge(given, variant, reference, probes, place)
            shutil.copytree(place, partial / variant.id, ignore=shutil.ignore_patterns(places.MARK))
    for place in (FOLDER / given.tag).glob("*"):
        if place not in judged:  # of other settings, or of another study
            shutil.rmtree(place)
    return len(cells)


def _judge(given: Given, variant: Variant, reference: Path, probes: Path, place: Path) -> None:
    """Make the row `variant`, score it, and write what is found, without the model, into the new folder `place`."""
    with files.whole_directory(place) as partial, tempfile.TemporaryDirectory(prefix="prunelab-") as scratch:
        model = Path(scratch) / variant.id
        chain.make(given, variant, model)
        given.task.judge(given.settings, variant.id, model, reference, probes, partial)
        for name in RECORDS:
            if (model / name).exists():
                shutil.copyfile(model / name, partial / name)


def _key(given: Given, variant: Variant, reference: str) -> str:
    """The hash of all that decides what is found of `variant`."""
    asked = given.settings.quality.model_dump(mode="json")
    decisive = [kept.key_of(given, variant), kept.code_of(given.settings.task, ("quality",)), asked, reference]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]
