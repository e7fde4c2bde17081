"""Which weights belong together: the neurons of an MLP, the key/value groups of an attention, and how to cut them out.

A unit is what can be removed without touching anything else of the model:

- a neuron: its row in the first matrix (both rows of a gate/up pair), its bias, its column in the second;
- a group: a key/value head with all query heads that read it, and their columns in the output projection. Without
  grouped queries a group is a single head.

A removed unit is the same as one whose columns in the second matrix are zero, so the smaller model computes what the
masked one does. All blocks lose the same number of units: then the config of the architecture can still say it.
"""

from typing import NamedTuple

import torch

from prunelab.errors import InputError
from prunelab.models import composites, models

# (modules that make the units' activations, the module that reads them), by the names inside a block.
MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo
    (("w1", "w3"), "w2"),
    (("fc1",), "fc2"),  # OPT, Phi
    (("c_fc",), "c_proj"),  # GPT-2
    (("fc_in",), "fc_out"),  # GPT-J
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX
)
ATTENTIONS = ((("q_proj", "k_proj", "v_proj"), "o_proj"), (("q_proj", "k_proj", "v_proj"), "out_proj"))
WIDTH_KEYS = ("intermediate_size", "ffn_dim", "n_inner")  # where a config says how many neurons an MLP has


class Part(NamedTuple):
    """A linear layer that a unit cuts through: `size` of its outputs (makers) or inputs (the reader) a unit."""

    module: str  # its name in the model
    size: int
    transposed: bool  # GPT-2's Conv1D: (in, out)


class Site(NamedTuple):
    """The units of one block."""

    block: int
    units: int
    makers: tuple[Part, ...]
    reader: Part

    def cuts(self, has) -> list[tuple[str, int, int]]:
        """(tensor, dimension, entries a unit) of all that loses entries; `has(name)`: does the model have it."""
        found = []
        for maker in self.makers:
            found.append((f"{maker.module}.weight", 1 if maker.transposed else 0, maker.size))
            if has(f"{maker.module}.bias"):
                found.append((f"{maker.module}.bias", 0, maker.size))
        found.append((f"{self.reader.module}.weight", 0 if self.reader.transposed else 1, self.reader.size))
        return found


def mlp_sites(model) -> list[Site]:
    """The MLP neurons of every block. Raises InputError where a block has none, or several MLPs (experts)."""
    return [_site(model, index, MLPS, "mlp-width") for index in range(len(models.decoder_blocks(model)[1]))]


def head_sites(model) -> list[Site]:
    """The attention groups of every block. Raises InputError where query, key and value are one matrix."""
    sites = [_site(model, index, ATTENTIONS, "head-width") for index in range(len(models.decoder_blocks(model)[1]))]
    config = composites.text_config(model.config)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    found = []
    for site in sites:
        sizes = [maker.size for maker in site.makers]  # whole outputs, until divided by the number of groups
        if any(size % groups for size in sizes):
            raise InputError(
                f"head-width: {site.reader.module}: {groups} groups of heads do not divide its queries, keys and "
                f"values ({', '.join(map(str, sizes))}); use mlp-width or depth"
            )
        makers = tuple(maker._replace(size=maker.size // groups) for maker in site.makers)
        found.append(Site(site.block, groups, makers, site.reader._replace(size=makers[0].size)))
    return found


def _site(model, index: int, known, method: str) -> Site:
    stack, blocks = models.decoder_blocks(model)
    linears = {path: module for path, module in blocks[index].named_modules() if models.is_linear(module)}
    found = []
    for maker_names, reader_name in known:
        for path, reader in linears.items():
            parent, _, leaf = path.rpartition(".")
            prefix = f"{parent}." if parent else ""
            if leaf == reader_name and all(f"{prefix}{name}" in linears for name in maker_names):
                name = f"{stack}.{index}.{prefix}"
                makers = tuple(_part(name + n, linears[prefix + n], outputs=True) for n in maker_names)
                found.append(Site(index, makers[0].size, makers, _part(name + leaf, reader, outputs=False)))
    if len(found) != 1:
        pairs = "; ".join(f"{'+'.join(makers)} → {reader}" for makers, reader in known)
        seen = f"{len(found)} sets of layers to cut" if found else "no layers to cut"
        raise InputError(
            f"{method}: block {index} of {type(model).__name__} has {seen}; expected one of {pairs}; "
            f"its linear layers are {', '.join(linears)}"
        )
    site = found[0]
    if known is MLPS:  # every layer has one entry a neuron
        widths = {part.size for part in (*site.makers, site.reader)}
        if len(widths) != 1:
            raise InputError(f"{method}: block {index}: the widths {sorted(widths)} of its MLP do not agree")
        makers = tuple(part._replace(size=1) for part in site.makers)
        site = site._replace(makers=makers, reader=site.reader._replace(size=1))
    return site


def _part(name: str, module, outputs: bool) -> Part:
    transposed = not isinstance(module, torch.nn.Linear)
    return Part(name, module.weight.shape[0 if outputs != transposed else 1], transposed)


def cost_of_unit(model, site: Site) -> int:
    """Prunable parameters (weights, no biases) that go with one unit."""
    return sum(
        model.get_parameter(name).numel() // model.get_parameter(name).shape[dim] * size
        for name, dim, size in site.cuts(lambda name: False)
    )


def prunable_parameters(model) -> int:
    """How many weights the rate of a structured method is a percentage of."""
    return sum(torch.Size(tensor["shape"]).numel() for tensor in models.prunable_tensors(model))


def kept_units(model, sites: list[Site], fraction: float, round_to: int, name: str) -> int:
    """How many units each block keeps so that `fraction` of the prunable parameters goes, rounded to `round_to`.

    Raises InputError where that leaves no unit, or all.
    """
    units = {site.units for site in sites}
    if len(units) != 1:
        raise InputError(f"{name}: blocks of different widths ({sorted(units)}); use depth")
    total, each = units.pop(), sum(cost_of_unit(model, site) for site in sites)
    prunable = prunable_parameters(model)
    exact = total - fraction * prunable / each
    kept = round_to * max(0, int(exact / round_to + 0.5))
    most = int(100 * (total - round_to) * each / prunable)
    if exact < 0 or kept < 1:
        raise InputError(
            f"{name}: these layers hold {100 * total * each / prunable:.0f} % of the prunable parameters, so at most "
            f"{most} % can go; lower the rate, or use another structure"
        )
    if kept >= total:
        raise InputError(
            f"{name}: {total - exact:.1f} of {total} units round to none (structure.round_to: {round_to}); the least "
            f"is {100 * min(round_to, total - 1) * each / prunable:.1f} %; raise the rate or lower round_to"
        )
    return kept


def entries(units: torch.Tensor, size: int) -> torch.Tensor:
    """The entries along a dimension that belong to `units`, each of `size` consecutive ones."""
    return (units[:, None] * size + torch.arange(size)).flatten()


def cut_state(model, sites: list[Site], kept: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's state with only the units `kept` (one ascending index tensor a site)."""
    state = model.state_dict()
    for site, units in zip(sites, kept, strict=True):
        for name, dim, size in site.cuts(state.__contains__):
            state[name] = state[name].index_select(dim, entries(units, size).to(state[name].device)).contiguous()
    return state


@torch.no_grad()
def mask_units(model, sites: list[Site], kept: list[torch.Tensor]) -> None:
    """Zero, in place, what the removed units are read with: the full-size model that equals the smaller one."""
    for site, units in zip(sites, kept, strict=True):
        weight = model.get_submodule(site.reader.module).weight
        keep = torch.zeros(site.units, dtype=torch.bool)
        keep[units] = True
        keep = keep.repeat_interleave(site.reader.size).to(weight.device)
        weight.mul_(keep[:, None] if site.reader.transposed else keep)


def width_key(config, width: int) -> str:
    """The key of `config` that holds the MLP's width. Raises InputError when none does."""
    for key in WIDTH_KEYS:
        # GPT-2 leaves n_inner at None for 4 x n_embd.
        if hasattr(config, key) and getattr(config, key) in (width, None):
            return key
    raise InputError(
        f"mlp-width: no key of the config of {config.model_type!r} says {width} ({', '.join(WIDTH_KEYS)}), so a "
        "smaller model could not be loaded again; use depth"
    )
