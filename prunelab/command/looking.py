"""What is in a model's folder: `prunelab inspect FOLDER`. Nothing is written there.

Zeros are counted in the loaded model, because every format then says the same of the same weights; of a folder that
does not load, what its own record says is all there is.
"""

from pathlib import Path

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import packed
from prunelab.models.packed import PACKED_INDEX
from prunelab.quantised import files as quantised

RECORDS = (
    quantised.MARK,
    "precision.json",
    "sparsity.json",
    "control.json",
    "delivery.json",
)  # what stages write beside a model, last step first
FORMATS = {
    "plain": "plain Hugging Face folder",
    "packed": "packed (bit masks and the values that are left)",
    "quantised": "quantised",
}


def look(folder) -> dict:
    """Facts of the model in `folder`, with JSON's types; unknown ones are None.

    Raises InputError where no model is. One that is there and does not load is `loads: False`, with the reason.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a model's folder, found {'a file' if folder.exists() else 'nothing there'}"
        )
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: expected a model's folder, found no config.json in it")
    kind = "quantised" if quantised.is_quantised(folder) else "packed" if packed.is_packed(folder) else "plain"
    record: dict = {}
    for name in reversed(RECORDS):
        if (folder / name).exists():
            record |= read_json(folder / name)
    facts = {"folder": str(folder), "format": kind, "precision": record.get("precision")}
    facts |= {"variant": record.get("variant"), "architecture": None}
    facts |= {key: record.get(key) for key in ("parameters", "nonzero_parameters", "sparsity_pruned", "sparsity_all")}
    facts |= {"dtype": None, "bytes": None, "sha256": None, "dense_sha256": record.get("dense_sha256")}
    try:
        facts |= _files(folder, kind) | _weights(folder)
    except InputError as error:
        return facts | {"loads": False, "problem": str(error)}
    return facts | {"loads": True, "problem": None}


def _files(folder: Path, kind: str) -> dict:
    """Bytes and hash of the weights' files. Raises InputError where one is missing."""
    from prunelab.models import tensors

    if kind != "packed":
        stored = tensors.weight_files(folder)
    else:
        stored = sorted({folder / name for name in read_json(folder / PACKED_INDEX)["files"].values()})
    if missing := [path.name for path in stored if not path.is_file()]:
        raise InputError(f"{folder}: its weights are not all there, {missing[0]} is missing")
    return {"bytes": sum(path.stat().st_size for path in stored), "sha256": tensors.hash_of(stored)}


def _weights(folder: Path) -> dict:
    """What the loaded model says. Raises InputError where it does not load."""
    from prunelab.efficiency.memory import parameter_counts
    from prunelab.models import models
    from prunelab.quantised import layers, opening

    model = opening.load(folder)
    counts, held = parameter_counts(model), dict(model.named_parameters(remove_duplicate=False))
    if quantised_layers := layers.quantised_layers(model):
        ends = (model.get_output_embeddings(), getattr(model.get_input_embeddings(), "table", None))
        inside = [layer for layer in quantised_layers.values() if layer not in ends]
        zeros = sum(layer.zeros() for layer in inside)
        size = sum(layer.in_features * layer.out_features for layer in inside)
    else:
        inside = [held[tensor["name"]] for tensor in models.prunable_tensors(model) if tensor["name"] in held]
        zeros, size = sum(int((one == 0).sum()) for one in inside), sum(one.numel() for one in inside)
    return {
        "architecture": f"{model.config.model_type} ({type(model).__name__})",
        "parameters": counts["parameters"],
        "nonzero_parameters": counts["nonzero_parameters"],
        "sparsity_pruned": zeros / size if size else None,
        "sparsity_all": 1 - counts["nonzero_parameters"] / counts["parameters"],
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def described(facts: dict) -> str:
    """The facts as a block to read, a line each."""
    precision = f", {facts['precision']}" if facts["precision"] else ""
    lines = {"format": f"{FORMATS[facts['format']]}{precision}"}
    lines |= {"variant": facts["variant"], "architecture": facts["architecture"]}
    if facts["parameters"] is not None:
        lines["parameters"] = f"{facts['parameters']:,}"
    if facts["nonzero_parameters"] is not None:
        lines["parameters"] += f", {facts['nonzero_parameters']:,} of them not zero"
    if facts["sparsity_all"] is not None:
        inside = facts["sparsity_pruned"]
        lines["sparsity"] = f"{facts['sparsity_all']:.1%} of all weights are zero"
        lines["sparsity"] += f", {inside:.1%} in the linear layers of the blocks" if inside is not None else ""
    lines["dtype"] = facts["dtype"]
    if facts["bytes"] is not None:
        lines["size"] = f"{facts['bytes']:,} bytes of weights"
    lines["sha256"] = facts["sha256"]
    lines["made of"] = facts["dense_sha256"] and f"the dense model {facts['dense_sha256']}"
    lines["loads"] = "yes" if facts["loads"] else f"no: {facts['problem']}"
    width = max(map(len, lines))
    return "\n".join([facts["folder"], *(f"  {key.ljust(width)}  {text}" for key, text in lines.items() if text)])
