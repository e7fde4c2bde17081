"""A fetched model becomes the dense one as it is: nothing is trained, and its values need not fit into memory."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models import loading, models, packed
from prunelab.models.tensors import INDEX, Tensors, copy_tensors, stored_dtype, weight_files


def fetched(data: Path) -> Path:
    """The folder of the fetched model in what the stage fetch wrote. Raises InputError where there is none."""
    folder = Path(data) / "model"
    if not folder.is_dir():
        raise InputError("train.start: fetched, but fetch.model brought no model; set fetch.model")
    return folder


def take(folder: Path, context: int, out: Path, towers: Sequence[str] = ("language",)) -> None:
    """Make the fetched model in `folder` the dense one as it is: files are copied, so it may be larger than memory.

    Behind this line every tensor has the module's name, each is there once, and config.json says the dtype of the files
    and whether two tensors are tied. Only where the files name tensors otherwise than transformers' class does today,
    the model is loaded and saved once. Raises InputError when the files are not the model that config.json describes,
    when it is made for fewer than `context` tokens, or holds no decoder blocks. towers: `prune.towers`.
    """
    model = loading.skeleton(folder)
    check_context(context, model)
    tensors = models.prunable_tensors(model, towers)
    untied, held = loading.untied(folder, model), set(Tensors(folder).names())
    wanted = loading.state_names(model, untied)
    shutil.copytree(folder, out, dirs_exist_ok=True)
    if held != set(wanted):
        for path in [*out.glob("*.safetensors"), out / INDEX]:
            path.unlink(missing_ok=True)
        if held > set(wanted):
            copy_tensors(folder, out, wanted)
        else:
            loading.save(loading.of_folder(folder), out)
    said = read_json(out / "config.json")
    config = {key: value for key, value in said.items() if key != "torch_dtype"}  # the older name of dtype
    config["dtype"] = str(stored_dtype(weight_files(folder))).removeprefix("torch.")
    if untied:
        config["tie_word_embeddings"] = False
    if config != said:
        write_json(out / "config.json", config)
    write_json(out / "prunable.json", tensors)
    packed.write_buffers(loading.buffers(model), out)


def check_context(context: int, model) -> None:
    """Raises InputError where a training window of `context` tokens is longer than the model takes."""
    limit = models.context_length(model.config)
    if limit and context > limit:
        raise InputError(f"train.context: {context} exceeds the model's {limit} positions")
