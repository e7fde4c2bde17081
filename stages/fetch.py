"""Bring the study's data, and its pretrained model if it names one, onto this disk.

    python -m stages.fetch --out data/fetched

Reads `fetch` of params.yaml, and the section of the task if it has one. Writes, all or nothing:

    text/         train.txt, validation.txt, test.txt, manifest.json   (task: language; others: folders of their own)
    calibration/  text.txt, manifest.json                              (with fetch.calibration)
    model/        a plain Hugging Face folder, manifest.json           (with fetch.model)
"""

import argparse
from pathlib import Path

from prunelab import errors, tasks
from prunelab.checks import checks
from prunelab.data import sources as bringing
from prunelab.disk import files, places
from prunelab.energy import energy
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced as a whole")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = parser.parse_args(argv)
    settings = params.load()
    task, sources = tasks.of(settings.task), settings.sources()
    local = [Path(source.name).expanduser() for source in sources.values() if source.kind == "path"]
    for part, source in sources.items():
        if part != "model":  # whose files go by their names
            bringing.require_apart(source, arguments.out)
    places.check_folder(arguments.out, *local)
    if arguments.energy:
        places.check_json(arguments.energy, "meter")
    checks.check(settings)  # a config that no model can be built with is told before anything is brought
    with energy.stage_meter("fetch", arguments.energy), files.whole_directory(arguments.out, *local) as out:
        task.prepare(settings, out)
        if (wanted := settings.fetch.model) is not None:
            from prunelab.models import pretrained  # here, because a study that trains its own model needs none of it

            print(f"model: {wanted.kind} {wanted.name}", flush=True)
            manifest = pretrained.prepare(wanted, out / "model", task.MODELS)
            print(f"  {manifest['model']}: {manifest['parameters_stored']:,} parameters", flush=True)
            require_another_precision(settings, manifest)
            for remark in (*manifest["remarks"], *unused(settings.train, manifest["model_type"])):
                print(f"  {remark}", flush=True)


def require_another_precision(settings, manifest: dict) -> None:
    """Raises InputError for a row in bf16 of a model that is: it would be another row once more."""
    rows = [variant.id for variant in settings.variants() if variant.precision == "bf16"]
    if rows and manifest["dtype"] == "bfloat16":
        raise errors.InputError(
            f"prune.further: {rows[0]}: {manifest['model']} is stored in bf16 already, so it is "
            f"{rows[0].removesuffix('-bf16')} once more; take it out"
        )


def unused(train, model_type: str) -> list[str]:
    """What is said of `train.architecture` where it is not that of the fetched model, which alone counts."""
    if train.start == "random" or train.architecture in (None, model_type):
        return []
    return [f"train.architecture: {train.architecture} says nothing here, the model is a {model_type}; set null"]


if __name__ == "__main__":
    errors.exit_cleanly(main)
