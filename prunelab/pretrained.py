"""A pretrained model as a plain Hugging Face folder: config.json, safetensors, tokenizer, manifest.json.

Weights come as safetensors and are copied as they are, as one GGUF file, which is dequantized to fp32 once, or pickled
(`pytorch_model.bin`, as OPT is published): those are read by torch's restricted unpickler, which builds tensors and
nothing else, and written as safetensors. A model's own Python code is never run: it could do anything.
"""

import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path

from prunelab import files, sources
from prunelab.errors import InputError

DEFAULT_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.gguf",
)
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # asked for only where there is nothing better
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
WEIGHTS = "model.safetensors"


def prepare(source, out: Path) -> dict:
    """Fetch the model that `source` (`fetch.model` of the settings) names into the new folder `out`; its manifest."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=out) as scratch:
        brought = sources.bring(source, Path(scratch), DEFAULT_FILES, repo_type="model")
        ggufs = [path for path in brought.files if path.suffix == ".gguf"]
        configs = [path for path in brought.files if path.name == "config.json"]
        safetensors = [path for path in brought.files if path.suffix == ".safetensors"]
        if len(configs) == 1 and not safetensors and source.files is None:
            brought = sources.bring(source, Path(scratch), (*DEFAULT_FILES, *PICKLED_FILES), repo_type="model")
        pickled = [path for path in brought.files if path.name.startswith("pytorch_model") and path.suffix == ".bin"]
        if len(ggufs) == 1 and not configs:
            called = _dequantize(ggufs[0], out)
        elif len(configs) == 1:
            called = Path(source.name).name
            if pickled and not safetensors:
                _convert(source.name, configs[0].parent, brought.files, out)
            else:
                _copy(source.name, configs[0].parent, brought.files, out)
        else:
            raise InputError(
                f"{source.name}: expected one model, a config.json beside its weights or one .gguf file, "
                f"found {len(configs)} config.json and {len(ggufs)} .gguf; say which with `files:`"
            )
    manifest = {"model": called, "source": brought.facts} | _inspect(out, source.name)
    files.write_json(out / "manifest.json", manifest)
    return manifest


def _copy(name: str, folder: Path, chosen: list[Path], out: Path) -> None:
    """Copy the chosen files of one folder, after a look at what would fail hours later."""
    beside = [path for path in chosen if path.parent == folder]
    there = {path.name for path in beside}
    needed = _shards(folder, name) if f"{WEIGHTS}.index.json" in there else [WEIGHTS]
    missing = [shard for shard in needed if shard not in there]
    if missing:
        raise InputError(f"{name}: expected weights in {', '.join(missing[:3])}, found {', '.join(sorted(there))}")
    _check_tokenizer(name, there)
    for path in beside:
        if path.suffix != ".safetensors" or path.name in needed:
            shutil.copyfile(path, out / path.name)


def _convert(name: str, folder: Path, chosen: list[Path], out: Path) -> None:
    """Write a model with pickled weights as a folder with safetensors, in the dtype it is stored in."""
    import pickle

    from transformers import AutoModelForCausalLM

    beside = [path for path in chosen if path.parent == folder]
    _check_tokenizer(name, {path.name for path in beside})
    try:
        # transformers unpickles with weights_only=True; the class also renames what old checkpoints call otherwise.
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=False, dtype="auto", trust_remote_code=False, output_loading_info=True
        )
    except (pickle.UnpicklingError, ValueError, KeyError, EOFError, OSError, RuntimeError) as error:
        found = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: expected pickled weights that hold tensors and nothing else, found: {found}"
        ) from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if missing := sorted(set(loading["missing_keys"]) - tied):  # the library only warns, and fills them at random
        raise InputError(f"{name}: expected all of the model's weights, found none for {', '.join(missing[:3])}")
    model.save_pretrained(out)
    for path in beside:
        if path.suffix != ".bin" and path.name not in ("config.json", "pytorch_model.bin.index.json"):
            shutil.copyfile(path, out / path.name)


def _check_tokenizer(name: str, there: set[str]) -> None:
    if not there & set(TOKENIZER_FILES):
        raise InputError(
            f"{name}: expected a tokenizer ({', '.join(TOKENIZER_FILES)}), found {', '.join(sorted(there))}"
        )


def _shards(folder: Path, name: str) -> list[str]:
    index = files.read_json(folder / f"{WEIGHTS}.index.json")
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise InputError(f"{name}: expected a weight_map in {WEIGHTS}.index.json, found none")
    return sorted(set(index["weight_map"].values()))


def _dequantize(path: Path, out: Path) -> str:
    """Write a GGUF file's model as an fp32 folder; what to call it: never the name of the model it was made from."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path.name}: expected a GGUF file, found one that starts with {magic!r}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # in a log each step of a bar is a line
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),  # without it the model can't be saved
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, IndexError, KeyError, OSError, struct.error) as error:
        raise InputError(f"{path.name}: expected a GGUF file that transformers can read, found: {error!r}") from error
    if missing := sorted(loading["missing_keys"]):  # the library only warns, and fills them with random numbers
        raise InputError(f"{path.name}: expected all of the model's weights, found none for {', '.join(missing[:3])}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)  # the library makes them private; the rest of the folder isn't
    original, _, quantization = path.stem.rpartition(".")
    return f"{original or path.stem}, dequantized {quantization}" if original else f"{path.stem}, dequantized"


def _inspect(folder: Path, name: str) -> dict:
    """What a plain folder holds, from its config and the safetensors headers: no tensor is read, no torch imported."""
    from safetensors import SafetensorError, safe_open
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: expected a config.json, found broken JSON: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(
            f"{name}: expected a model_type that transformers knows in config.json, found {kind!r}; "
            "a model's own Python code is never run"
        )
    parameters, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a dict)
                    tensor = tensors.get_slice(key)
                    dtypes.add(tensor.get_dtype())
                    size = 1
                    for length in tensor.get_shape():
                        size *= length
                    parameters += size
        except SafetensorError as error:
            raise InputError(f"{name}: expected a whole safetensors file {path.name}, found: {error}") from None
    listed = {
        path.name: {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    return {
        "model_type": kind,
        "architectures": config.get("architectures"),
        "parameters_stored": parameters,  # tied tensors count once
        "dtypes": sorted(dtypes),
        "files": listed,
    }
