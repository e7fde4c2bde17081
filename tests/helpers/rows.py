"""Rows of results made by hand, as far as a model to deploy is chosen by them."""

from types import SimpleNamespace

from prunelab.tasks import Headline, language

LOSS = language.HEADLINE
ACCURACY = Headline("accuracy", "accuracy", "points", ".1f", lower_is_better=False, items="pictures")  # no task's here
DENSE_LOSS, DENSE_MB, DENSE_MS = 1.5, 3.2, 2.4
NO_BUDGETS = dict.fromkeys(
    ("stored_mb", "memory_mb", "prefill_ms", "decode_ms_per_token", "joules_per_token", "worse_percent",
     "accuracy_drop_points", "right_probability_drop_points")
)  # fmt: skip


def row(name: str, mb: float = DENSE_MB, time=1.0, loss=0.0, half=0.01, seed: int = 1337, tag="s1", **columns) -> dict:
    """A row that decodes in `time` of dense's and has `loss` percent more, with half-widths `half` and ten times that
    in percent; a pair (value, half-width) says its own."""
    ratio, wide = time if isinstance(time, tuple) else (time, half)
    more, apart = loss if isinstance(loss, tuple) else (loss, 10 * half)
    made = {
        "variant": name, "path": f"{tag}/{name}", "dense": f"{tag}/dense", "seed": seed, "timed_as": None,
        "rate": "50" if name[-1].isdigit() and not name.endswith("int8") else None, "parameters": 800_000,
        "packed_bytes": 1e6 * mb, "dense_bytes": 1e6 * DENSE_MB,
        "loss": DENSE_LOSS * (1 + more / 100), "unreliable": False, "energy_estimated": True,
    }  # fmt: skip
    for column, scale, value, width in (
        ("decode_ratio", 1, ratio, wide),
        ("decode_ms_per_token", DENSE_MS, ratio, wide),
        ("prefill_ratio", 1, ratio, wide),
        ("prefill_ms", 4.0, ratio, wide),
        ("decode_j_ratio", 1, ratio, wide),
        ("decode_j_per_token", 0.002, ratio, wide),
        ("loss_increase_percent", 1, more, apart),
        ("peak_memory_bytes", 4e8, 1.0, 0.002),
    ):
        made |= {
            column: scale * value,
            f"{column}_lo": scale * (value - width),
            f"{column}_hi": scale * (value + width),
        }
    return made | {"decode_smallest_effect": half} | columns


def deploy(minimise=("decode_ms_per_token", "stored_mb"), variant=None, devices=(), **budgets):
    """The section `deploy` of the settings, without budgets unless they are given."""
    limits = {name: budgets.get(name) for name in NO_BUDGETS}
    held = {name: limit for name, limit in limits.items() if limit is not None}
    return SimpleNamespace(minimise=list(minimise), variant=variant, devices=dict(devices), budgets=held, **limits)
