"""Train a model with transformers' own Trainer, resumable at any moment, every weight followed.

The run is one long sequence of examples (examples.py), numbered from 0: number `i` of a seed is always the same, so a
resumed run sees exactly what the unbroken one would have seen.
"""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

from prunelab.disk.files import sha256_file, write_json
from prunelab.errors import InputError
from prunelab.models import loading, models, packed, workers
from prunelab.models.tensors import WEIGHTS, Tensors
from prunelab.training import lowrank
from prunelab.training.examples import Examples
from prunelab.training.points import Points
from prunelab.training.progress import Progress
from prunelab.training.readings import histories
from prunelab.training.taking import check_context, fetched, take
from prunelab.training.tracker import STATE_FILE, WeightHistory, WeightHistoryCallback

# What doesn't fit otherwise is why low-rank updates are chosen: activations are computed again on the way back.
RECOMPUTED = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
CURVE_COLUMNS = ("step", "epoch", "tick", "train_loss", "validation_loss", "learning_rate")


class FiniteTrainer(Trainer):
    """The library's Trainer, stopping at the first loss that is not finite; losses are means over predicted tokens.

    It says how far it is by `progress`: the examples are one epoch for the library, which would print parts of 1; and
    what it found so far by `points`.
    """

    def __init__(self, *arguments, progress: Progress, points: Points, **options):
        super().__init__(*arguments, **options)
        self.remove_callback(PrinterCallback)
        self.progress, self.points = progress, points
        # Left to itself it divides the sum by a count of its own. For classes that are not called `…ForCausalLM`, such
        # as GPT-2's, that counts a window's first token too, which nothing predicts: losses and gradients come out
        # (context - 1) / context of what they are. Nothing is accumulated here, so the model's own mean is right.
        self.model_accepts_loss_kwargs = False

    def _save(self, output_dir=None, state_dict=None):
        # By the module's names: those of the hub, which the library writes (LLaVA's, GPT-NeoX's), it doesn't know when
        # it resumes, and would go on from fresh weights without a word.
        loading.save(self.model, output_dir or self.args.output_dir)

    def log(self, logs, *more):
        super().log(logs, *more)
        if "eval_loss" in logs:
            self.points.evaluated(curve(self)[-1])

    def finish(self) -> None:
        """Say the last of it."""
        self.progress.close()
        self.points.close()

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.points.begin(self.state.global_step)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"training step {self.state.global_step + 1}: the loss is {loss.item()}; nothing was written; "
                "lower train.learning_rate, raise train.warmup_steps, or set train.precision: fp32"
            )
        step, value = self.state.global_step + 1, loss.item()
        self.progress.step(step, value)
        self.points.step(step, value, self._get_learning_rate())
        return loss


def run(settings, task, data: Path, out: Path, seed: int, callbacks=(), points: Path | None = None) -> None:
    """Train (or take) the model of `settings.train` on `data` and write the dense model's folder into `out`.

    `task` says where training begins and what it sees: a module of prunelab/tasks, whose `start`, `examples`, `files`
    and `beside` are asked. `callbacks` are the trainer's, beside the weight history; what decides their effect is their
    attribute `decisive`. `points`: a file that is appended to while it trains (points.py), None: none.
    `out` is an existing empty folder. It gets a plain Hugging Face folder, `prunable.json`, `best/model.safetensors`
    and `history/`. Checkpoints live in `checkpoints/<hash of all that decides the result>/` until the run has ended,
    so that a killed run continues and a changed setting starts anew.
    """
    train, towers = settings.train, settings.prune.towers
    if not train.epochs:
        if points is not None:
            points.unlink(missing_ok=True)  # of a training that was killed, with other settings
        take(fetched(data), train.context, out, towers)
        task.beside(settings, data, out)
        return
    # Quiet: its hints are for users of the library's own scripts.
    with loading.quiet(), workers.threads(train.threads):
        model, processor, stored, new = task.start(settings, data, seed)
        check_context(train.context, model)
        examples = task.examples(settings, processor, data, seed)
        work = Path("checkpoints") / _fingerprint(settings, seed, task.files(settings, data), callbacks)
        tensors = models.prunable_tensors(model, towers)
        adapted = lowrank.adapt(model, tensors, train.lora_rank, new) if train.parameters == "lora" else None
        told = Points(points, work.name, examples.tokens_per_step)
        trainer, history, readings = _trainer(train, model, tensors, examples, work, seed, callbacks, told)
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
        trainer.finish()
        model = lowrank.merge(adapted) if adapted else model
        _write_history(history, trainer, out / "history")
        for name, reading in readings.items():
            _write_reading(reading, trainer, out / "history" / name)
        _write_best(trainer, stored, out / "best")
        loading.save(model.to(stored), out)
        processor.save_pretrained(out)
        task.beside(settings, data, out)
    if train.start == "fetched" and (manifest := fetched(data) / "manifest.json").exists():
        shutil.copyfile(manifest, out / "manifest.json")  # whose weights these were, and their licence
    write_json(out / "prunable.json", tensors)
    packed.write_buffers(loading.buffers(model), out)
    shutil.rmtree(work)


def _trainer(
    train, model, tensors: list[dict], examples: Examples, work: Path, seed: int, callbacks, points: Points
) -> tuple[FiniteTrainer, WeightHistory]:
    steps_per_epoch = examples.train.steps_per_epoch
    tracker = train.tracker
    steps_per_tick = tracker.every * (steps_per_epoch if tracker.tick == "epoch" else 1)
    ticks = train.epochs * steps_per_epoch // steps_per_tick
    history, readings = histories(tracker, model, [tensor["name"] for tensor in tensors], ticks, seed)
    evaluate_every = min(train.evaluate_every_epochs, train.epochs) * steps_per_epoch
    arguments = TrainingArguments(
        output_dir=str(work),
        train_sampling_strategy="sequential",
        num_train_epochs=1,  # the examples are one long sequence; our epochs are parts of it
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=max(train.batch_size, 4096 // train.context),
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": train.min_learning_rate},
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        adam_beta2=train.beta2,
        max_grad_norm=train.max_grad_norm,
        bf16=_in_bf16(train),
        **(RECOMPUTED if train.parameters == "lora" and torch.cuda.is_available() else {}),
        use_cpu=not torch.cuda.is_available(),  # said outright, because the library refuses bf16 on a CPU otherwise
        eval_strategy="steps",
        eval_steps=evaluate_every,
        logging_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=3,  # best, last, and the one before in case the last was cut off while being written
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,  # a task gives what its model takes, by whatever arguments
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
    )
    stopping = (
        [EarlyStoppingCallback(early_stopping_patience=train.early_stopping_patience)]
        if train.early_stopping_patience
        else []
    )
    trainer = FiniteTrainer(
        model=model,
        args=arguments,
        train_dataset=examples.train,
        eval_dataset=examples.validation,
        data_collator=examples.collate,
        callbacks=[*callbacks, *stopping, WeightHistoryCallback(history, "steps", steps_per_tick, readings)],
        progress=Progress(train.epochs * steps_per_epoch, examples.tokens_per_step, steps_per_epoch),
        points=points,
    )
    return trainer, history, readings


def _in_bf16(train) -> bool:
    return train.precision == "bf16" or (train.precision == "auto" and models.computes_bf16())


def _fingerprint(settings, seed: int, read: list[Path], callbacks) -> str:
    """A name for the run that changes with everything that decides its result; `read`: the files that do."""
    own = settings.model_dump(mode="json", include={"task", "price", "train"})
    del own["train"]["share_minutes"]  # how often others get a copy decides nothing
    decisive = [own, settings.prune.towers, seed, torch.__version__, transformers.__version__, _in_bf16(settings.train)]
    decisive += [getattr(callback, "decisive", None) for callback in callbacks]
    decisive += [[path.name, sha256_file(path)] for path in read]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _last_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; cut-off ones are removed. None to start anew."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        # The weight history is the last file that a save writes.
        if (folder / STATE_FILE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    newest = max(whole, key=lambda folder: int(folder.name.split("-")[1]), default=None)
    if newest:
        print(f"continuing from {newest}", flush=True)
    return str(newest) if newest else None


def _write_history(history: WeightHistory, trainer: Trainer, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _write_reading(history, trainer, folder)
    kinds = {"tick": pa.int32(), "step": pa.int64(), "tensor": pa.string(), "index": pa.int64(), "value": pa.float32(),
             "named": pa.bool_()}  # fmt: skip
    rows = pa.Table.from_pylist(history.trajectories(), pa.schema(kinds.items()))
    pq.write_table(rows, folder / "trajectories.parquet")
    with open(folder / "curve.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CURVE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve(trainer))


def _write_reading(history: WeightHistory, trainer: Trainer, folder: Path) -> None:
    """Write importance and averaged clone of a history into the new `folder`."""
    folder.mkdir()
    metadata = {"options": json.dumps(history.options())}
    save_file(history.importance(), folder / "importance.safetensors", metadata)
    # Whole: what was not trained is no average of anything, but belongs to the clone.
    whole = {**_state(trainer.model), **history.average()}
    save_file(whole, folder / "average.safetensors", metadata)


def curve(trainer: Trainer) -> list[dict]:
    """One row an evaluation: `step, epoch, tick, train_loss` (mean since the row before), `validation_loss`,
    `learning_rate`; losses in nats a token."""
    steps_per_epoch = trainer.train_dataset.steps_per_epoch
    steps_per_tick = next(c.every for c in trainer.callback_handler.callbacks if isinstance(c, WeightHistoryCallback))
    rows: dict[int, dict] = {}
    for entry in trainer.state.log_history:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row["epoch"] = entry["step"] / steps_per_epoch
        row["tick"] = entry["step"] // steps_per_tick
        for logged, column in (("loss", "train_loss"), ("eval_loss", "validation_loss"), ("learning_rate",) * 2):
            if logged in entry:
                row[column] = entry[logged]
    return [row for row in rows.values() if "validation_loss" in row]


def _state(model) -> dict[str, torch.Tensor]:
    """The tensors of `model` that a file holds, under the module's names, on the CPU."""
    state = model.state_dict()
    return {name: state[name].cpu().contiguous() for name in loading.state_names(model)}


def _write_best(trainer: Trainer, stored: torch.dtype, folder: Path) -> None:
    """The weights with the lowest validation loss, in the dtype and under the names of the last ones."""
    folder.mkdir()
    checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.best_global_step}"
    tensors = Tensors(checkpoint)
    if lowrank.is_adapted(tensors.names()):
        best = lowrank.plain({name: tensors[name] for name in tensors.names()}, trainer.model)
        best = {name: best[name].to(stored).contiguous() for name in loading.state_names(trainer.model)}
    else:
        best = _state(loading.of_folder(checkpoint, stored))
    save_file(best, folder / WEIGHTS, {"format": "pt"})
    write_json(
        folder / "best.json", {"step": trainer.state.best_global_step, "validation_loss": trainer.state.best_metric}
    )
