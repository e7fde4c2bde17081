"""Weights into a model class: the one place that loads them, and that looks at what the library says of it.

transformers fills what a file lacks with random numbers and drops what it has no place for; both are only logged.
Here either is an error that names the tensors. Tensors go by the *module's* names everywhere behind `take`; the
library's own mapping translates the names of published files (GPT-NeoX's `embed_out`, one tensor for each of Mixtral's
experts), so they must pass through the class once.
"""

import contextlib
import pickle
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from prunelab.errors import InputError, in_one_line
from prunelab.models import composites, owncode
from prunelab.models.tensors import Tensors, stored_dtype, weight_files

# Buffers that classes once stored and now compute: causal masks, rotary frequencies, positions. The library knows most
# of them, but not for every name that a checkpoint without its model's prefix gives them.
MASK = re.compile(r"(^|\.)(attn|attention|self_attention|self_attn)\.(attention\.)?(bias|masked_bias)$")
COMPUTED = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
REFUSED = re.compile(r"WeightsUnpickler error: (.*?)(?:\.? Please use |\.? Check the doc|$)")  # of torch's page on it
WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}


def of_folder(folder, dtype: torch.dtype | None = None):
    """The model of the plain `folder`, in eval mode on the CPU; `dtype` None: the stored one.

    It is a causal LM, or one that sees pictures (composites.py), as its config.json says. Raises InputError that names
    tensors which are missing, have no place, or have another shape.
    """
    dtype = dtype or stored_dtype(weight_files(folder))
    return _checked(folder, Tensors(folder).shape, lambda: _from_pretrained(folder, dtype=dtype))


def skeleton(folder):
    """The model of the plain `folder` without its values (on the meta device), looked at like one that is loaded."""
    return _checked(folder, Tensors(folder).shape, lambda: _from_pretrained(folder, device_map="meta"))


def of_state(config, state: dict[str, torch.Tensor], dtype: torch.dtype, name):
    """The model of `config` with the tensors of `state`, which go by the module's names; `name`: for errors."""
    # The concrete class, because the Auto class insists on a folder; it ties weights and skips the random init.
    model_class = composites.class_of(config)
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    return _checked(
        name,
        lambda tensor: list(state[tensor].shape),
        lambda: model_class.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **options),
    )


def of_config(config, **options):
    """A model of `config` with random weights, or none on the meta device; `options`: the library's (`dtype`)."""
    if owncode.is_own(config):
        return composites.class_of(config)._from_config(config, **options)
    return composites.auto_class(config).from_config(config, **options)


def of_pickled(folder, name):
    """The model of a folder with pickled weights (`pytorch_model*.bin`), in the dtype that they are stored in.

    torch's restricted unpickler builds tensors and nothing else. Raises InputError for anything else, as `of_folder`.
    """
    shapes = {}
    try:
        for path in sorted(Path(folder).glob("pytorch_model*.bin")):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
            if foreign := [key for key, value in state.items() if not torch.is_tensor(value)]:
                raise ValueError(f"{foreign[0]!r}, which is a {type(state[foreign[0]]).__name__}")
            shapes |= {key: (list(value.shape), value.dtype) for key, value in state.items()}
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError, AttributeError) as error:
        # The page around the reason advises to run what the file holds.
        refused = REFUSED.search(" ".join(str(error).split()))
        found = refused[1] if refused else in_one_line(error)
        raise InputError(
            f"{name}: expected pickled weights that hold tensors and nothing else, found: {found}"
        ) from error
    floats = Counter()
    for shape, dtype in shapes.values():
        floats[dtype] += torch.Size(shape).numel() if dtype.is_floating_point else 0
    if not floats.total():
        raise InputError(f"{name}: expected pickled weights, found none in floating point")
    dtype = floats.most_common(1)[0][0]
    return _checked(
        name, lambda key: shapes[key][0], lambda: _from_pretrained(folder, use_safetensors=False, dtype=dtype)
    )


def _is_zip(path: Path) -> bool:
    """Whether torch.save wrote the file in its present format, which alone can be mapped into memory."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def of_gguf(path: Path):
    """(model, tokenizer) of a GGUF file, dequantised to fp32. Raises InputError where the library cannot read it."""
    from transformers import GgufConfig

    options = {"gguf_file": path.name, "dtype": torch.float32}
    # Without `dequantize` the model can't be saved.
    model = _checked(
        path.name,
        lambda key: [],
        lambda: _from_pretrained(path.parent, quantization_config=GgufConfig(dequantize=True), **options),
        f"{path.name}: expected a GGUF file that transformers can read, found",
    )
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@torch.no_grad()
def put(model, state: dict[str, torch.Tensor], name, folder) -> None:
    """Replace values of `model`, the one of `folder`, in place by those of `state`: every parameter that it has, once.

    Raises InputError where `state` holds other tensors than the model, or of other shapes; `name`: of the file.
    """
    own = dict(model.named_parameters())  # a tied tensor once, as `save` writes it
    buffers = dict(model.named_buffers())
    if foreign := sorted(state.keys() - own.keys() - buffers.keys()):
        raise InputError(f"{name}: tensor {foreign[0]!r} does not belong to {folder}")
    if missing := sorted(own.keys() - state.keys()):
        raise InputError(f"{name}: expected all {len(own)} weights of {folder}, found none for {_some(missing)}")
    for tensor, value in state.items():
        target = own.get(tensor, buffers.get(tensor))
        if target.shape != value.shape:
            raise InputError(f"{name}: {tensor} has shape {list(value.shape)}, the model's is {list(target.shape)}")
        target.copy_(value)


def save(model, folder, published: bool = False) -> None:
    """Write `model` as a plain folder, the tensors under the module's names or, `published`, under those of the hub.

    `from_pretrained` loads either. Raises InputError where the library refuses, for what generation_config.json says.
    """
    with quiet():
        try:
            model.save_pretrained(folder, save_original_format=published)
        except ValueError as error:
            reason = in_one_line(error)
            raise InputError(f"{type(model).__name__}: cannot be saved: {reason}") from error


def state_names(model, untied: list[tuple[str, str]] = ()) -> list[str]:
    """The tensors that a file of `model` holds, by the module's names: parameters, kept buffers, a tied one once.

    untied: what `untied` found, pairs that the config ties and the files do not.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ()) - {target for target, _ in untied}
    return [name for name in model.state_dict() if name not in tied]


def buffers(model) -> list[str]:
    """The tensors that a file of `model` holds and that are no parameters: a router's balance, say."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [name for name in model.state_dict() if name not in parameters]


def untied(folder, model) -> list[tuple[str, str]]:
    """(target, source) of tensors that `model`'s config ties while the files in `folder` hold two different ones.

    The library leaves such a pair untied when it loads the values; the `skeleton`, which has none, cannot know.
    """
    stored, prefix = Tensors(folder), f"{model.base_model_prefix}."

    def held(name: str) -> str | None:
        return next((known for known in (name, name.removeprefix(prefix)) if known in stored), None)

    pairs = []
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        one, other = held(target), held(source)
        if one and other and not torch.equal(stored[one], stored[other]):
            pairs.append((target, source))
    return pairs


@torch.inference_mode()
def sees_ahead(model, ids: torch.Tensor) -> bool:
    """Whether another last token of `ids` (1, tokens) changes the logits before it: such a model is no causal one.

    Raises InputError where a logit is no number.
    """
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % model.get_input_embeddings().num_embeddings
    return all(_differ(model, ids, other, told) for told in composites.ways_to_attend(model))


def _differ(model, ids: torch.Tensor, other: torch.Tensor, told: dict) -> bool:
    """Whether the logits of two texts differ before their last token; `told`: values of arguments for every token."""
    more = {key: torch.full_like(ids, value) for key, value in told.items()}
    one, two = (model(input_ids=tokens, use_cache=False, **more).logits[0, :-1].float() for tokens in (ids, other))
    if one.isnan().any():
        dtype = str(model.dtype).removeprefix("torch.")
        raise InputError(
            f"expected a model that predicts numbers, found nan: its weights hold nan or are too large for {dtype}"
        )
    # A causal model computes the same again; only experts, which get other tokens together, round otherwise. An
    # untrained encoder differs by as little as 1e-4.
    tolerance = 1e-5 if model.dtype == torch.float32 else 1e-2
    return bool((one - two).abs().max() > tolerance * one.abs().max())


def require_causal(model, name) -> None:
    """Raises InputError where a later token changes what the model predicts before it: no loss of it means anything.

    The same for a model that cannot run at all, or predicts what is no number.
    """
    ids = torch.arange(1, 9, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    try:
        ahead = sees_ahead(model, ids)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        reason = in_one_line(error)
        raise InputError(f"{name}: {type(model).__name__} cannot run with its config.json: {reason}") from error
    if ahead:
        raise InputError(
            f"{name}: expected a causal language model, found that a later token changes the predictions before it "
            f"({type(model).__name__}; an encoder, or is_decoder: false in its config.json)"
        )


def _from_pretrained(folder, **options):
    auto = AutoModelForCausalLM if "gguf_file" in options else composites.auto_class(config_of(folder))
    return auto.from_pretrained(
        folder,
        trust_remote_code=owncode.granted(folder),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )


def _checked(name, shape_of, load, problem: str | None = None):
    try:
        with quiet():
            model, told = load()
    except InputError:
        raise
    except Exception as error:  # the library has a dozen kinds for a folder that it does not like
        reason = in_one_line(error)
        if "automatic conversion of the weights" in reason:
            reason = "tensors that belong together (experts, say) are not all there or not of one shape"
        raise InputError(f"{problem or f'{name}: the model cannot be built from its files'}: {reason}") from error
    _check(name, type(model).__name__, told, shape_of)
    return model.eval()


def _check(name, kind: str, told: dict, shape_of) -> None:
    missing = sorted(told["missing_keys"])
    unexpected = sorted(key for key in told["unexpected_keys"] if not _is_computed(key, shape_of))
    mismatched = sorted(told["mismatched_keys"], key=lambda entry: entry[0])
    if unexpected and (wrapper := next((w for w in WRAPPERS if all(key.startswith(w) for key in unexpected)), None)):
        raise InputError(
            f"{name}: every tensor's name begins with {wrapper!r}, which {WRAPPERS[wrapper]} put there; save the model "
            "that is wrapped (model._orig_mod, model.module), or take the prefix off"
        )
    problems = []
    if missing:
        problems.append(f"none for {_some(missing)}")
    if unexpected:
        problems.append(f"{_some(unexpected)} that {kind} has no place for")
    if mismatched:
        tensor, found, expected = mismatched[0]
        problems.append(f"{tensor} of shape {list(found)} where its config.json says {list(expected)}")
    if problems:
        raise InputError(f"{name}: expected all of the model's weights, found {'; '.join(problems)}")
    if errors := told.get("error_msgs"):
        raise InputError(f"{name}: expected all of the model's weights, found: {in_one_line(ValueError(errors))}")


def is_mask(key: str) -> bool:
    """Whether a tensor has the name of a buffer that classes compute: masks are also kept in integers."""
    return bool(MASK.search(key) or COMPUTED.search(key))


def _is_computed(key: str, shape_of) -> bool:
    """Whether a stored tensor is one that the class computes by itself."""
    # A causal mask has four dimensions, its filler none or one value; a bias that has no place is something else.
    return bool(COMPUTED.search(key)) or (is_mask(key) and len(shape_of(key)) in (0, 4))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextlib.contextmanager
def quiet():
    """The library's warnings off, because what they tell is looked at here; its bars only on a terminal."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # in a log each step of a bar is a line
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def config_of(folder):
    """The config in `folder`. Raises InputError when there is none, or not of a model that the library knows."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json in it; expected a model's folder")
    granted = owncode.granted(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=granted)
    except Exception as error:  # as above
        reason = in_one_line(error)
        raise InputError(f"{path}: the library cannot read it: {reason}") from error


def tokenizer_of(folder, name, **special):
    """The tokenizer in `folder`, one that says where its tokens lie; `special`: other special tokens than its own.

    Raises InputError with the reason in one line; `name`: for it.
    """
    granted = owncode.granted(folder)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=granted, **special)
        except Exception as error:  # as many kinds as tokenizers
            reason = in_one_line(error)
            if "trust_remote_code" in str(error):
                reason = "it needs Python code of its own, which is never run"
            elif any(Path(folder).glob("*.model")) and not find_spec("sentencepiece"):
                reason = "one in SentencePiece's format only; pip install sentencepiece, or add its tokenizer.json"
            raise InputError(f"{name}: expected a tokenizer that transformers can load, found: {reason}") from error
    if not tokenizer.is_fast:
        raise InputError(
            f"{name}: expected a tokenizer that becomes a tokenizer.json, found {type(tokenizer).__name__}, which does "
            "not; bytes are counted by its tokens' places in the text"
        )
    if not len(tokenizer):
        raise InputError(f"{name}: expected a tokenizer, found one without tokens")
    return tokenizer
