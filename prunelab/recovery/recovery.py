"""Fine-tune a pruned model so that it regains what pruning cost, without undoing the pruning.

- A sparse variant keeps its mask: gradients of removed weights are dropped and the weights are set to zero again after
  every optimizer step, because weight decay and Adam's momentum move also what has no gradient.
- `teacher`: KL(dense || variant) of the next-token distributions, in nats a token; `data`: the text's own next token.
  Where examples say which tokens are learned (labels), both are of these alone.
- `lora`: low-rank updates of the prunable layers (peft), merged into the weights at the end. Not for sparse variants,
  whose zeros a merge would fill.
- Retraining is the same with the training's own objective, and keeps the moment of the lowest validation loss, the
  beginning included, so it ends no worse on validation than it began.
"""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from prunelab.calibration.samples import Samples, inputs, with_labels
from prunelab.disk.files import read_json, whole_directory, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, models, packed
from prunelab.models.packed import copy_companions
from prunelab.models.tensors import identity
from prunelab.recipes.variants import DENSE
from prunelab.training.progress import Progress

WARMUP_SHARE = 0.05
LAST_RATE_SHARE = 0.1  # of the learning rate is left at the end of the cosine
MAX_GRAD_NORM = 1.0
BETA1 = 0.9  # of AdamW
IGNORED = -100  # what transformers leaves out of a loss


class Lessons(NamedTuple):
    """What is learned: dicts of tensors by which a model is called, as calibration/samples.py describes them."""

    batches: Any  # one an optimizer step, in their order: an iterable with a length, which begins anew each time
    validation: list[Samples]  # batches, scored before and after
    tokens_per_step: int

    def first(self, steps: int) -> "Lessons":
        """The same with the first `steps` batches alone."""
        return self._replace(batches=First(self.batches, steps))


class First:
    """The first `count` of some batches, or all where there are fewer."""

    def __init__(self, batches, count: int):
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return min(len(self.batches), self.count)

    def __iter__(self) -> Iterator[Samples]:
        return itertools.islice(self.batches, self.count)


class Plan(NamedTuple):
    """All that decides a recovery besides model and lessons; each field is logged in sparsity.json."""

    tokens: int  # of training, rounded up to whole batches
    source: str  # data | teacher
    parameters: str  # full | lora
    lora_rank: int
    learning_rate: float
    weight_decay: float
    batch_size: int  # windows, or examples
    context: int  # tokens a window
    seed: int
    beta2: float = 0.999  # of AdamW
    evaluate_every: int | None = (
        None  # steps between two looks at validation, of which the best is kept; None: the last
    )


def recover(variant, dense, out, name: str, plan: Plan, lessons: Lessons) -> dict:
    """Fine-tune the model in folder `variant` and write it, in the same format, into `out` under the id `name`.

    Returns what the new record says: sparsity.json, or of an unpruned model control.json. Raises InputError for a loss
    that is not finite and for LoRA on a mask.
    """
    variant = Path(variant)
    record, file = _record(variant, dense)
    masks = dict(packed.masks_of(variant)) if packed.is_packed(variant) else {}
    if masks and plan.parameters == "lora":
        raise InputError(f"{name}: lora would fill the zeros of a sparse variant; set recover.parameters: full")
    model = checkpoint.load(variant)
    dtype, device = model.dtype, "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device, torch.float32)  # small updates vanish in 16 bits
    teacher = checkpoint.load(dense).to(device) if plan.source == "teacher" else None
    start, before = time.perf_counter(), loss(model, lessons.validation)
    best = Best(model, lessons.validation) if plan.evaluate_every else None
    curve = _train(model, masks, teacher, plan, lessons, name, best)
    after = loss(model, lessons.validation)
    facts = {
        **plan._asdict(),
        "from": record["variant"],
        "steps": len(lessons.batches),
        "tokens": len(lessons.batches) * lessons.tokens_per_step,
        "validation_loss_before": before,
        "validation_loss_after": after,
        "seconds": time.perf_counter() - start,
        "curve": curve,
    }
    if best:
        facts |= {"kept_step": best.step, "validation_curve": best.curve}
    model.to("cpu", dtype)
    with whole_directory(out) as partial:
        copy_companions(variant, partial)
        record = record | {"variant": name, "recovery": facts} | checkpoint.write(model, masks, partial)
        write_json(partial / "prunable.json", _prunable(variant, Path(dense)))
        write_json(partial / file, record)
    return record


def _record(variant: Path, dense) -> tuple[dict, str]:
    """What is known of the model in folder `variant`, and the file's name; of the dense model itself little is."""
    name = "sparsity.json"
    if (variant / name).exists():
        return read_json(variant / name), name
    return {"variant": DENSE, "dense_sha256": identity(dense)}, "control.json"


class Best:
    """The weights of `model` at the moment of its lowest loss on `validation`, the beginning included."""

    def __init__(self, model, validation: list[Samples]):
        self.model, self.validation = model, validation
        self.loss, self.step = math.inf, 0
        self.curve: list[dict] = []  # rows `step, validation_loss`, nats a token
        self._weights: dict[str, torch.Tensor] = {}

    def look(self, step: int) -> None:
        """Score the weights that `step` optimizer steps have made, and keep them where none before were better."""
        trains = self.model.training
        self.model.eval()
        value = loss(self.model, self.validation)
        self.model.train(trains)
        self.curve.append({"step": step, "validation_loss": value})
        if value < self.loss:
            self.loss, self.step = value, step
            self._weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def restore(self) -> None:
        """Give the model the best weights back."""
        if self._weights:  # none where every loss was not finite
            self.model.load_state_dict(self._weights)


def _prunable(variant: Path, dense: Path) -> list[dict]:
    """The prunable tensors of a variant: those of its dense model, unless its structure is another."""
    own = variant / "prunable.json"
    return read_json(own if own.exists() else dense / own.name)


def _train(
    model, masks: dict, teacher, plan: Plan, lessons: Lessons, name: str, best: Best | None = None
) -> list[dict]:
    """Train `model` in place; rows `tokens, loss, learning_rate` of about 20 evenly spaced steps.

    best: looks at the model every `plan.evaluate_every` steps, and decides which weights it ends with.
    """
    steps, per_step = len(lessons.batches), lessons.tokens_per_step
    torch.manual_seed(plan.seed)  # dropout draws from it
    trained = _low_rank(model, plan) if plan.parameters == "lora" else model
    trained.train()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]  # norms and biases are not decayed
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(BETA1, plan.beta2))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    named = dict(model.named_parameters()) if masks else {}
    masked = [(named[tensor], mask.to(named[tensor].device)) for tensor, mask in masks.items()]
    bf16 = models.computes_bf16()
    curve, every = [], max(1, steps // 20)
    progress = Progress(steps, per_step, name=name)
    if best:
        best.look(0)
    for step, batch in enumerate(lessons.batches, start=1):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            value = _loss(trained, teacher, batch)
        if not torch.isfinite(value):
            raise InputError(
                f"{name}: recovery step {step}: the loss is {value.item()}; nothing was written; lower "
                "recover.learning_rate"
            )
        value.backward()
        for parameter, mask in masked:
            if parameter.grad is not None:  # a vision tower's last layer, say, may be read by nothing
                parameter.grad.masked_fill_(~mask, 0)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        enforce(masked)
        rate = schedule.get_last_lr()[0]
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % every == 0 or step == steps:
            curve.append({"tokens": step * per_step, "loss": value.item(), "learning_rate": rate})
        progress.step(step, value.item())
        if best and (step % plan.evaluate_every == 0 or step == steps):
            best.look(step)
    progress.close()
    if best:
        best.restore()
    if trained is not model:
        trained.merge_and_unload()
    model.eval()
    return curve


@torch.no_grad()
def enforce(masked: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the removed weights (False in their mask) of every (weight, mask) to zero, in place."""
    for weight, mask in masked:
        weight.masked_fill_(~mask, 0)


def rate_at(step: int, steps: int) -> float:
    """The learning rate's factor at `step` (0-based): a linear warm-up, then a cosine down to LAST_RATE_SHARE."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * (1 + math.cos(math.pi * done)) / 2


def _loss(model, teacher, batch: Samples) -> torch.Tensor:
    """Nats a token: against the batch's own next tokens, or against the teacher's distribution."""
    device = next(model.parameters()).device
    if teacher is None:
        return model(**with_labels(batch, device), use_cache=False).loss
    shown, learned = inputs(batch, device), _learned(batch)
    logits = model(**shown, use_cache=False).logits.float()[learned]
    with torch.no_grad():
        wanted = teacher(**shown, use_cache=False).logits.float()[learned]
    logits, wanted = logits.flatten(0, -2), wanted.flatten(0, -2)
    return functional.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True)


def _learned(batch: Samples):
    """Which places of (samples, length) have a next token that is learned; all of a text without labels."""
    if "labels" not in batch:
        return ...
    return functional.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))


@torch.inference_mode()
def loss(model, batches: list[Samples]) -> float:
    """Mean nats a token of `model`, by batch, weighed by how many samples each has."""
    total = count = 0
    for batch in batches:
        total += _loss(model, None, batch).item() * len(batch["input_ids"])
        count += len(batch["input_ids"])
    return total / count


def _low_rank(model, plan: Plan):
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("recover.parameters: lora needs peft: pip install -e '.[recovery]'") from None
    tensors = models.prunable_tensors(model)
    config = LoraConfig(
        r=plan.lora_rank,
        lora_alpha=2 * plan.lora_rank,
        target_modules=[tensor["name"].removesuffix(".weight") for tensor in tensors],
        fan_in_fan_out=any(tensor["transposed"] for tensor in tensors),
    )
    return get_peft_model(model, config)
