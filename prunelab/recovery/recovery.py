"""Fine-tune a pruned model so that it regains what pruning cost, without undoing the pruning.

- A sparse variant keeps its mask: gradients of removed weights are dropped and the weights are set to zero again after
  every optimizer step, because weight decay and Adam's momentum move also what has no gradient.
- `teacher`: KL(dense || variant) of the next-token distributions, in nats a token; `data`: the text's own next token.
- `lora`: low-rank updates of the prunable layers (peft), merged into the weights at the end. Not for sparse variants,
  whose zeros a merge would fill.
"""

import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from prunelab.disk.files import read_json, whole_directory, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, models, packed
from prunelab.models.packed import copy_companions
from prunelab.training.progress import Progress

WARMUP_SHARE = 0.05
LAST_RATE_SHARE = 0.1  # of the learning rate is left at the end of the cosine
MAX_GRAD_NORM = 1.0


class Plan(NamedTuple):
    """All that decides a recovery besides model and text; each field is logged in sparsity.json."""

    tokens: int  # of training text, rounded up to whole batches
    source: str  # data | teacher
    parameters: str  # full | lora
    lora_rank: int
    learning_rate: float
    weight_decay: float
    batch_size: int  # windows
    context: int  # tokens a window
    seed: int

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / (self.batch_size * self.context))


def recover(variant, dense, out, name: str, plan: Plan, train: torch.Tensor, validation: torch.Tensor) -> dict:
    """Fine-tune the model in folder `variant` and write it, in the same format, into `out` under the id `name`.

    train: (N,) token ids; validation: (windows, context) token ids, scored before and after. Returns what the new
    sparsity.json says. Raises InputError for a text that is too short, a loss that is not finite, LoRA on a mask.
    """
    variant = Path(variant)
    record = read_json(variant / "sparsity.json")
    masks = dict(packed.masks_of(variant)) if packed.is_packed(variant) else {}
    if masks and plan.parameters == "lora":
        raise InputError(f"{name}: lora would fill the zeros of a sparse variant; set recover.parameters: full")
    if len(train) < plan.context:
        raise InputError(f"{name}: train.context is {plan.context} tokens, the training text has {len(train)}")
    model = checkpoint.load(variant)
    dtype, device = model.dtype, "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device, torch.float32)  # small updates vanish in 16 bits
    teacher = checkpoint.load(dense).to(device) if plan.source == "teacher" else None
    start, before = time.perf_counter(), loss(model, validation)
    curve = _train(model, masks, teacher, plan, train, name)
    after = loss(model, validation)
    facts = {
        **plan._asdict(),
        "from": record["variant"],
        "steps": plan.steps,
        "tokens": plan.steps * plan.batch_size * plan.context,
        "validation_loss_before": before,
        "validation_loss_after": after,
        "seconds": time.perf_counter() - start,
        "curve": curve,
    }
    model.to("cpu", dtype)
    with whole_directory(out) as partial:
        copy_companions(variant, partial)
        record = record | {"variant": name, "recovery": facts} | checkpoint.write(model, masks, partial)
        write_json(partial / "prunable.json", models.prunable_tensors(model))
        write_json(partial / "sparsity.json", record)
    return record


def _train(model, masks: dict, teacher, plan: Plan, train: torch.Tensor, name: str) -> list[dict]:
    """Train `model` in place; rows `tokens, loss, learning_rate` of about 20 evenly spaced steps."""
    torch.manual_seed(plan.seed)  # dropout draws from it
    trained = _low_rank(model, plan) if plan.parameters == "lora" else model
    trained.train()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]  # norms and biases are not decayed
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, plan.steps))
    named = dict(model.named_parameters()) if masks else {}
    masked = [(named[tensor], mask.to(named[tensor].device)) for tensor, mask in masks.items()]
    bf16 = models.computes_bf16()
    curve, every = [], max(1, plan.steps // 20)
    progress = Progress(plan.steps, plan.batch_size * plan.context, name=name)
    for step, batch in enumerate(batches(train, plan), start=1):
        batch = batch.to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            value = _loss(trained, teacher, batch)
        if not torch.isfinite(value):
            raise InputError(
                f"{name}: recovery step {step}: the loss is {value.item()}; nothing was written; lower "
                "recover.learning_rate"
            )
        value.backward()
        for parameter, mask in masked:
            parameter.grad.masked_fill_(~mask, 0)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        enforce(masked)
        rate = schedule.get_last_lr()[0]
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % every == 0 or step == plan.steps:
            tokens = step * plan.batch_size * plan.context
            curve.append({"tokens": tokens, "loss": value.item(), "learning_rate": rate})
        progress.step(step, value.item())
    progress.close()
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


def batches(tokens: torch.Tensor, plan: Plan):
    """Seeded random crops of the text: `plan.steps` batches (batch_size, context) of token ids."""
    generator = torch.Generator().manual_seed(plan.seed)
    inside = torch.arange(plan.context)
    for _ in range(plan.steps):
        starts = torch.randint(len(tokens) - plan.context + 1, (plan.batch_size, 1), generator=generator)
        yield tokens[starts + inside]


def _loss(model, teacher, batch: torch.Tensor) -> torch.Tensor:
    """Nats a token: against the text, or against the teacher's distribution."""
    if teacher is None:
        return model(input_ids=batch, labels=batch, use_cache=False).loss
    logits = model(input_ids=batch, use_cache=False).logits.float().flatten(0, 1)
    with torch.no_grad():
        wanted = teacher(input_ids=batch, use_cache=False).logits.float().flatten(0, 1)
    return functional.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True)


@torch.inference_mode()
def loss(model, windows: torch.Tensor) -> float:
    """Mean nats a token of `model` on (windows, context) token ids, each window on its own."""
    total = 0.0
    for batch in windows.split(max(1, 4096 // windows.shape[1])):
        batch = batch.to(model.device)
        total += model(input_ids=batch, labels=batch, use_cache=False).loss.item() * len(batch)
    return total / len(windows)


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
