"""What of a study can be refused before anything is fetched, beyond what params.load sees in the file itself.

    prunelab check [params.yaml]     # is this a study that can run? One line

Extras that are needed and the country take no time; a model that is trained here is built and run, which takes seconds.
"""

import hashlib
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from prunelab import tasks
from prunelab.disk.files import write_json
from prunelab.errors import InputError
from prunelab.study import params
from prunelab.study.fields import nearest

TRIALS = Path(".prunelab/trials.json")  # a stage or a second run need not try the same model again
TRIALS_KEPT = 20
# Packages that are extras, and the settings that cannot do without them.
EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "recovery": ("peft",),
    "tasks": ("lm_eval",),
}


def check(settings: params.Settings) -> None:
    """Look at all that can be known without data: extras that are needed, the country, a model that is trained here.

    Takes seconds, because that model is built and run. Raises InputError that names the setting.
    """
    tasks.of(settings.task).check(settings)
    steps = {step for variant in settings.variants() for step in variant.steps}
    lora = "recovered" in steps and settings.recover.parameters == "lora"
    needed = {
        "quality.questions": ("tasks", [one for one in settings.quality.questions.names if not one.endswith(".jsonl")]),
        "recover.parameters: lora": ("recovery", lora),
        "train.parameters: lora": ("recovery", settings.train.epochs and settings.train.parameters == "lora"),
        "export.onnx: true": ("onnx", settings.export.onnx),
    }
    for key, (extra, wanted) in needed.items():
        missing = [package for package in EXTRAS[extra] if wanted and not find_spec(package)]
        if missing:
            raise InputError(f"{key} needs {', '.join(missing)}, which is an extra: pip install -e '.[{extra}]'")
    from codecarbon.input import DataSource

    countries = DataSource().get_global_energy_mix_data()
    if (country := settings.energy.country) not in countries:
        raise InputError(f"energy.country: CodeCarbon knows no {country!r}{nearest(country, countries)}")
    if settings.train.start == "random" and (known := _trial_key(settings)) not in (passed := _trials_passed()):
        from prunelab.checks import (
            trial,  # here, because the library that it builds models with takes seconds to import
        )

        trial.run(settings)
        write_json(TRIALS, [*passed[-TRIALS_KEPT:], known])


def check_training(settings: params.Settings) -> None:
    """Build and run the model that is trained here, whatever else the study asks of it. Raises InputError."""
    tasks.of(settings.task).check(settings)
    if settings.train.start == "random":
        from prunelab.checks import trial  # as above

        trial.run(settings, whole=False)


def _trial_key(settings: params.Settings) -> str:
    """The hash of all that a trial looks at: where it came from and what is told of it decides nothing."""
    asked = settings.model_dump(
        mode="json", exclude={"study", "fetch", "energy", "deploy", "report", "export", "runtimes"}
    )
    versions = [version(name) for name in ("prunelab", "torch", "transformers")]
    return hashlib.sha256(json.dumps([asked, versions], sort_keys=True).encode()).hexdigest()


def _trials_passed() -> list[str]:
    """The keys of trials that were passed in this folder; without them the next one only takes its seconds again."""
    try:
        known = json.loads(TRIALS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return known if isinstance(known, list) else []


def of_file(path) -> str:
    """Check the settings in the file `path`; what to say where nothing is wrong. Raises InputError as `check`."""
    settings = params.load(path)
    try:
        check(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return f"{path}: study {settings.study}, {len(settings.variants()) - 1} variants, ok"
