"""Train a causal language model with transformers' own Trainer, resumable at any moment, every weight followed.

The run is one long sequence of windows, numbered from 0: window `i` of a seed is always the same text, so a resumed run
sees exactly what the unbroken one would have seen. An *epoch* is `windows_per_epoch` of them.
"""

import csv
import functools
import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments, set_seed

from prunelab.disk.files import read_text, sha256_file, write_json
from prunelab.errors import InputError
from prunelab.models import loading, models, packed
from prunelab.models.tensors import WEIGHTS, stored_dtype, weight_files
from prunelab.training.characters import character_tokenizer
from prunelab.training.progress import Progress
from prunelab.training.taking import check_context, take
from prunelab.training.tracker import STATE_FILE, WeightHistory, WeightHistoryCallback

CURVE_COLUMNS = ("step", "epoch", "tick", "train_loss", "validation_loss", "learning_rate")


class TrainingWindows(torch.utils.data.Dataset):
    """All windows of a run, in the order of training; item `i` is {"input_ids", "labels"}, each (context,) int64.

    Args:
        tokens: (N,) the training text; context: tokens a window; per_epoch: windows an epoch, or None to cover
            the text once an epoch, in seeded order, from a seeded phase.
        batch_size: an epoch is rounded up to whole batches.
    """

    def __init__(self, tokens, context: int, epochs: int, per_epoch: int | None, batch_size: int, seed: int):
        if len(tokens) < 2 * context:
            raise InputError(f"train.context: {context} tokens a window, but the training text has only {len(tokens)}")
        self.tokens, self.context, self.seed, self.covering = tokens, context, seed, per_epoch is None
        windows = per_epoch or (len(tokens) - context) // context
        self.steps_per_epoch = math.ceil(windows / batch_size)
        self.per_epoch = self.steps_per_epoch * batch_size
        self.epochs = epochs
        self._starts_of = functools.lru_cache(maxsize=2)(self._starts)

    def _starts(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, epoch))
        if not self.covering:
            return generator.integers(0, len(self.tokens) - self.context + 1, self.per_epoch)
        phase = generator.integers(0, self.context)
        starts = np.arange(phase, len(self.tokens) - self.context + 1, self.context)
        return np.resize(generator.permutation(starts), self.per_epoch)  # the last batch is filled from the front

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __getitem__(self, index: int) -> dict:
        start = int(self._starts_of(index // self.per_epoch)[index % self.per_epoch])
        window = self.tokens[start : start + self.context]
        return {"input_ids": window, "labels": window}


def validation_windows(tokens, context: int, limit: int | None) -> list[dict]:
    """Non-overlapping windows of the validation text, `limit` of them evenly spaced (None: all)."""
    starts = np.arange(0, len(tokens) - context + 1, context)
    if not len(starts):
        raise InputError(f"validation text: {len(tokens)} tokens are less than one window of {context}")
    if limit is not None and limit < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
    return [{"input_ids": tokens[s : s + context], "labels": tokens[s : s + context]} for s in starts.tolist()]


class FiniteTrainer(Trainer):
    """The library's Trainer, stopping at the first loss that is not finite; losses are means over predicted tokens.

    It says how far it is by `progress`: the windows are one epoch for the library, which would print parts of 1.
    """

    def __init__(self, *arguments, progress: Progress, **options):
        super().__init__(*arguments, **options)
        self.remove_callback(PrinterCallback)
        self.progress = progress
        # Left to itself it divides the sum by a count of its own. For classes that are not called `…ForCausalLM`, such
        # as GPT-2's, that counts a window's first token too, which nothing predicts: losses and gradients come out
        # (context - 1) / context of what they are. Nothing is accumulated here, so the model's own mean is right.
        self.model_accepts_loss_kwargs = False

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"training step {self.state.global_step + 1}: the loss is {loss.item()}; nothing was written; "
                "lower train.learning_rate, raise train.warmup_steps, or set train.precision: fp32"
            )
        self.progress.step(self.state.global_step + 1, loss.item())
        return loss


def run(settings, data: Path, out: Path, seed: int, callbacks=()) -> None:
    """Train (or take) the model of `settings.train` on `data` and write the dense model's folder into `out`.

    `callbacks` are the trainer's, beside the weight history; what decides their effect is their attribute `decisive`.
    `out` is an existing empty folder. It gets a plain Hugging Face folder, `prunable.json`, `best/model.safetensors`
    and `history/`. Checkpoints live in `checkpoints/<hash of all that decides the result>/` until the run has ended,
    so that a killed run continues and a changed setting starts anew.
    """
    train = settings.train
    if not train.epochs:
        take(_fetched(data), train.context, out)
        return
    with loading.quiet():  # its hints are for users of the library's own scripts
        model, tokenizer, stored = _start(settings, data, seed)
        check_context(train.context, model)
        tokens = {part: encode(tokenizer, read_text(data / "text" / f"{part}.txt")) for part in ("train", "validation")}
        work = Path("checkpoints") / _fingerprint(train, seed, data, callbacks)
        trainer, history = _trainer(train, model, tokens, work, seed, callbacks)
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
        trainer.progress.close()
        _write_history(history, trainer, out / "history")
        _write_best(trainer, stored, out / "best")
        loading.save(model.to(stored), out)
        tokenizer.save_pretrained(out)
    if train.start == "fetched" and (manifest := _fetched(data) / "manifest.json").exists():
        shutil.copyfile(manifest, out / "manifest.json")  # whose weights these were, and their licence
    write_json(out / "prunable.json", models.prunable_tensors(model))
    packed.write_buffers(loading.buffers(model), out)
    shutil.rmtree(work)


def encode(tokenizer, text: str) -> torch.Tensor:
    """(N,) int64 token ids of a whole text, without special tokens."""
    # verbose=False: a whole book is longer than the model's context on purpose.
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _start(settings, data: Path, seed: int):
    """The model and tokenizer that training starts from, and the dtype in which the result is stored.

    The model has fp32 weights whatever its file holds: in 16 bits most updates are smaller than half a step.
    """
    train = settings.train
    if train.start == "fetched":
        folder = _fetched(data)
        stored = stored_dtype(weight_files(folder))
        return loading.of_folder(folder, torch.float32), loading.tokenizer_of(folder, folder), stored
    # The alphabet of all three parts: a letter that only a held-out play has must not be an unknown token.
    tokenizer = character_tokenizer(
        "".join(read_text(data / "text" / f"{part}.txt") for part in ("test", "train", "validation"))
    )
    set_seed(seed)
    model = models.build(train.architecture, train.config, vocab_size=len(tokenizer))
    _require_same_tokens(model, tokenizer)
    return model, tokenizer, torch.float32


def _require_same_tokens(model, tokenizer) -> None:
    """Raises InputError where everybody who loads the trained folder would read its texts as other tokens.

    For some architectures the library takes a tokenizer class of theirs whatever the folder says: Qwen2's, say, leaves
    blanks out.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = loading.tokenizer_of(folder, "train.tokenizer")
    letters = "".join(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    text = f"{letters} \n {letters[::-1]}"
    if loaded(text)["input_ids"] != tokenizer(text)["input_ids"] or len(loaded) != len(tokenizer):
        raise InputError(
            f"train.architecture: {model.config.model_type!r} cannot have a tokenizer of characters: transformers "
            f"loads every such folder with its {type(loaded).__name__}, which reads a text as other tokens; take "
            "another, such as llama or mistral"
        )


def _fetched(data: Path) -> Path:
    folder = data / "model"
    if not folder.is_dir():
        raise InputError("train.start: fetched, but fetch.model brought no model; set fetch.model")
    return folder


def _trainer(train, model, tokens, work: Path, seed: int, callbacks):
    windows = TrainingWindows(
        tokens["train"], train.context, train.epochs, train.windows_per_epoch, train.batch_size, seed
    )
    steps_per_epoch = windows.steps_per_epoch
    tracker = train.tracker
    steps_per_tick = tracker.every * (steps_per_epoch if tracker.tick == "epoch" else 1)
    history = WeightHistory(
        model,
        [tensor["name"] for tensor in models.prunable_tensors(model)],
        value=tracker.value,
        weighting=tracker.weighting,
        beta=tracker.beta,
        window=tracker.window,
        total_ticks=train.epochs * steps_per_epoch // steps_per_tick,
        trajectories=tracker.trajectories,
        seed=seed,
    )
    evaluate_every = min(train.evaluate_every_epochs, train.epochs) * steps_per_epoch
    arguments = TrainingArguments(
        output_dir=str(work),
        train_sampling_strategy="sequential",
        num_train_epochs=1,  # the windows are one long sequence; our epochs are parts of it
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
        train_dataset=windows,
        eval_dataset=validation_windows(tokens["validation"], train.context, train.validation_windows),
        callbacks=[*callbacks, *stopping, WeightHistoryCallback(history, "steps", steps_per_tick)],
        progress=Progress(train.epochs * steps_per_epoch, train.batch_size * train.context, steps_per_epoch),
    )
    return trainer, history


def _in_bf16(train) -> bool:
    return train.precision == "bf16" or (train.precision == "auto" and models.computes_bf16())


def _fingerprint(train, seed: int, data: Path, callbacks) -> str:
    """A name for the run that changes with everything that decides its result."""
    decisive = [train.model_dump(), seed, torch.__version__, transformers.__version__, _in_bf16(train)]
    decisive += [getattr(callback, "decisive", None) for callback in callbacks]
    # The test text too: its letters are in the alphabet.
    read = [data / "text" / f"{part}.txt" for part in ("train", "validation", "test")]
    if train.start == "fetched":
        read += sorted(path for path in _fetched(data).iterdir() if path.is_file() and path.name != "manifest.json")
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

    folder.mkdir()
    metadata = {"options": json.dumps(history.options())}
    save_file(history.importance(), folder / "importance.safetensors", metadata)
    # Whole: what was not trained is no average of anything, but belongs to the clone.
    whole = {**_state(trainer.model), **history.average()}
    save_file(whole, folder / "average.safetensors", metadata)
    kinds = {"tick": pa.int32(), "step": pa.int64(), "tensor": pa.string(), "index": pa.int64(), "value": pa.float32()}
    rows = pa.Table.from_pylist(history.trajectories(), pa.schema(kinds.items()))
    pq.write_table(rows, folder / "trajectories.parquet")
    with open(folder / "curve.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CURVE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve(trainer))


def curve(trainer: Trainer) -> list[dict]:
    """One row an evaluation: `step, epoch, tick, train_loss` (mean since the row before), `validation_loss`,
    `learning_rate`; losses in nats a token."""
    windows = trainer.train_dataset
    steps_per_tick = next(c.every for c in trainer.callback_handler.callbacks if isinstance(c, WeightHistoryCallback))
    rows: dict[int, dict] = {}
    for entry in trainer.state.log_history:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row["epoch"] = entry["step"] / windows.steps_per_epoch
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
    best = loading.of_folder(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.best_global_step}", stored)
    save_file(_state(best), folder / WEIGHTS, {"format": "pt"})
    write_json(
        folder / "best.json", {"step": trainer.state.best_global_step, "validation_loss": trainer.state.best_metric}
    )
