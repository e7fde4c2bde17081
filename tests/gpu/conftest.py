"""Tests on a CUDA GPU (`make test-gpu`), each held against the CPU; without one each skips."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.gpu import both
from tests.training.test_training import write_text


@pytest.fixture(autouse=True, scope="session")
def card():
    """Nothing here runs without a GPU."""
    if both.GPU == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"no CUDA GPU: torch {torch.__version__} says that cuda is not available here")


class Study(NamedTuple):
    folder: Path
    settings: Any
    dense: dict[str, Path]  # by the device that trained it


def _trained(folder: Path, architecture: str) -> Study:
    write_text(folder / "data")
    settings = both.settings(folder, train={"architecture": architecture, "config": both.CONFIGS[architecture]})
    dense = {device: both.train(folder, f"dense-{place}", device, settings) for place, device in _devices().items()}
    return Study(folder, settings, dense)


def _devices() -> dict[str, str]:
    """The GPU first: whatever a library remembers of this process, it has seen one."""
    return {"gpu": both.GPU, "cpu": "cpu"}


@pytest.fixture(scope="session")
def gpt2(card, tmp_path_factory) -> Study:
    """A small GPT-2, trained on both; its layers are Conv1D."""
    return _trained(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="session")
def llama(card, tmp_path_factory) -> Study:
    """A small Llama, trained on both; its layers are Linear, its key heads are shared."""
    return _trained(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(params=["gpt2", "llama"])
def study(request) -> Study:
    return request.getfixturevalue(request.param)
