"""What a finished study leaves in finished/: whole or not at all, as long as it is wanted, and only what is its own."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prunelab.errors import InputError
from prunelab.mirror import kept
from tests.helpers import finished


@pytest.fixture
def study(tmp_path, monkeypatch):
    finished.write(tmp_path, seeds=("s1", "s2"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_kept_is_read_again(study):
    kept.keep()
    found = kept.read("default")
    assert found.name == "default" and found.about["seeds"] == ["s1", "s2"] and found.about["headline"] == "loss"
    assert len(found.rows) == 8 and found.rows[0]["path"] == "s1/dense"
    assert found.losses["s2/magnitude-50"] == pytest.approx([1.55, 2.05])
    assert found.losses["s1/dense"].mean() == pytest.approx(1.5)
    assert found.about["settings"]["seeds"] == ["s1", "s2"] and len(found.about["settings_sha256"]) == 64
    assert load_file(found.folder / kept.LOSSES)["s1/dense"].dtype == np.float32
    curves = found.file(kept.CURVES).read_text().splitlines()
    assert curves[0].startswith("seed,step") and [row.partition(",")[0] for row in curves[1:]] == [
        "s1",
        "s1",
        "s2",
        "s2",
    ]
    assert found.file(kept.TRAJECTORIES) is None  # nothing was followed here


def test_what_is_kept_already_is_left_alone_and_what_changed_is_kept_anew(study):
    kept.keep()
    about = study / "finished" / "default" / "study.json"
    before = about.read_bytes(), about.stat().st_mtime_ns
    kept.keep()
    assert (about.read_bytes(), about.stat().st_mtime_ns) == before
    table = study / "report" / "results.csv"
    table.write_text(table.read_text().replace("1.7", "1.8"))
    kept.keep()
    assert json.loads(about.read_text())["key"] != json.loads(before[0])["key"]


def test_another_study_stands_beside_it(study):
    kept.keep()
    text = (study / "params.yaml").read_text().replace("study: default", "study: other")
    (study / "params.yaml").write_text(text)
    kept.keep()
    assert kept.read("default").name == "default" and kept.read("other").name == "other"


def test_cells_are_kept_like_other_rows_though_they_lie_together(study):
    raw = finished.yaml().load(study / "params.yaml")
    raw["prune"]["cells"] = [{"methods": ["systematic"], "rates": [60], "then": None}]
    raw["deploy"]["variant"] = "dense"
    with open(study / "params.yaml", "w", encoding="utf-8") as file:
        finished.yaml().dump(raw, file)
    table = study / "report" / "results.csv"
    for tag in ("s1", "s2"):
        place = study / "results" / tag / "cells" / "systematic-60"
        place.mkdir(parents=True)
        save_file({"loss": np.array([1.0, 2.0])}, place / "windows.safetensors")
        row = f"systematic-60,systematic,60,1,{tag}/systematic-60,{tag}/dense,0.6,1.5,,\n"
        table.write_text(table.read_text() + row)
    kept.keep()
    assert kept.read("default").losses["s2/systematic-60"].tolist() == [1.0, 2.0]


def test_a_missing_loss_leaves_nothing_half_kept(study):
    (study / "results" / "s2" / "magnitude-50" / "windows.safetensors").unlink()
    with pytest.raises(InputError, match="s2/magnitude-50/windows.safetensors: no such file; the stage that judges"):
        kept.keep()
    assert list((study / "finished").iterdir()) == []


def test_results_of_another_study_are_not_kept_under_this_one_s_name(study):
    raw = finished.yaml().load(study / "params.yaml")
    raw["prune"]["rates"] = [60]
    with open(study / "params.yaml", "w", encoding="utf-8") as file:
        finished.yaml().dump(raw, file)
    with pytest.raises(InputError, match="is of another study than params.yaml; run this one: dvc repro"):
        kept.keep()


def test_a_folder_that_somebody_added_to_is_not_replaced(study):
    kept.keep()
    (study / "finished" / "default" / "notes.txt").write_text("mine")
    (study / "params.yaml").write_text((study / "params.yaml").read_text() + "# more\n")
    with pytest.raises(InputError, match="found notes.txt in it"):
        kept.keep()
    assert (study / "finished" / "default" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("study.json", "{}", "says nothing of headline, seeds, settings, study; delete"),
        ("study.json", "{", "not valid JSON"),
        ("losses.safetensors", "x", "can't be read"),
    ],
)
def test_a_broken_folder_is_one_line(study, name, content, told):
    kept.keep()
    (study / "finished" / "default" / name).write_text(content)
    with pytest.raises(InputError, match=told):
        kept.read("default")


def test_a_study_that_was_never_finished_is_one_line(study):
    with pytest.raises(
        InputError, match="finished/never: no finished study is kept there; run it: make study STUDY=never"
    ):
        kept.read("never")
