"""A pretrained model as a plain Hugging Face folder: config.json, safetensors, tokenizer, manifest.json.

Weights come as safetensors and are copied as they are, as one GGUF file, which is dequantized to fp32 once, or pickled
(`pytorch_model.bin`, as OPT is published): those are read by torch's restricted unpickler, which builds tensors and
nothing else, and written as safetensors. A model's own Python code could do anything: it is left behind, unless the
study grants the commit that it is of (owncode.py).
"""

import shutil
import tempfile
from pathlib import Path

from prunelab.data import sources
from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.models import inspection, loading, owncode
from prunelab.models.tensors import INDEX, WEIGHTS, weight_names

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
POINTER = b"version https://git-lfs"  # how a file begins that git has left where it is


def prepare(source, out: Path, accepts: str = inspection.CAUSAL) -> dict:
    """Fetch the model that `source` (`fetch.model` of the settings) names into the new folder `out`; its manifest.

    accepts: which kinds of models (inspection.look), as the task of the study says.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = sources.MODEL_FILES
    if commit := getattr(source, "remote_code", None):
        print(f"  runs Python code of {source.name} itself, as it is at commit {commit}", flush=True)
        source, wanted = source.model_copy(update={"revision": commit}), (*wanted, owncode.CODE)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=out) as scratch:
        brought = sources.bring(source, Path(scratch), wanted, repo_type="model")
        ggufs = [path for path in brought.files if path.suffix == ".gguf"]
        configs = [path for path in brought.files if path.name == "config.json"]
        safetensors = [path for path in brought.files if path.name in (WEIGHTS, INDEX)]
        if len(configs) == 1 and not safetensors and source.files is None:
            brought = sources.bring(source, Path(scratch), (*wanted, *sources.PICKLED_FILES), repo_type="model")
        _check_pointers(source.name, brought.files)
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
    (out / owncode.MARK).unlink(missing_ok=True)  # whoever sends a model grants nothing
    if commit:
        owncode.mark(out, commit)
    facts = inspection.look(out, source.name, accepts)
    manifest = {"model": called, "source": brought.facts} | inspection.manifest(out, facts)
    files.write_json(out / "manifest.json", manifest)
    return manifest


def _copy(name: str, folder: Path, chosen: list[Path], out: Path) -> None:
    """Copy the chosen files of one folder, of the weights those that `from_pretrained` would read."""
    beside = [path for path in chosen if path.parent == folder]
    there = {path.name for path in beside}
    needed = weight_names(folder)
    if missing := sorted(needed - there):
        raise InputError(f"{name}: expected weights in {', '.join(missing[:3])}, found {', '.join(sorted(there))}")
    _check_tokenizer(name, there)
    for path in beside:
        if path.suffix == ".safetensors" and path.name not in needed:
            continue
        if path.name != INDEX or WEIGHTS not in needed:
            shutil.copyfile(path, out / path.name)


def _convert(name: str, folder: Path, chosen: list[Path], out: Path) -> None:
    """Write a model with pickled weights as a folder with safetensors, in the dtype it is stored in."""
    beside = [path for path in chosen if path.parent == folder]
    _check_tokenizer(name, {path.name for path in beside})
    for path in beside:
        if path.suffix != ".bin" and path.name not in ("config.json", "pytorch_model.bin.index.json"):
            shutil.copyfile(path, out / path.name)
    loading.save(loading.of_pickled(folder, name), out, published=True)  # with its config


def _check_pointers(name: str, chosen: list[Path]) -> None:
    for path in chosen:
        with open(path, "rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise InputError(f"{name}: expected {path.name}, found git-lfs's pointer to it; run: git lfs pull")


def _check_tokenizer(name: str, there: set[str]) -> None:
    if not there & set(TOKENIZER_FILES) and not any(file.endswith(".model") for file in there):
        raise InputError(
            f"{name}: expected a tokenizer ({', '.join(TOKENIZER_FILES)}), found {', '.join(sorted(there))}"
        )


def _dequantize(path: Path, out: Path) -> str:
    """Write a GGUF file's model as an fp32 folder; what to call it: never the name of the model it was made from."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path.name}: expected a GGUF file, found one that starts with {magic!r}")
    model, tokenizer = loading.of_gguf(path)
    loading.save(model, out, published=True)
    tokenizer.save_pretrained(out)
    # The file has as many tokens as its embedding has rows. What is behind them the converter made up.
    rows, saved = model.get_input_embeddings().weight.shape[0], files.read_json(out / "tokenizer.json")
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["id"] < rows]
    files.write_json(out / "tokenizer.json", saved)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)  # the library makes them private; the rest of the folder isn't
    original, _, quantization = path.stem.rpartition(".")
    return f"{original or path.stem}, dequantized {quantization}" if original else f"{path.stem}, dequantized"
