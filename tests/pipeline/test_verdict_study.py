"""`make verdict` in miniature: the two study files as they are, with smaller numbers, through real `dvc repro`."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import workspace
from tests.report.test_report import words

pytestmark = pytest.mark.slow

MAKE = ("make", "-o", ".venv/installed")
SMALL = {
    "seeds": ["s1", "s2"],
    "train": {
        "config": {"n_layer": 4, "n_head": 2, "n_embd": 16, "n_positions": 32},
        "context": 32, "epochs": 8, "windows_per_epoch": 32, "batch_size": 8, "learning_rate": 1.0e-2,
        "warmup_steps": 2, "evaluate_every_epochs": 2, "validation_windows": 32,
    },
    "retrain": {"steps": 6, "evaluate_every": 3, "validation_windows": 16},
    "quality": {"context": 32, "max_windows": 32, "bootstrap_draws": 100},
    "efficiency": {"seconds": 0.1, "prompt_tokens": [8], "output_tokens": 4},
    "energy": {"seconds": 0.1, "window_seconds": 0.05, "idle_seconds": 0.1},
}  # fmt: skip


def shrink(path: Path, small: dict) -> None:
    """Put the numbers of `small` over those of a study file, and let its cells have rates that the six need."""
    yaml = YAML()
    study = yaml.load(path)
    for key, value in small.items():
        study[key] = dict(study.get(key) or {}) | value if isinstance(value, dict) else value
    for part in study.get("prune", {}).get("cells", []):
        part["rates"] = [50, 60] if len(part["rates"]) > 3 else [60]
    with open(path, "w", encoding="utf-8") as file:
        yaml.dump(study, file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = workspace.make(tmp_path_factory.mktemp("verdict") / "clone")
    shrink(folder / "studies" / "verdict.yaml", SMALL)
    shrink(folder / "studies" / "verdict-past-best.yaml", {"train": {"epochs": 12}})
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return folder, workspace.run(folder, *MAKE, "verdict")


def test_both_studies_are_kept_and_read_together(folder):
    folder, told = folder
    content = json.loads((folder / "finished" / "verdict.json").read_text(encoding="utf-8"))
    assert content["missing"] == {} and len(content["claims"]) == 7
    assert [one["id"] for one in content["primary"]] == ["P1", "P2", "P3", "P4", "P5", "P6"]
    for one in content["primary"]:
        assert one["effect"]["seeds"] == 2 and one["effect"]["windows_lo"] is not None, one["id"]
    for study in ("verdict", "verdict-past-best"):
        assert json.loads((folder / "finished" / study / "study.json").read_text())["seeds"] == ["s1", "s2"]
    assert all(f"{one['id']}  " in told for one in content["primary"]) and "finished/verdict.html" in told
    assert not re.search(r"^systematic-50 s1", told, re.MULTILINE)  # hundreds of rows are no news


def test_the_page_holds_them_side_by_side(folder):
    folder, _ = folder
    text = words((folder / "finished" / "verdict.html").read_text(encoding="utf-8"))
    assert "study verdict, " in text and "study verdict-past-best, " in text
    assert "train.epochs 8 12" in text and "fetch.split.train_characters" in text
    assert "not in these studies" not in text and "Between the regimes" in text


def test_an_interrupted_verdict_continues_and_a_finished_one_trains_nothing(folder):
    folder, _ = folder
    before = (folder / "finished" / "verdict" / "losses.safetensors").read_bytes()
    shutil.rmtree(folder / "finished" / "verdict")
    told = workspace.run(folder, sys.executable, "-m", "flows.local", "--study", "verdict", "--no-table")
    assert re.search(r"stages: \d+ ran, [1-9]\d* restored from the cache", told)
    assert (folder / "finished" / "verdict" / "losses.safetensors").read_bytes() == before
