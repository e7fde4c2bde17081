"""Cells: judged as rows of their own would be, kept as figures alone, none of them twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.making import cells, chain
from prunelab.recipes import variants
from tests.helpers import recipes
from tests.helpers.recipes import placed  # noqa: F401  (a fixture)

QUALITY = {
    "context": 16, "max_windows": 8, "kl_windows": 2, "bootstrap_draws": 50,
    "robustness": {"texts": 0, "kinds": ["typos"], "strengths_percent": [10], "seed": 1},
    "samples": {"prompts": [], "tokens": 4, "temperature": 0.8, "seeds": [1], "chat": False},
}  # fmt: skip
CELLS = [
    {"methods": ["random", "systematic"], "rates": [30, 50], "then": None},
    {"methods": ["magnitude"], "rates": [50], "then": "retrained"},
]
PROBES = Path("data/probes")  # nothing is asked besides
IDS = ["random-30", "random-50", "systematic-30", "systematic-50", "magnitude-50-retrained"]


def given(cells_=CELLS, **changes):
    prune = {"methods": ["magnitude"], "rates": [50], "further": [], "cells": cells_}
    return recipes.given(quality=QUALITY, prune=prune, deploy={"variant": "dense"}, **changes)


@pytest.fixture
def study(placed, tmp_path, monkeypatch):  # noqa: F811
    """A folder of its own with the dense model, scored; what steps are done from now on is listed."""
    shutil.copytree(placed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    told = given()
    told.task.reference(told.settings, told.dense, told.data, PROBES, Path("results/s1/dense"))
    return recipes.count_steps(monkeypatch)


def judge(told) -> Path:
    out = Path("results/s1/cells")
    cells.judge(told, Path("results/s1/dense"), PROBES, out)
    return out


def test_a_cell_is_found_as_a_row_of_its_own_would_be_and_no_model_is_kept(study):
    told = given()
    out = judge(told)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(IDS)
    for identifier in ("systematic-50", "magnitude-50-retrained"):
        model, row = Path("by-hand") / identifier, Path("by-hand-results") / identifier
        chain.make(told, variants.parse(identifier), model)
        told.task.judge(told.settings, identifier, model, Path("results/s1/dense"), PROBES, row)
        mine, theirs = (load_file(folder / "windows.safetensors") for folder in (out / identifier, row))
        assert np.array_equal(mine["loss"], theirs["loss"])
        assert read_json(out / identifier / "quality.json") == read_json(row / "quality.json")
        one, other = (read_json(folder / "sparsity.json") for folder in (out / identifier, model))
        assert [record.get("recovery", {}).pop("seconds", None) for record in (one, other)] != [0, 0]
        assert one == other
    assert not list(out.rglob("packed*"))


def test_a_killed_stage_goes_on_where_it_was_and_an_added_cell_makes_no_other_again(study, monkeypatch):
    scored, told = [], given()
    whole = told.task.judge

    def stops(settings, name, *places):
        if name == "systematic-30" and name not in scored:
            scored.append(name)
            raise KeyboardInterrupt
        scored.append(name)
        whole(settings, name, *places)

    monkeypatch.setattr(told.task, "judge", stops)
    with pytest.raises(KeyboardInterrupt):
        judge(told)
    assert not Path("results/s1/cells").exists() and scored == [*IDS[:2], IDS[2]]
    judge(told)
    assert scored == [*IDS[:3], *IDS[2:]]
    scored.clear()
    out = judge(given([*CELLS, {"methods": ["best-magnitude"], "rates": [30], "then": None}]))
    assert scored == ["best-magnitude-30"] and (out / "best-magnitude-30" / "quality.json").exists()
    scored.clear()
    judge(given(CELLS[:1]))
    assert scored == [] and len(list((cells.FOLDER / "s1").iterdir())) == 4  # what no cell asks for any more goes


def test_another_setting_of_quality_judges_all_again(study):
    judge(given())
    before = set((cells.FOLDER / "s1").iterdir())
    told = given()
    quality = told.settings.quality.model_copy(update={"bootstrap_draws": 60})
    judge(told._replace(settings=told.settings.model_copy(update={"quality": quality})))
    assert not before & set((cells.FOLDER / "s1").iterdir())


def test_without_cells_there_is_an_empty_folder(study):
    out = judge(given([]))
    assert [path for path in out.iterdir() if path.is_dir()] == [] and study == []


def test_a_cell_that_is_a_row_anyhow_is_no_cell_and_each_is_one_once():
    wanted = [*CELLS, {"methods": ["magnitude", "random"], "rates": [50, 30], "then": None}]
    found = [variant.id for variant in given(wanted).settings.prune.cell_variants]
    assert found == [*IDS, "magnitude-30"]
    assert [variant.id for variant in given(wanted).settings.variants()] == ["dense", "magnitude-50", *found]


@pytest.mark.parametrize(
    ("cell", "deploy", "told"),
    [
        ({"methods": ["wanda"], "rates": [50], "then": None}, "dense", "wanda-50 looks at calibration text"),
        (CELLS[0], None, "deploy.variant: null may choose one of prune.cells"),
        (CELLS[0], "random-30", "prune.cells: random-30 is judged and not kept"),
        ({"methods": ["systematic-half"], "rates": [50], "then": None}, "dense",
         "systematic-half-50 reads what this training does not keep; set train.tracker.windows: {half:"),
        ({"methods": ["history-threshold"], "rates": [50], "then": None}, "dense",
         "history-threshold-50 reads what this training does not keep; set train.tracker.signed_sqrt: true"),
        ({"methods": ["history-threshold-sigma"], "rates": [50], "then": None}, "dense",
         "sigma cannot: its scores are in standard deviations already"),
        ({"methods": ["gradual-magnitude"], "rates": [50], "then": None}, "dense", "fill this section in"),
        ({"methods": ["nothing"], "rates": [50], "then": None}, "dense", "there is no method 'nothing'"),
        ({"methods": ["random"], "rates": [50], "then": "rested"}, "dense", "'recovered' or 'retrained'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_cell_is_told(cell, deploy, told):
    with pytest.raises(ValueError, match=told.replace("{", r"\{")):
        recipes.given(prune={"methods": ["magnitude"], "rates": [50], "further": [], "cells": [cell]},
                      deploy={"variant": deploy})  # fmt: skip


def test_a_cell_that_cannot_be_made_names_itself_and_leaves_nothing(study):
    shutil.rmtree("models/dense/best")
    with pytest.raises(InputError, match="dense/best: missing; the best checkpoint"):
        judge(given([{"methods": ["best-magnitude"], "rates": [30], "then": None}]))
    assert not Path("results/s1/cells").exists()
