"""Build the model of a study that trains its own, and run it once, before anything is fetched.

What a library says of a bad config it says when the model is built or in the first step, and what a study asks of the
model (lengths, structures, groups of inputs) is known from its layers: all of it can be told in seconds.
"""

import contextlib

import torch

from prunelab import quantised
from prunelab.errors import InputError
from prunelab.models import loading, models
from prunelab.recipes import variants
from prunelab.recipes.methods import STRUCTURES
from prunelab.structure import structure

ALPHABET = 96  # stands in for the text's letters, which are not known yet; about what English prose has
# Of a larger model only the shapes are run through (on torch's meta device, where tensors hold nothing).
MOST_PARAMETERS = 128_000_000


def run(settings, whole: bool = True) -> None:
    """Train the model of `settings` for one step on a window of random letters and, of the `whole` study, see whether
    the rest fits it.

    Raises InputError that names the setting. Random states outside are left as they were.
    """
    train = settings.train
    size = max([ALPHABET, *(1 + value for key, value in train.config.items() if _names_a_token(key, value))])
    with loading.quiet(), torch.random.fork_rng(devices=[]), models.told(train.architecture, train.config):
        with torch.device("meta"):
            model = models.build(train.architecture, train.config, vocab_size=size)
        if whole:
            fits(settings, model)
        small = sum(parameter.numel() for parameter in model.parameters()) <= MOST_PARAMETERS
        if small:
            model = models.build(train.architecture, train.config, vocab_size=size)
        else:
            model.set_experts_implementation("batched_mm")  # the usual one has no kernel for fp32 without values
        ids = torch.randint(size, (1, train.context), device="cpu" if small else "meta")
        with contextlib.nullcontext() if small else _shapes_only():
            _step(model.train(), ids)
        if small:
            _require_causal(model.eval(), ids, train)
        if small and whole:
            _can_be_quantised(model, settings)


def _names_a_token(key, value) -> bool:
    return bool(models.SPECIAL.search(key)) and isinstance(value, int)


def _step(model, ids: torch.Tensor) -> None:
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    if not loss.is_meta and not torch.isfinite(loss):
        raise InputError(f"train.config: the loss of the untrained {model.config.model_type!r} is {loss.item()}")


@contextlib.contextmanager
def _shapes_only():
    """Passes over what cannot be asked of tensors without values, such as which expert a token goes to."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if not isinstance(error, NotImplementedError) and "meta" not in str(error):
            raise


def _require_causal(model, ids: torch.Tensor, train) -> None:
    """Raises InputError when a token changes what the model says before it: it would be trained on its own answers."""
    if loading.sees_ahead(model, ids):
        way = "set train.config.is_decoder: true" if hasattr(model.config, "is_decoder") else "take another"
        raise InputError(f"train.architecture: {train.architecture!r} looks at the tokens that it shall predict; {way}")


def _can_be_quantised(model, settings) -> None:
    """Raises InputError where the study has quantised rows and `model`, which is lost to it, does not take it."""
    wanted = settings.quantise
    asked = {variant.precision for variant in settings.variants() if variant.precision in variants.QUANTISED}
    for precision in sorted(asked)[-1:]:  # a model that takes one takes the other
        quantised.quantise(model, precision, wanted.group, wanted.head)


def fits(settings, model) -> None:
    """Raises InputError where the study asks of `model` what its shape does not allow; weights play no part."""
    _lengths(settings, models.context_length(model.config))
    tensors = models.prunable_tensors(model)
    inside = [t for t in tensors if settings.prune.scope in ("blocks", t["role"])]
    if not inside:
        raise InputError(
            f"prune.scope: {settings.prune.scope}: none of the {len(tensors)} prunable tensors of "
            f"{settings.train.architecture!r} belongs to it"
        )
    asked = {f"prune.rates: {rate}": rate for rate in settings.prune.rates}
    asked |= {f"prune.further: {v.id}": v.rate for v in settings.variants() if v.prunes == "mask"}
    for entry, rate in asked.items():
        group = (variants.parse_rate(rate).n_of_m or (0, 1))[1]
        for tensor in inside:
            if (inputs := tensor["shape"][0 if tensor["transposed"] else 1]) % group:
                raise InputError(
                    f"{entry}: the {inputs} inputs of {tensor['name']} do not divide into groups of {group}"
                )
    for variant in settings.variants():
        if variant.prunes == "structure":
            _has_room(model, variant, settings.structure.round_to)


def _lengths(settings, limit: int | None) -> None:
    work = settings.efficiency
    asked = {
        "train.context": settings.train.context,
        "quality.context": settings.quality.context,
        "calibrate.length": settings.calibrate.length if settings.calibrate else 0,
        "efficiency.prompt_tokens + efficiency.output_tokens": max(work.prompt_tokens) + work.output_tokens,
    }
    for key, length in asked.items():
        if limit is not None and length > limit:
            raise InputError(f"{key}: {length} exceeds the model's {limit} positions (train.config decides them)")


def _has_room(model, variant: variants.Variant, round_to: int) -> None:
    kind, fraction = STRUCTURES[variant.method].kind, variants.parse_rate(variant.rate).sparsity
    if kind == "depth":
        total = len(models.decoder_blocks(model)[1])
        if not 0 < int(fraction * total + 0.5) < total:
            raise InputError(
                f"prune.further: {variant.id}: {fraction:.0%} of {total} blocks is no whole block, or all of them"
            )
        return
    sites = structure.mlp_sites(model) if kind == "mlp-width" else structure.head_sites(model)
    structure.kept_units(model, sites, fraction, round_to if kind == "mlp-width" else 1, variant.id)
    if kind == "mlp-width":
        structure.width_key(model.config, sites[0].units)
