"""A row of a study that still runs, and when its stages ran."""

import json

import pytest

from prunelab.errors import InputError
from prunelab.mirror import stages
from prunelab.report import results
from tests.helpers import synthetic

FURTHER = ["dense-average", "dense-int8", "depth-25"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    changes = {"prune": synthetic.TWO_METHODS | {"further": FURTHER}, "efficiency": {"methods": ["magnitude"]}}
    settings = synthetic.settings(tmp_path, **changes)
    synthetic.write(tmp_path, settings)
    monkeypatch.chdir(tmp_path)
    return settings


def every_stage(study) -> set[str]:
    paths = [f"{tag}/{variant.id}" for tag in study.seeds for variant in study.variants()]
    return {stage for path in paths for stage in stages.of_row(study, path).values()}


def test_when_all_its_stages_have_ended_it_is_the_row_of_the_report(study):
    ended = every_stage(study)
    for row in results.read(study, "results", "models").rows:
        words = {key: "" if value is None else str(value) for key, value in row.items()}
        assert stages.row_so_far(study, row["path"], ended) == words, row["path"]


def test_of_a_stage_that_has_not_ended_nothing_is_known_whatever_lies_there(study):
    row = stages.row_so_far(study, "s1/magnitude-50", {"prune@magnitude-50-s1"})
    assert float(row["sparsity_pruned"]) > 0 and (row["loss"], row["decode_ms_per_token"]) == ("", "")
    row = stages.row_so_far(study, "s1/magnitude-50", {"quality@magnitude-50-s1", "reference@s1"})
    assert row["loss"] and row["loss_increase_percent"] and row["sparsity_pruned"] == ""


def test_figures_that_another_row_lends_come_with_its_stage(study):
    row = stages.row_so_far(study, "s1/systematic-50", {"efficiency@magnitude-50-s1"})
    assert row["timed_as"] == "magnitude-50" and float(row["decode_ms_per_token"]) > 0


def test_a_file_that_its_stage_should_have_left_is_named(study, tmp_path):
    (tmp_path / "results" / "s1" / "depth-25" / "quality.json").unlink()
    with pytest.raises(InputError, match=r"s1/depth-25/quality\.json: no such file"):
        stages.row_so_far(study, "s1/depth-25", {"quality-further@depth-25-s1"})


def test_every_stage_that_makes_a_row_books_in_a_file_that_dvc_yaml_knows(study):
    assert {stage: path.as_posix() for stage, path in stages.bookings(study, "s1/dense").items()} == {
        "train@s1": "results/energy/s1/train.json",
        "reference@s1": "results/energy/s1/reference.json",
        "efficiency-dense@s1": "results/energy/s1/efficiency-dense.json",
    }
    assert {stage: path.as_posix() for stage, path in stages.bookings(study, "s1/depth-25").items()} == {
        "further@depth-25-s1": "results/energy/s1/further-depth-25.json",
        "quality-further@depth-25-s1": "results/energy/s1/quality-depth-25.json",
        "efficiency-further@depth-25-s1": "results/energy/s1/efficiency-depth-25.json",
    }
    assert {"fetch", "probes", "calibrate@s1"} | every_stage(study) == set(stages.bookings_of_study(study))


def test_a_cell_is_known_when_the_cells_of_its_seed_are_which_book_together(tmp_path, monkeypatch):
    cells = [{"methods": ["magnitude"], "rates": [70], "then": None}]
    prune = synthetic.TWO_METHODS | {"further": [], "cells": cells}
    settings = synthetic.settings(tmp_path, prune=prune, deploy={"variant": "dense"})
    synthetic.write(tmp_path, settings)
    monkeypatch.chdir(tmp_path)
    cell = tmp_path / "results" / "s1" / "cells" / "magnitude-70"
    cell.parent.mkdir()
    (tmp_path / "results" / "s1" / "magnitude-70").rename(cell)
    (tmp_path / "models" / "s1" / "magnitude-70" / "sparsity.json").rename(cell / "sparsity.json")
    assert set(stages.of_row(settings, "s1/magnitude-70").values()) == {"cells@s1"}
    assert stages.bookings(settings, "s1/magnitude-70") == {"cells@s1": stages.ENERGY / "s1" / "cells.json"}
    assert stages.row_so_far(settings, "s1/magnitude-70", {"prune@magnitude-50-s1"})["loss"] == ""
    row = stages.row_so_far(settings, "s1/magnitude-70", every_stage(settings))
    assert float(row["loss"]) > 0 and float(row["sparsity_pruned"]) > 0


def booked(folder, *spans: tuple[float, float]) -> list:
    files = [folder / f"{number}.json" for number in range(len(spans))]
    for file, (began, seconds) in zip(files, spans, strict=True):
        file.write_text(json.dumps({"began_unix_s": began, "seconds": seconds}))
    return files


def test_a_row_began_with_its_first_stage_and_took_as_long_as_its_stages_without_what_lies_between(tmp_path):
    assert stages.when(booked(tmp_path, (1000.0, 5.0), (990.0, 2.5))) == (990_000, 7500)


def test_what_ran_side_by_side_counts_once(tmp_path):
    assert stages.when(booked(tmp_path, (0.0, 10.0), (4.0, 2.0), (8.0, 4.0))) == (0, 12_000)


def test_what_was_booked_before_there_was_a_beginning_says_none(tmp_path):
    (tmp_path / "old.json").write_text('{"seconds": 3.0}')
    assert stages.when([tmp_path / "old.json", tmp_path / "none.json"]) == (None, 0)
