"""One look at a model's folder before anything uses it: is it what it says, and can this workflow run it?

What would fail hours later, or quietly give another model's figures, is told here in one line: weights that are missing
or too many, quantised ones, an adapter, an architecture that is no causal LM, a tokenizer that does not load or does
not fit. The library's own loading report decides about weights, on a model without values, so size costs nothing.
"""

import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.models import composites, loading, owncode
from prunelab.models.tensors import DTYPES, dtype_of_most, headers, weight_files

# How classes that are encoders unless their config says so choose what a token sees.
ONE_OR_THE_OTHER = re.compile(r"is_decoder:\s*\n\s*[\w, ]+ = create_causal_mask")
CAUSAL, PICTURE = "causal", "picture"
PROBE = "The 3 cats' café\tcost 1,024.50 €,\nas they say:  naïve — 日本 🙂"


class Facts(NamedTuple):
    """What a folder holds. `remarks`: what a person should know though nothing is wrong, a line each."""

    model_type: str
    architectures: list[str] | None
    parameters_stored: int  # those of the class, a tied one once; buffers that files carry along are none
    dtypes: list[str]  # of the files' tensors, as safetensors calls them
    dtype: str  # the one that the model is loaded in
    remarks: list[str]


def look(folder: Path, name: str, accepts: str = CAUSAL) -> Facts:
    """Facts of the plain model in `folder` (config, safetensors, tokenizer). Raises InputError in terms of `name`.

    accepts: `causal`, a language model, or `picture`, also one that sees pictures.
    """
    try:
        return _look(Path(folder), name, accepts)
    except InputError as error:
        told = str(error)
        told = told.replace(f"{folder}/", "").replace(f"{folder}: ", "")
        raise InputError(told if told.startswith(name) else f"{name}: {told}") from error


def _look(folder: Path, name: str, accepts: str) -> Facts:
    raw = _config(folder, name, accepts)
    stored = weight_files(folder)
    counted = _dtypes(stored, name)
    said = str(loading.config_of(folder).dtype or "").removeprefix("torch.")
    model = loading.skeleton(folder)
    _require_decoder(model, name)
    remarks = []
    dtype = str(dtype_of_most(counted, name)).removeprefix("torch.")
    if said and said != dtype:
        remarks.append(f"config.json says {said}, the files hold {dtype}: the model is used as it is stored")
    if len(counted) > 1:
        remarks.append(f"the files hold {', '.join(sorted(counted))}: the model is used in {dtype}")
    if untied := loading.untied(folder, model):
        remarks.append(
            f"config.json ties {' and '.join(untied[0])}, the files hold two different tensors: they stay two"
        )
    _check_tokenizer(folder, name, model)
    held = set(loading.state_names(model, untied))
    return Facts(
        raw["model_type"],
        raw.get("architectures"),
        sum(value.numel() for key, value in model.named_parameters(remove_duplicate=False) if key in held),
        sorted(counted),
        dtype,
        remarks,
    )


def _config(folder: Path, name: str, accepts: str) -> dict:
    """The raw config.json, of an architecture that the library has and `accepts` names, not quantised, no adapter."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: expected a config.json, found broken JSON: {error}") from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    own = owncode.granted(folder)
    if kind not in CONFIG_MAPPING_NAMES and not own:
        raise InputError(
            f"{name}: expected a model_type that transformers knows in config.json, found {kind!r}; "
            "a model's own Python code is run only where fetch.model.remote_code grants it"
        )
    if (
        not own
        and not (accepts == PICTURE and composites.is_composite(raw))
        and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        wanted = "a causal language model" + (" or one that sees pictures" if accepts == PICTURE else "")
        raise InputError(f"{name}: expected {wanted}, found {kind!r}, of which transformers has none")
    for key in ("quantization_config", "compression_config"):
        if raw.get(key):
            method = raw[key].get("quant_method") if isinstance(raw[key], dict) else None
            raise InputError(
                f"{name}: expected weights in floating point, found a quantised model ({key}: {method or 'see there'})"
                "; fetch the model that it was made from"
            )
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{name}: expected a whole model, found an adapter beside it; merge it (peft: merge_and_unload)"
        )
    if raw.get("transformers_weights"):
        raise InputError(
            f"{name}: expected model.safetensors or its index, found that config.json names "
            f"{raw['transformers_weights']} (transformers_weights); rename the file"
        )
    return raw


def _dtypes(stored: list[Path], name: str) -> Counter:
    """How many values of each floating-point dtype the files hold, by safetensors' names.

    Integers are masks that old files carry. Raises InputError for others, which are quantised weights.
    """
    for path in stored:
        try:
            safe_open(path, "numpy")
        except SafetensorError as error:
            raise InputError(f"{name}: expected a whole safetensors file {path.name}, found: {error}") from None
    found = Counter()
    for tensor, dtype, values in headers(stored):
        if dtype in DTYPES:
            found[dtype] += values
        elif values > 1 and not loading.is_mask(tensor):
            raise InputError(
                f"{name}: expected weights in floating point, found {tensor} as {dtype}: a quantised model; fetch the "
                "model that it was made from"
            )
    return found


def _require_decoder(model, name: str) -> None:
    """Refuse what transformers lists among causal LMs but does not run as one unless its config says so."""
    config, source = model.config, Path(inspect.getfile(type(model))).read_text(encoding="utf-8")
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{name}: expected a causal language model, found {config.model_type!r}, an encoder with a decoder"
        )
    if ONE_OR_THE_OTHER.search(source) and not getattr(config, "is_decoder", False):
        raise InputError(
            f"{name}: expected a causal language model, found {config.model_type!r} as an encoder, which sees later "
            "words (is_decoder is not true in its config.json)"
        )


def _check_tokenizer(folder: Path, name: str, model) -> None:
    """Make sure that the folder has a tokenizer.json, and that no token is beyond the embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    found = loading.tokenizer_of(folder, name)
    tokenizer = _without_inventions(found, folder, name, rows)
    if tokenizer is not found or not (folder / "tokenizer.json").exists():
        tokenizer.save_pretrained(folder)
        if loading.tokenizer_of(folder, name)(PROBE)["input_ids"] != tokenizer(PROBE)["input_ids"]:
            raise InputError(
                f"{name}: its tokenizer, written as tokenizer.json, gives other tokens; convert it by hand"
            )
    ids = tokenizer.get_vocab()
    last = max(ids, key=ids.get)
    if ids[last] >= rows:
        raise InputError(
            f"{name}: its tokenizer has {last!r} as token {ids[last]}, its embedding has {rows} rows, from 0; "
            "the two belong to different models, or the embedding was not resized"
        )


def _without_inventions(tokenizer, folder: Path, name: str, rows: int):
    """The tokenizer without special tokens that only its class names, beyond the embedding, and no file of the folder.

    GPT-2's class, say, adds <|endoftext|> to a vocabulary that has none.
    """
    known = "".join(path.read_text("utf-8", "replace") for path in folder.glob("*") if path.suffix in (".json", ".txt"))
    ids = tokenizer.get_vocab()
    invented = {token for token, number in ids.items() if number >= rows and json.dumps(token)[1:-1] not in known}
    dropped = {role: None for role, token in tokenizer.special_tokens_map.items() if token in invented}
    return loading.tokenizer_of(folder, name, **dropped) if dropped else tokenizer


def manifest(folder: Path, facts: Facts) -> dict:
    """What manifest.json says of the folder: its facts and the hash and size of each file."""
    listed = {
        path.name: {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(Path(folder).iterdir())
        if path.is_file()
    }
    return {**facts._asdict(), "files": listed}
