"""What the dense model leaves behind so that its variants need no text, no tokenizer and no dense forward pass."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunelab.data import probes
from prunelab.disk.files import read_json, whole_file
from prunelab.errors import InputError
from prunelab.quality import quality
from prunelab.quality.heads import Head
from prunelab.quality.quality import DenseStates
from prunelab.quality.windows import Windows

ASKED = {  # settings that must be the same
    "context", "max_windows", "kl_windows", "robustness", "samples", "questions", "texts", "texts_windows",
    "texts_context", "also_contexts",
}  # fmt: skip

# That say which dense model a variant was made of.
RECORDS = ("quantised.json", "precision.json", "sparsity.json", "control.json")


class Reference(NamedTuple):
    facts: dict  # dense_sha256, libraries, split, text_sha256, context, dtype: as in every quality.json of the study
    windows: Windows
    loss: np.ndarray  # (windows,) float64, the dense model's
    nll: np.ndarray  # (windows, context - 1) float32, the dense model's
    choice: np.ndarray  # (windows, context - 1) int32, the dense model's most probable tokens
    states: DenseStates
    extra: dict[str, np.ndarray]  # what probes.prepare asks, and what the dense model answered (probes.kept)
    asked: dict  # the settings it was made with, those of ASKED


def save(path, reference: Reference) -> None:
    """Write a reference as one safetensors file."""
    arrays = {
        "tokens": reference.windows.tokens,
        "bytes": reference.windows.bytes,
        "spans": reference.windows.spans,
        "loss": reference.loss,
        "nll": reference.nll,
        "choice": reference.choice,
        **{f"extra.{name}": array for name, array in reference.extra.items()},
    }
    head = reference.states.head
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    tensors["dense.hidden"] = reference.states.hidden.contiguous()
    for part in ("weight", "bias"):
        if (value := getattr(head, part)) is not None:
            tensors[f"dense.{part}"] = value.detach().contiguous()
    facts = {"facts": reference.facts, "asked": reference.asked, "head": {"scale": head.scale, "softcap": head.softcap}}
    write(path, tensors, facts)


def write(path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Write tensors and what is to be known of them (plain JSON) as one file."""
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={"prunelab": json.dumps(about)})


def read(path) -> tuple[dict[str, torch.Tensor], dict]:
    """What `write` wrote. Raises InputError when it is missing or broken."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["prunelab"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the reference stage first (dvc repro reference)") from None
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a reference of this program ({error}); run the reference stage again") from None


def load(path) -> Reference:
    """Read what `save` wrote. Raises InputError when it is missing or broken."""
    tensors, about = read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith("dense.")}
    head = Head(tensors.get("dense.weight"), tensors.get("dense.bias"), **about["head"])
    return Reference(
        about["facts"],
        Windows(arrays["tokens"], arrays["bytes"], arrays["spans"]),
        arrays["loss"],
        arrays["nll"],
        arrays["choice"],
        DenseStates(tensors["dense.hidden"], head),
        {name.removeprefix("extra."): array for name, array in arrays.items() if name.startswith("extra.")},
        about["asked"],
    )


def asked(wanted, folder) -> dict:
    """What a reference and its variants must share: settings (`wanted`: section `quality`), and what is asked besides.

    folder: that of the stage probes.
    """
    besides = probes.hashes(folder, wanted.texts, wanted.questions.names)
    return wanted.model_dump(mode="json", include=ASKED) | {"probes": besides}


def libraries() -> dict[str, str]:
    """The versions that compute a model's figures."""
    return {name: version(name) for name in ("torch", "transformers")}


def check(reference: Reference, wanted, folder) -> None:
    """Raises InputError that names what is another now than when the reference was made; folder: as for `asked`."""
    now = asked(wanted, folder)
    for name, sha256 in now.pop("probes").items():
        if reference.asked.get("probes", {}).get(name) != sha256:
            key = "texts" if name in wanted.texts else "questions"
            raise InputError(
                f"quality.{key}: {name} is not the file that dense was asked; run the reference stage again"
            )
    check_same("quality", reference.asked, now)
    check_libraries(reference.facts)


def check_same(section: str, asked: dict, now: dict) -> None:
    """Raises InputError that names the setting of `section` which is another `now` than when dense was asked."""
    for key, value in now.items():
        if asked.get(key) != value:
            raise InputError(
                f"{section}.{key} is {value}, but the reference was made with {asked.get(key)}; "
                "run the reference stage again"
            )


def check_libraries(facts: dict) -> None:
    """Raises InputError where a library has another version than in the facts of a reference."""
    for name, found in libraries().items():
        if facts.get("libraries", {}).get(name, found) != found:
            raise InputError(
                f"{name} is {found}, but the reference was made with {facts['libraries'][name]}, and another "
                "version computes other figures; run the reference stage again"
            )


def check_model(reference, folder, name: str) -> None:
    """Raises InputError when the variant `name` in `folder` was made of another dense model than the reference's (any
    that has `facts`)."""
    folder, known = Path(folder), reference.facts.get("dense_sha256")
    record = next((folder / file for file in RECORDS if (folder / file).exists()), None)
    made_of = read_json(record).get("dense_sha256") if record else None
    if known and made_of and made_of != known:
        raise InputError(
            f"{name}: was made of another dense model than the one it would be compared with; make it again "
            "(dvc repro), or run the reference stage again"
        )


def figures(scores: quality.Scores, dense: Reference, wanted) -> dict:
    """What quality.json says of a model scored on the reference's windows; wanted: the settings' `quality` section."""
    summary = quality.summary(scores, dense.windows, dense.loss, wanted.bootstrap_draws)
    # A curve is for the eye: a fifth of the draws is enough, and it has one interval for each doubling.
    curve = quality.context_curve(scores.nll, dense.nll, max(1, wanted.bootstrap_draws // 5))
    return {**dense.facts, **summary, "context_curve": curve}
