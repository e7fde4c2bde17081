"""What a model keeps from token to token, and how it takes it back: keys and values, a state, or nothing."""

import copy
import functools
import inspect

import torch

# Keys and values, or what a state-space model carries on. Not RWKV's `state`: where it is taken up again, transformers
# (5.23) mixes the rows of a batch.
NAMES = ("past_key_values", "cache_params")


def step(model, ids: torch.Tensor, cache=None, **more):
    """Run ids (batch, tokens) behind what `cache` holds: (the model's output, the cache for what follows).

    `cache` is what the last call returned: keys and values, a state-space model's state, or, of a model that keeps
    nothing (the first GPT, RWKV), all ids so far, which it reads again.
    """
    name = _name(type(getattr(model, "_orig_mod", model)))  # _orig_mod: of a compiled model
    if torch.is_tensor(cache):
        ids, cache = torch.cat([cache, ids], dim=1), None
    out = model(input_ids=ids, **({name: cache, "use_cache": True} if name else {}), **more)
    kept = getattr(out, name, None) if name else None
    return out, ids if kept is None else kept


@functools.cache
def _name(kind: type) -> str | None:
    """The argument and the output by which models of a class take and return what they keep."""
    known = inspect.signature(kind.forward).parameters
    return next((name for name in NAMES if name in known), None)


def rows(cache, indices: torch.Tensor):
    """A cache of the rows `indices` of one that `goes_back`, in this order, a row as often as it is named.

    The given one stays as it is, whatever is added to either.
    """
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    taken.batch_select_indices(indices)
    return taken


def growing(cache) -> list | None:
    """The layers of a cache that grow by a key and a value a token; None where it keeps something else, or nothing.

    A layer that uses another's keys and values has none of its own and is left out.
    """
    layers = [layer for layer in getattr(cache, "layers", []) if type(layer).__name__ != "DummyLayer"]
    whole = all(torch.is_tensor(getattr(layer, "keys", None)) and layer.keys.dim() == 4 for layer in layers)
    # A layer of several kinds (attention beside a state, an index of keys) holds tensors besides.
    plain = all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in layers)
    return layers if layers and whole and plain else None


def goes_back(cache) -> bool:
    """Whether what was added to a cache can be taken off again (`crop`): not where a layer forgets or keeps a state."""
    layers = getattr(cache, "layers", [])
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" for layer in layers)
