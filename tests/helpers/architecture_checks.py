"""Plain references for docs/architectures.md: what prunelab makes of a model, against the same done by hand.

A check gets a `Case`: a dense folder and the model in memory that it is meant to be, which never was on a disk. It
returns when all is equal, raises AssertionError when something is not, and lets InputError (a refusal) pass. What it is
compared with comes from by_hand.py, which uses nothing of the code that is tested.
"""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from prunelab import quantised as quantising
from prunelab import tasks
from prunelab.calibration.calibration import Calibration
from prunelab.disk.files import read_json, whole_directory
from prunelab.efficiency import memory
from prunelab.making import steps
from prunelab.making.given import Given
from prunelab.models import checkpoint, onnx
from prunelab.models.tensors import identity
from prunelab.pruning import pruning, streaming
from prunelab.quantised import files, opening
from prunelab.recipes import variants
from prunelab.recovery import recovery
from prunelab.structure import removal
from prunelab.tasks.language import lessons, windows
from tests.helpers import by_hand, plain, zoo
from tests.helpers.by_hand import (
    PROBE,
    TIED,
    close,
    exactly,
    halved,
    inputs_of,
    linears,
    logits,
    parameters,
    rows,
    same,
)

CLOSE = 1e-5  # of logits and averages in fp32, relative to the largest
SPARSEGPT_CLOSE = 1e-4  # of rewritten weights, relative to the largest
QUANTISED_CLOSE = {"int8": 0.05, "int4": 0.3}  # of a token's logits, by norm: the error of rounding itself
ONNX_CLOSE = 1e-3  # of logits, relative to the largest
TRAINED_CLOSE = 1e-5  # of the losses of evaluations
RECOVERY_CLOSE = 1e-4  # of the loss after a few steps


class Case(NamedTuple):
    """One model on its way through the stages, in the current folder."""

    name: str  # in zoo.ARCHITECTURES
    full: torch.nn.Module  # what the dense folder must hold; not to be changed
    settings: object
    dense: Path
    data: Path
    seed: int
    ticks: list[dict]  # of a model trained here: its parameters at every tick
    evaluations: list[tuple[float, dict]]  # and at every evaluation, with the loss


def dense(case: Case) -> None:
    """The dense folder holds the model, for this package and for anybody, and names what can be pruned."""
    for loaded in (checkpoint.load(case.dense), AutoModelForCausalLM.from_pretrained(case.dense)):
        same(parameters(loaded), parameters(case.full), "dense")
        close(logits(loaded.eval()), logits(case.full), 1e-6, "dense logits")
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(loaded.config, token) is None, f"dense: {token} is {getattr(loaded.config, token)}"
    named = {entry["name"] for entry in read_json(case.dense / "prunable.json")}
    assert named == {f"{name}.weight" for name in linears(case.full)}, "prunable.json names other layers"


def trained(case: Case) -> None:
    """What was trained here is what a plain loop over the same windows trains, by the losses of every evaluation."""
    wanted = case.settings.train
    windows, held_out = _windows(case)
    architecture, config = zoo.ARCHITECTURES[case.name]
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(architecture, **config, vocab_size=case.full.config.vocab_size, **special)
    set_seed(case.seed)
    model = AutoModelForCausalLM.from_config(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=wanted.learning_rate, betas=(0.9, wanted.beta2), weight_decay=0.0
    )
    batches = torch.stack([windows[i]["input_ids"] for i in range(len(windows))]).split(wanted.batch_size)
    losses = []
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), wanted.max_grad_norm)
        optimizer.step()
        if step % windows.steps_per_epoch == 0:
            losses.append(by_hand.loss(model.eval(), held_out))
            model.train()
    told = [loss for loss, _ in case.evaluations]
    close(torch.tensor(told), torch.tensor(losses), TRAINED_CLOSE, f"training: losses {told}, of a plain loop {losses}")


def _windows(case: Case):
    """The windows of the run in order, and (windows, context) token ids of the validation text, a token a letter.

    Whoever loads the folder must read the same tokens from the text as training did.
    """
    wanted = case.settings.train
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (case.data / "text").glob("*.txt")}
    alphabet = sorted(set("".join(texts.values())))
    tokens = {part: [alphabet.index(letter) for letter in text] for part, text in texts.items()}
    read = AutoTokenizer.from_pretrained(case.dense)(texts["validation"], add_special_tokens=False)["input_ids"]
    assert read == tokens["validation"], "training: the folder's tokenizer reads other tokens than training saw"
    in_order = windows.TrainingWindows(
        torch.tensor(tokens["train"]),
        wanted.context, wanted.epochs, wanted.windows_per_epoch, wanted.batch_size, case.seed,
    )  # fmt: skip
    held_out = windows.validation_windows(torch.tensor(tokens["validation"]), wanted.context, wanted.validation_windows)
    return in_order, torch.stack([window["input_ids"] for window in held_out])


def masks(case: Case) -> None:
    """Half of every linear layer by magnitude, ties by index; nothing else changes, and the counts are the model's."""
    record = _pruned(case, "magnitude-50")
    expected = halved(parameters(case.full), case.full)
    same(parameters(checkpoint.load("models/magnitude-50")), expected, "magnitude-50")
    counts = {
        "parameters": sum(tensor.numel() for tensor in expected.values()),
        "nonzero_parameters": sum(int(tensor.count_nonzero()) for tensor in expected.values()),
        "scope_parameters": sum(module.weight.numel() for module in linears(case.full).values()),
    }
    assert counts == {key: record[key] for key in counts}, f"sparsity.json is not {counts}"


def _pruned(case: Case, identifier: str, which: str = "last", seen=None) -> dict:
    plan = pruning.Plan(variants.parse(identifier), "uniform", "blocks", which, 1)
    return pruning.prune(case.dense, f"models/{identifier}", plan, seen)


def calibrated(case: Case) -> None:
    """wanda, taylor and sparsegpt at 50 % from statistics of the dense model, against the whole model with hooks."""
    seen = calibrate(case, ["wanda", "taylor", "sparsegpt"])
    tokens, layers, before = seen.samples()["input_ids"], linears(case.full), parameters(case.full)
    inputs, first_order = inputs_of(case.full, tokens), by_hand.gradients(case.full, tokens)
    for identifier in ("wanda-50", "taylor-50", "sparsegpt-50"):
        _pruned(case, identifier, seen=seen)
        after = parameters(checkpoint.load(f"models/{identifier}"))
        outside = {name: tensor for name, tensor in after.items() if name.removesuffix(".weight") not in layers}
        same(outside, {name: before[name] for name in outside}, identifier)
        for name, layer in layers.items():
            found, old = rows(layer, after[f"{name}.weight"]), rows(layer)
            if identifier == "sparsegpt-50":
                x = inputs[name].double()
                expected, _ = plain.sparsegpt(old, 2 / len(x) * x.T @ x, 0.5)
                close(found, expected, SPARSEGPT_CLOSE, f"{identifier}: {name}")
                continue
            keep = found != 0
            assert torch.equal(found, old.where(keep, 0)), f"{identifier}: {name} has other values"
            if identifier == "wanda-50":
                scores = old.abs().double() * inputs[name].double().pow(2).sum(0).sqrt()
                by_hand.lowest_are_gone(keep, scores, f"{identifier}: {name}")
            else:
                scores = rows(layer, first_order[name])
                by_hand.lowest_are_gone(keep.reshape(1, -1), scores.reshape(1, -1), f"{identifier}: {name}")


def calibrate(case: Case, methods: list[str]) -> Calibration:
    """The calibration folder of a study with these methods, as the stage writes it."""
    prune = case.settings.prune.model_copy(update={"methods": methods})
    folder = Path("models/calibration-" + "-".join(methods))
    if folder.exists():
        return Calibration(folder)
    folder.mkdir()
    settings, task = case.settings.model_copy(update={"prune": prune}), tasks.of(case.settings.task)
    samples, about = task.samples(settings, case.dense, case.data, 5)
    streaming.calibrate(settings, case.dense, samples, about, folder, seed=5)
    return Calibration(folder)


def averaged(case: Case) -> None:
    """The control dense-average and average-magnitude-50: every parameter is Σ e·w(e) / Σ e over the ticks e."""
    weights = torch.arange(1, len(case.ticks) + 1).double()
    mean = {
        name: (torch.stack([tick[name].double() for tick in case.ticks], -1) @ (weights / weights.sum())).float()
        for name in case.ticks[0]
    }
    clone = parameters(_control(case, "dense-average"))
    _pruned(case, "average-magnitude-50")
    pruned = parameters(checkpoint.load("models/average-magnitude-50"))
    expected = halved(mean, case.full, ranked=parameters(case.full))
    for found, wanted, what in ((clone, mean, "dense-average"), (pruned, expected, "average-magnitude-50")):
        assert found.keys() == wanted.keys(), f"{what}: names {sorted(found.keys() ^ wanted.keys())[:3]} differ"
        for name in found:
            close(found[name], wanted[name], CLOSE, f"{what}: {name}")
    zeros = {name: tensor == 0 for name, tensor in pruned.items() if name.removesuffix(".weight") in linears(case.full)}
    same(zeros, {name: expected[name] == 0 for name in zeros}, "average-magnitude-50")


def _control(case: Case, identifier: str):
    """The model of a control, from the plain folder that is written of it."""
    given = Given(case.settings, "s1", case.dense)
    steps.unpruned(given, variants.parse(identifier), Path("models") / identifier)
    return checkpoint.load(Path("models") / identifier)


def best(case: Case) -> None:
    """The control dense-best, and masks and depth of `prune.checkpoint: best`: the weights at the best evaluation."""
    losses = [loss for loss, _ in case.evaluations]
    wanted = case.evaluations[losses.index(min(losses))][1]
    assert not all(torch.equal(wanted[n], p) for n, p in parameters(case.full).items()), "best is last: shows nothing"
    same(parameters(_control(case, "dense-best")), wanted, "dense-best")
    _pruned(case, "magnitude-50", which="best")
    same(parameters(checkpoint.load("models/magnitude-50")), halved(wanted, case.full), "magnitude-50 of best")
    record = _removed(case, "depth-random-50", which="best")
    same(by_hand.library(Path("models/depth-random-50"))[1], by_hand.without(wanted, record), "depth-random-50 of best")


def _removed(case: Case, identifier: str, seen=None, which: str = "last") -> dict:
    return removal.remove(
        case.dense, f"models/{identifier}", removal.Plan(variants.parse(identifier), 4, which, 1), seen
    )


def depth(case: Case) -> None:
    """A block that changes its hidden states least is gone: the model computes what one does that passes it by."""
    seen = calibrate(case, ["magnitude"])
    record = _removed(case, "depth-50", seen)
    (gone,) = record["structure"]["blocks_removed"]
    full = copy.deepcopy(case.full)
    blocks, changes = by_hand.blocks(full), by_hand.changes(full, seen.samples()["input_ids"])
    name = next(name for name in blocks if name.endswith(f".{gone}"))
    assert changes[name] <= min(changes.values()) * (1 + TIED), f"depth-50: another block than {name} changes least"
    by_hand.pass_by(blocks[name])
    small, found = by_hand.library(Path("models/depth-50"))
    same(found, by_hand.without(parameters(case.full), record), "depth-50")
    close(exactly(small), exactly(full), CLOSE, "depth-50 logits")


def mlp_width(case: Case) -> None:
    _narrowed(case, f"mlp-width-{by_hand.a_third_of(case.full, attention=False)}", units=None)


def head_width(case: Case) -> None:
    config = case.full.config
    units = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    _narrowed(case, f"head-width-{by_hand.a_third_of(case.full, attention=True)}", units)


def _narrowed(case: Case, identifier: str, units: int | None) -> None:
    """The smaller model is the full one in which the removed inputs of a layer are at zero, or at their mean (FLAP).

    Which layers, and which of their inputs, is read off the smaller model's own weights: they are columns of the full
    one's. units: of how many units the inputs are made; None: each is one.
    """
    seen = calibrate(case, ["magnitude"])
    record = _removed(case, identifier, seen)
    full, (small, _) = copy.deepcopy(case.full), by_hand.library(Path(f"models/{identifier}"))
    inputs, mean = (
        inputs_of(case.full, seen.samples()["input_ids"]),
        not record["structure"]["bias_compensation"].startswith("none"),
    )
    layers, narrow = linears(full), linears(small)
    assert layers.keys() == narrow.keys(), f"{identifier}: other layers"
    readers = [name for name in layers if rows(narrow[name]).shape[1] < rows(layers[name]).shape[1]]
    assert len(readers) == 2, f"{identifier}: one layer a block reads fewer units, found {readers}"
    for name in readers:
        whole, part, x = rows(layers[name]).float(), rows(narrow[name]), inputs[name].double()
        equal = (whole[:, :, None] == part[:, None, :]).all(0)  # (in, in of the smaller one)
        assert (equal.sum(0) == 1).all(), f"{identifier}: {name} has columns that the dense model has not"
        keep = equal.any(1)
        importance = (x.var(0, correction=0) * whole.double().pow(2).sum(0)).view(units or len(keep), -1).sum(1)
        kept = keep.view(units or len(keep), -1)
        assert (kept == kept[:, :1]).all(), f"{identifier}: {name} keeps a part of a group"
        kept = kept[:, 0]
        assert importance[~kept].max() <= importance[kept].min() * (1 + TIED), f"{identifier}: {name}: lower units stay"
        put = x.mean(0) if mean else torch.zeros_like(x[0])
        layers[name].register_forward_pre_hook(
            lambda _, args, keep=keep, put=put: (args[0].where(keep, put.to(args[0])),)
        )
    close(exactly(small), exactly(full), CLOSE, f"{identifier} logits")
    left = sum(layer.weight.numel() for layer in narrow.values()) / sum(m.weight.numel() for m in layers.values())
    assert abs(record["sparsity_pruned"] - (1 - left)) < 1e-9, f"{identifier}: sparsity.json is not {1 - left}"


def quantised(case: Case) -> None:
    """Quantised models from their folders compute what they compute in memory, to the bit, and about what fp32 does."""
    wanted = logits(case.full)
    for precision, close_to in QUANTISED_CLOSE.items():
        out = Path(f"models/dense-{precision}")
        with whole_directory(out) as partial:
            facts = files.write(
                checkpoint.load(case.dense), case.dense, partial, out.name, identity(case.dense), precision=precision
            )
        again, memory_ = opening.load(out), checkpoint.load(case.dense)
        quantising.quantise(memory_, precision)
        found = logits(again)
        assert torch.equal(found, logits(memory_)), f"{precision}: the folder computes something else"
        # The median token: a model of random experts sends some to others for the least of differences.
        apart = float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).median())
        assert 0 < apart <= close_to, f"{precision}: logits {apart:.1%} from fp32's"
        least = len(linears(case.full))
        assert facts["layers"] >= least, f"{precision}: {facts['layers']} of {least} layers and more"


def exported(case: Case) -> None:
    """The ONNX file's logits for a prompt longer than any window, and for pieces of several lengths behind a past."""
    path, small = Path("models/model.onnx"), Path("models/depth-50")
    folder, full = case.dense, case.full
    alike = not any(isinstance(value, list) for value in zoo.ARCHITECTURES[case.name][1].values())
    if alike and small.exists():  # one block of equal ones: it is exported in half the time
        folder, (full, _) = small, by_hand.library(small)
    onnx.export(checkpoint.load(folder, torch.float32), path)
    session = onnx.Session(path, full.config)
    wanted = logits(full)
    close(session(input_ids=PROBE).logits, wanted, ONNX_CLOSE, "onnx: a whole prompt")
    past, parts = None, []
    for piece in PROBE.split([3, 1, zoo.WINDOW + 3, 1, PROBE.shape[1] - zoo.WINDOW - 8], dim=1):
        out = session(input_ids=piece, past_key_values=past)
        past = out.past_key_values
        parts.append(out.logits)
    close(torch.cat(parts, 1), wanted, ONNX_CLOSE, "onnx: piece by piece")


def recovered(case: Case) -> None:
    """A masked variant fine-tuned for a few steps: zeros stay, and the loss is that of a plain loop's model."""
    if not Path("models/magnitude-50").exists():
        _pruned(case, "magnitude-50")
    variant = Path("models/magnitude-50")
    generator = torch.Generator().manual_seed(2)
    train, held_out = (torch.randint(20, size, generator=generator) for size in ((600,), (8, 16)))
    plan = recovery.Plan(256, "teacher", "full", 8, 1e-3, 0.0, 4, 16, 1)
    taught = lessons.of_tokens(train, held_out, plan.tokens, plan.batch_size, plan.context, plan.seed)
    record = recovery.recover(variant, case.dense, "models/recovered", "magnitude-50-recovered", plan, taught)
    before, after = parameters(checkpoint.load(variant)), parameters(checkpoint.load("models/recovered"))
    for name in (f"{layer}.weight" for layer in linears(case.full)):
        assert ((after[name] == 0) | (before[name] != 0)).all(), f"recovery: {name} has weights where the mask has none"
        assert not torch.equal(after[name], before[name]), f"recovery: {name} was not trained"
    model = _fine_tuned(checkpoint.load(variant), case.full, plan, taught)
    reloaded = checkpoint.load("models/recovered")
    losses = [by_hand.loss(one, held_out) for one in (reloaded, model)]
    told = record["recovery"]["validation_loss_after"]
    for one, what in zip(losses, ("the folder's model", "a plain loop's model"), strict=True):
        assert abs(told / one - 1) <= RECOVERY_CLOSE, f"recovery: says loss {told}, {what} has {one}"


def _fine_tuned(model, teacher, plan, taught):
    zeros = [(parameter, parameter == 0) for name, parameter in model.named_parameters()
             if name.removesuffix(".weight") in linears(model)]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recovery.rate_at(step, len(taught.batches)))
    model.train()
    for batch in (batch["input_ids"] for batch in taught.batches):
        wanted = logits(teacher, batch).log_softmax(-1)
        found = model(input_ids=batch, use_cache=False).logits.log_softmax(-1)
        optimizer.zero_grad()
        (wanted.exp() * (wanted - found)).sum(-1).mean().backward()
        for parameter, gone in zeros:
            parameter.grad[gone] = 0
        torch.nn.utils.clip_grad_norm_(model.parameters(), recovery.MAX_GRAD_NORM)
        optimizer.step()
        rates.step()
    return model.eval()


def counted(case: Case) -> str | None:
    """The multiplications of one further token, by hand; returns why when they are unknown."""
    model = checkpoint.load(case.dense)
    told = memory.macs_per_token(model, PROBE[:1])
    if told is None:
        return "macs_per_token: unknown"
    expected = by_hand.macs(case.full, PROBE.shape[1] + 1)
    assert told == expected, f"macs_per_token: {told} where {expected} are needed"
    return None
