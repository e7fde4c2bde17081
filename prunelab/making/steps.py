"""The other steps of recipes, one function each: a folder in, a folder out.

Everything is imported where it is used: each step needs another part of the house, and most cost seconds.
"""

import math
from pathlib import Path

from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.making.given import Given
from prunelab.recipes.variants import Variant

# Where the dense model's folder holds the weights of its controls: the averaged clone, the lowest validation loss.
CONTROLS = {"average": "history/average.safetensors", "best": "best/model.safetensors"}


def remove(given: Given, variant: Variant, out: Path) -> dict:
    """Write the dense model without `variant`'s neurons, heads or blocks into `out`; what sparsity.json says."""
    from prunelab.calibration.calibration import Calibration
    from prunelab.structure import removal

    plan = removal.Plan(
        variant=variant,
        round_to=given.settings.structure.round_to,
        checkpoint=given.settings.prune.checkpoint,
        seed=given.seed,
    )
    calibration = Calibration(given.calibration) if given.calibration else None
    return removal.remove(given.dense, out, plan, calibration)


def recover(given: Given, variant: Variant, source: Path, out: Path) -> dict:
    """Fine-tune the pruned model in folder `source` and write it into `out`; what the new sparsity.json says."""
    from prunelab.models import workers
    from prunelab.recovery import recovery

    wanted = given.settings.recover
    lessons = given.task.recovery(given.settings, given.dense, given.data, given.seed)
    plan = recovery.Plan(
        tokens=wanted.tokens,
        source=wanted.source,
        parameters=wanted.parameters,
        lora_rank=wanted.lora_rank,
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        batch_size=wanted.batch_size,
        context=given.settings.train.context,
        seed=given.seed,
    )
    with workers.threads(given.settings.train.threads):
        return recovery.recover(source, given.dense, out, variant.id, plan, lessons)


def retrain(given: Given, variant: Variant, source: Path, out: Path) -> dict:
    """Train the model in folder `source` further as it was trained, its zeros held, and write the checkpoint with the
    lowest validation loss into `out`; what its record says."""
    from prunelab.models import workers
    from prunelab.recovery import recovery

    settings, wanted, train = given.settings, given.settings.retrain, given.settings.train
    tokens = wanted.steps * train.batch_size * train.context
    asked = {"tokens": tokens, "batch_size": train.batch_size, "validation_windows": wanted.validation_windows}
    as_recovery = settings.model_copy(update={"recover": settings.recover.model_copy(update=asked)})
    lessons = given.task.recovery(as_recovery, given.dense, given.data, given.seed).first(wanted.steps)
    plan = recovery.Plan(
        tokens=tokens,
        source="data",
        parameters="full",
        lora_rank=0,
        learning_rate=wanted.learning_rate,
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        context=train.context,
        seed=given.seed,
        beta2=train.beta2,
        evaluate_every=wanted.evaluate_every,
    )
    with workers.threads(train.threads):
        return recovery.recover(source, given.dense, out, variant.id, plan, lessons)


def unpruned(given: Given, variant: Variant, out: Path) -> dict:
    """Write the dense model with the weights of a control (`dense-average`, `dense-best`) into `out`.

    They stand beside dense so that a falling loss is not credited to pruning: weight averaging alone, early stopping
    alone. Raises InputError when the dense model has no such weights or they belong to another model.
    """
    from safetensors.torch import load_file

    from prunelab.models import checkpoint, loading, packed
    from prunelab.models.tensors import identity

    control = variant.steps[0]
    path = Path(given.dense) / CONTROLS[control]
    if not path.is_file():
        raise InputError(f"{path}: no such file, so there is no {variant.id}; take it out of prune.further")
    model = checkpoint.load(given.dense)
    loading.put(model, load_file(path), path, given.dense)
    facts = {"variant": variant.id, "dense_sha256": identity(given.dense), "weights": CONTROLS[control]}
    with files.whole_directory(out, given.dense) as partial:
        packed.copy_companions(given.dense, partial)
        loading.save(model, partial)
        files.write_json(partial / "control.json", facts)
    return facts


def small(given: Given, variant: Variant, like: Path, out: Path) -> dict:
    """Train a dense model of the size of the structured variant in folder `like`, from scratch, into `out`.

    A pruned and recovered model that is no better than this one was not worth pruning: so where the study recovers
    variants, this one gets those tokens more (rounded up to whole epochs, in its favour).
    """
    from prunelab.training import training

    changes = files.read_json(Path(like) / "sparsity.json")["structure"]["config_changes"]
    settings = floor(given.settings, changes)
    with files.whole_directory(out, like, given.data) as partial:
        training.run(settings, given.task, given.data, partial, given.seed)
    return {"variant": variant.id, "config_changes": changes, "epochs": settings.train.epochs}


def floor(settings, changes: dict):
    """The settings of the same training at another size, with the tokens of recovery more where the study recovers."""
    train, extra = settings.train, 0
    if train.windows_per_epoch:
        extra = math.ceil(settings.tokens_of_recovery() / (train.windows_per_epoch * train.context))
    grown = train.model_copy(update={"config": {**train.config, **changes}, "epochs": train.epochs + extra})
    return settings.model_copy(update={"train": grown})
