"""studies/price-cards.yaml in miniature, through a real `dvc repro`."""

import csv
import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.helpers import studies, workspace

pytestmark = pytest.mark.slow


def miniature() -> dict:
    study = studies.raw("price-cards")
    study["price"]["cards"]["count"] = 80
    study["price"]["tower"] |= {"width": 16, "layers": 1, "heads": 2}
    study["price"]["split"] |= {"validation_percent": 10, "test_percent": 20}
    study["train"]["config"] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    study["train"]["config"] |= {"num_attention_heads": 2}
    study["train"] |= {"epochs": 2, "warmup_steps": 2}
    study["calibrate"]["samples"] = 8
    study["prune"] |= {"methods": ["magnitude", "wanda"], "rates": [50], "further": ["dense-int8"]}
    study["quality"]["bootstrap_draws"] = 200
    study["efficiency"] |= {"seconds": 0.2, "methods": ["magnitude"]}
    study["energy"] |= {"seconds": 0.2, "window_seconds": 0.05, "idle_seconds": 0.1}
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = workspace.make(tmp_path_factory.mktemp("price") / "clone")
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(miniature(), file)
    workspace.run(folder, "dvc", "repro")
    return folder


def test_every_row_has_an_error_and_the_dense_one_its_baselines_and_controls(study):
    with open(study / "report" / "results.csv", encoding="utf-8", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["dense", "dense-int8", "magnitude-50", "wanda-50"]
    assert all(float(row["mae"]) > 0 for row in rows.values())
    assert rows["dense"]["mae_diff"] == rows["dense"]["loss_diff"] == "0.0"
    assert all(float(rows[name]["loss_diff"]) != 0 for name in rows if name != "dense")
    dense = json.loads((study / "results/s1/dense/quality.json").read_text())
    assert set(dense["baselines"]) == {"mean", "median", "ridge"}
    assert set(dense["controls"]) == {"shuffled_pictures", "blank_text"}
    timed = json.loads((study / "results/s1/dense/efficiency.json").read_text())
    assert 0 < timed["vision_share"] < 1


def test_the_report_tells_of_errors_and_shows_pictures(study):
    page = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert "mean absolute error" in page
    assert "data:image/jpeg;base64" in page
    assert json.loads((study / "report" / "recommendation.json").read_text())["headline"]["column"] == "mae"


def test_what_is_delivered_sees_without_this_package(study):
    code = (
        "import sys; sys.modules['prunelab'] = None\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"folder = {str(study / 'models' / 's1' / 'dense')!r}\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder)\n"
        "print(type(model).__name__, type(AutoProcessor.from_pretrained(folder)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=study, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlavaForConditionalGeneration", "LlavaProcessor"]


def test_a_price_is_predicted_of_one_picture_by_a_pruned_folder(study):
    picture = next((study / "data/fetched/price/pictures").iterdir())
    options = ["--text", "condition=new", "--text", "pack=2"]
    told = workspace.run(
        study, "python", "-m", "prunelab", "predict", "models/s1/wanda-50", str(picture), *options, check=False
    )
    assert told.startswith("$") or "in which there is no price" in told


def test_nothing_runs_again_but_what_always_does(study):
    told = workspace.run(study, "dvc", "status")
    assert "train" not in told and "prune" not in told and "quality" not in told
