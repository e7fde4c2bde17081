"""The last step of a recipe: the model that was made so far, stored in fewer bits a weight.

What was pruned before keeps its mask (zeros stay zero) and its record, sparsity.json, with the bytes and the zeros of
what is stored now: a small weight that rounds to zero is one more of them.
"""

from pathlib import Path

from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.making.given import Given
from prunelab.recipes.variants import Variant

RECORD = "precision.json"  # what is told of a model in bf16; one in whole numbers has quantised.json


def require_another(given: Given, variant: Variant) -> None:
    """Raises InputError for a recipe in bf16 of a study whose own model is in bf16: that is no row of its own.

    Now, and not when all before it was made.
    """
    if variant.precision != "bf16":
        return
    import torch

    from prunelab.models.tensors import stored_dtype, weight_files

    if stored_dtype(weight_files(given.dense)) == torch.bfloat16:
        raise InputError(
            f"{variant.id}: {given.dense} is stored in bf16 already, so this is "
            f"{variant.id.removesuffix('-bf16')} once more; take it out of prune.further"
        )


def in_bf16(given: Given, variant: Variant, source: Path, out: Path) -> dict:
    """Write the model in folder `source` in bf16 into `out`; what precision.json says."""
    import torch

    from prunelab.models import checkpoint, packed
    from prunelab.models.tensors import identity

    with files.whole_directory(out, source) as partial:
        masks = dict(packed.masks_of(source)) if packed.is_packed(source) else {}
        packed.copy_companions(source, partial)
        # Loaded in it, not cast to it: the library keeps what must stay in fp32, such as rotary frequencies.
        counts = checkpoint.write(checkpoint.load(source, torch.bfloat16), masks, partial)
        facts = {"variant": variant.id, "precision": "bf16", "bytes": counts["packed_bytes"]}
        facts["dense_sha256"] = identity(given.dense)
        files.write_json(partial / RECORD, facts)
        _keep_record(variant, source, partial, counts)
    return facts


def quantise(given: Given, variant: Variant, source: Path, out: Path) -> dict:
    """Write the model in folder `source` in int8 or int4 into `out`; what quantised.json says.

    Raises InputError for a model that does more with a weight than to multiply by it, and where rounding by text has
    none.
    """
    from prunelab.models import checkpoint, packed
    from prunelab.models.tensors import identity
    from prunelab.quantised import files as quantised

    wanted = given.settings.quantise
    with files.whole_directory(out, source) as partial:
        model = checkpoint.load(source)
        facts = quantised.write(
            model,
            source,
            partial,
            variant.id,
            identity(given.dense),
            precision=variant.precision,
            group=wanted.group,
            head=wanted.head,
            masks=dict(packed.masks_of(source)) if packed.is_packed(source) else None,
            rounding=_by_text(given, variant, source, Path(out).parent) if variant.rounds_by_text else None,
        )
        beside = sum(int(parameter.count_nonzero()) for parameter in model.parameters())  # what stays as it was
        nonzeros = facts["quantised_parameters"] - facts["zeros"] + beside
        _keep_record(variant, source, partial, {"packed_bytes": facts["bytes"], "nonzero_parameters": nonzeros})
    return facts


def _by_text(given: Given, variant: Variant, source: Path, scratch: Path):
    """The rounding of the weights in folder `source` that looks at calibration text; `scratch`: for hidden states."""
    from prunelab.calibration.calibration import Calibration
    from prunelab.calibration.samples import batch_of
    from prunelab.quantised import gptq

    if given.calibration is None:
        raise InputError(f"{variant.id}: is rounded with calibration text; give --calibration")
    wanted, samples = given.settings.calibrate, Calibration(given.calibration).samples()
    return gptq.rounded(
        source,
        samples,
        batch_of(samples, wanted.batch_tokens),
        variant.precision,
        given.settings.quantise.group,
        compute=wanted.precision,
        disk=scratch if wanted.hidden_states == "disk" else None,
    )


def _keep_record(variant: Variant, source: Path, partial: Path, counts: dict) -> None:
    """Write the record of what was pruned in `source`, where something was, with the counts that have changed."""
    path = Path(source) / "sparsity.json"
    if path.exists():
        files.write_json(partial / path.name, files.read_json(path) | {"variant": variant.id} | counts)
