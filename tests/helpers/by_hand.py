"""What a model holds and computes, looked up by hand: the plain side of architecture_checks.py.

Layers come from `named_modules`, ranks from a stable sort, models from `from_pretrained`: nothing here goes through the
code that is tested.
"""

import copy
import re
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.helpers import zoo

TIED = 1e-4  # scores nearer than this may be ranked either way: they were summed in another order
PROBE = torch.randint(20, (2, 3 * zoo.WINDOW), generator=torch.Generator().manual_seed(3))


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def linears(model) -> dict[str, torch.nn.Module]:
    """The linear layers inside the decoder blocks: those with a number in their name."""
    return {
        name: module
        for name, module in model.named_modules()
        if re.search(r"\.\d+\.", name) and (isinstance(module, torch.nn.Linear) or _transposed(module))
    }


def _transposed(module) -> bool:
    return type(module).__name__ == "Conv1D"


def rows(module, tensor: torch.Tensor | None = None) -> torch.Tensor:
    """(out, in), of its weight or of a tensor in the weight's shape."""
    tensor = module.weight.detach() if tensor is None else tensor
    return tensor.T if _transposed(module) else tensor


def inputs_of(model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What reaches every linear layer, sample by sample, by the layer's name: (tokens, in)."""
    found: dict[str, list] = {name: [] for name in linears(model)}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: found[name].append(args[0].detach().flatten(0, -2)))
        for name, module in linears(model).items()
    ]
    with torch.no_grad():
        for sample in tokens:
            model(input_ids=sample[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.no_grad()
def logits(model, ids=PROBE) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def exactly(model) -> torch.Tensor:
    """Its logits in float64, in which sums over fewer terms don't differ; in fp32 where the class knows no float64."""
    if model.config.model_type == "xglm":
        return logits(model)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # products of groups of tokens know no float64
    return logits(model.double())


def same(found: dict, expected: dict, what: str) -> None:
    """Every parameter, to the bit."""
    assert found.keys() == expected.keys(), f"{what}: names {sorted(found.keys() ^ expected.keys())[:3]} differ"
    apart = [name for name in found if not torch.equal(found[name], expected[name])]
    assert not apart, f"{what}: {len(apart)} of {len(found)} parameters differ, such as {apart[0]}"


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    apart = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    assert apart <= tolerance, f"{what}: {apart:.1e} apart"


def lowest_are_gone(keep: torch.Tensor, scores: torch.Tensor, what: str) -> None:
    """Of every row of `scores` exactly half is gone, and what is gone ranks below what is kept."""
    removed = (~keep).sum(1)
    assert (removed == round(scores.shape[1] / 2)).all(), f"{what}: rows lose {removed.unique().tolist()}"
    highest = scores.masked_fill(keep, -1).amax(1)
    least = scores.masked_fill(~keep, torch.inf).amin(1)
    assert (highest <= least * (1 + TIED)).all(), f"{what}: a weight is kept that ranks below one that is gone"


def halved(values: dict, model, ranked: dict | None = None) -> dict:
    """`values` with the half of every linear layer at zero that `ranked` (default: the values) ranks lowest by |w|."""
    found = dict(values)
    for name in (f"{layer}.weight" for layer in linears(model)):
        order = (ranked or values)[name].abs().flatten().argsort(stable=True)
        flat = values[name].flatten().clone()
        flat[order[: round(0.5 * len(order))]] = 0
        found[name] = flat.view_as(values[name])
    return found


def gradients(model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Σ |W·dL/dW| over samples of every linear layer, by its name."""
    model = copy.deepcopy(model)
    found = {name: torch.zeros_like(layer.weight) for name, layer in linears(model).items()}
    for sample in tokens:
        model.zero_grad()
        model(input_ids=sample[None], labels=sample[None], use_cache=False).loss.backward()
        for name, layer in linears(model).items():
            found[name] += (layer.weight * layer.weight.grad).detach().abs()
    return found


def library(folder: Path):
    """The model of a plain folder as any user loads it, and its parameters."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    wrong = {key: found for key, found in told.items() if key.endswith("_keys") and found}
    assert not wrong, f"{folder} loads with {wrong}"
    return model.eval(), parameters(model)


def without(values: dict, record: dict) -> dict:
    """`values` without the blocks that `record` says are removed, the others numbered anew."""
    gone, kept = record["structure"]["blocks_removed"], {}
    for name, tensor in values.items():
        if number := re.search(r"\.(\d+)\.", name):
            if (index := int(number[1])) in gone:
                continue
            name = name.replace(number[0], f".{index - sum(one < index for one in gone)}.", 1)
        kept[name] = tensor
    return kept


def blocks(model) -> dict[str, torch.nn.Module]:
    """The decoder blocks by their names: what ends in a number and holds linear layers."""
    return {
        name: module
        for name, module in model.named_modules()
        if re.fullmatch(r"[a-z_.]+\.\d+", name)
        and any(isinstance(inner, torch.nn.Linear) or _transposed(inner) for inner in module.modules())
    }


def _entered(args: tuple, kwargs: dict) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def changes(model, tokens: torch.Tensor) -> dict[str, float]:
    """How much every block changes its hidden states: Σ over tokens of 1 - the cosine of what enters and leaves it."""
    found = dict.fromkeys(blocks(model), 0.0)

    def watch(name):
        def hook(_, args, kwargs, output):
            left = output[0] if isinstance(output, tuple) else output
            found[name] += float(
                (1 - functional.cosine_similarity(_entered(args, kwargs), left, dim=-1)).double().sum()
            )

        return hook

    hooks = [block.register_forward_hook(watch(n), with_kwargs=True) for n, block in blocks(model).items()]
    for sample in tokens:
        logits(model, sample[None])
    for hook in hooks:
        hook.remove()
    return found


def pass_by(block) -> None:
    """From now on what enters `block` leaves it."""

    def entered(_, args, kwargs, output):
        return (_entered(args, kwargs), *output[1:]) if isinstance(output, tuple) else _entered(args, kwargs)

    block.register_forward_hook(entered, with_kwargs=True)


def a_third_of(model, attention: bool) -> int:
    """Percent: nearly a third of what the linear layers of all attentions, or all others, are of the linear layers."""
    sizes = {name: layer.weight.numel() for name, layer in linears(model).items()}
    chosen = sum(size for name, size in sizes.items() if ("attention" in name or "attn" in name) == attention)
    return max(1, round(30 * chosen / sum(sizes.values())))


def loss(model, windows: torch.Tensor) -> float:
    found = logits(model, windows)[:, :-1].flatten(0, 1)
    return float(functional.cross_entropy(found, windows[:, 1:].flatten()))


def macs(model, seen: int) -> int:
    """Linear layers, experts a token, and attention over `seen` tokens or the window."""
    config = model.config
    macs = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) or _transposed(m))
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    windows = getattr(config, "layer_types", None)
    if windows is None:
        everywhere = getattr(config, "sliding_window", None)
        windows = ["sliding_attention" if everywhere else "full_attention"] * config.num_hidden_layers
    for kind in windows:
        keys = min(seen, config.sliding_window) if kind == "sliding_attention" else seen
        macs += 2 * heads * size * keys
    used = getattr(config, "num_experts_per_tok", 0)
    for module in model.modules():
        experts = [p for _, p in module.named_parameters(recurse=False) if p.dim() == 3]
        macs += sum(used * p.shape[1] * p.shape[2] for p in experts)
        if type(module).__name__.endswith("Router"):
            macs += module.weight.numel()
    return macs
