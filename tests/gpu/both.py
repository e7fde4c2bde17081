"""The same work on the GPU and on the CPU of one process, and how far apart what they find may be.

Both compute in fp32 here unless a test says otherwise (torch leaves TF32 off). One rounding is 6e-8 relative, sums of
a few hundred terms taken in another order differ by some 1e-6, and a small model's logits by some 1e-5.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from prunelab.making.given import Given
from prunelab.study import params
from prunelab.tasks import language
from prunelab.training import training
from tests.helpers import studies

GPU = "cuda"
CONFIGS = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0},
    "llama": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": 64},
}  # fmt: skip
METHODS = ["magnitude", "wanda", "taylor", "sparsegpt"]  # between them they need every statistic


@contextlib.contextmanager
def on(device: str, folder=None):
    """Within, the package computes on `device`: for the CPU it finds no GPU, as on a machine without one.

    folder: what the current one is within.
    """
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            patch.chdir(folder)
        if device == "cpu":
            patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found - expected‖ / ‖expected‖, in float64."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def require_near_ties(found: torch.Tensor, expected: torch.Tensor, scores: torch.Tensor) -> None:
    """Keep-masks (groups, columns) are equal but where weights of one group have the same score up to 1e-4.

    A hundred times what the scores of both devices differ by, so that a mask of other scores fails.
    """
    moved = found != expected
    for row in moved.any(1).nonzero().flatten().tolist():
        values = scores[row][moved[row]]
        assert values.max() - values.min() <= 1e-4 * values.max(), f"group {row}: {values.tolist()}"


def settings(folder: Path, **sections) -> params.Settings:
    """The default study in small, with `sections` over it; also written as params.yaml."""
    raw = studies.raw("default")
    raw["train"] |= {
        "context": 32, "epochs": 3, "windows_per_epoch": 160, "batch_size": 8, "warmup_steps": 5, "precision": "fp32",
        "evaluate_every_epochs": 1, "validation_windows": 40,
    }  # fmt: skip
    raw["calibrate"] |= {"samples": 16, "length": 32, "batch_tokens": 256, "precision": "fp32"}
    raw["prune"] |= {"methods": METHODS, "rates": [50], "further": []}
    raw["recover"] |= {"tokens": 4000, "batch_size": 8, "validation_windows": 40}
    raw["quality"] |= {
        "context": 32, "max_windows": 60, "kl_windows": 20, "bootstrap_draws": 200,
        "robustness": {"texts": 6, "kinds": ["typos"], "strengths_percent": [10], "seed": 11},
    }  # fmt: skip
    raw["quality"]["samples"] |= {"prompts": ["to be or ", "the "], "tokens": 20}
    raw["efficiency"] |= {"seconds": 1, "prompt_tokens": [16], "output_tokens": 8, "within_percent": 50}
    for name, changes in sections.items():
        raw[name] = (raw[name] or {}) | changes
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(raw, file)
    return params.load(folder / "params.yaml")


def train(folder: Path, name: str, device: str, wanted: params.Settings, callbacks=()) -> Path:
    """The stage's own training on `device`, into models/<name> of `folder`."""
    out = folder / "models" / name
    out.mkdir(parents=True)
    with on(device, folder):
        training.run(wanted, language, folder / "data", out, seed=1, callbacks=callbacks)
    return out


def given(study, wanted: params.Settings | None = None, calibration: Path | None = None) -> Given:
    """What the stages that make variants are given: the dense model that the GPU trained."""
    return Given(wanted or study.settings, "s1", study.dense[GPU], study.folder / "data", calibration, language)
