"""A stage in plain words: its name, and the figures of the files that it wrote."""

import json

import pytest

from flows import told
from tests.helpers.rows import LOSS


@pytest.mark.parametrize(
    ("stage", "alone", "of_several"),
    [
        ("quality@magnitude-50-s1", "quality magnitude-50", "quality magnitude-50 s1"),
        ("quality-further@depth-25-recovered-s12", "quality depth-25-recovered", "quality depth-25-recovered s12"),
        ("further@depth-25-s2", "make depth-25", "make depth-25 s2"),
        ("efficiency-dense@s1", "efficiency dense", "efficiency dense s1"),
        ("prune@systematic-sigma-sigma112-s1", "prune systematic-sigma-sigma112", "prune systematic-sigma-sigma112 s1"),
        ("train@s2", "train", "train s2"),
        ("report", "report", "report"),
        ("prune@random-50", "prune random-50", "prune random-50"),
    ],
)
def test_the_name_of_a_stage_is_that_of_its_variant_with_the_seed_where_there_are_several(stage, alone, of_several):
    assert told.name(stage, show_seed=False) == alone
    assert told.name(stage, show_seed=True) == of_several


def write(root, path, content):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("stage", "path", "content", "facts"),
    [
        ("fetch", "data/fetched/text/manifest.json",
         {"parts": {"train": {"characters": 3_900_000}, "test": {"characters": 100_000}}}, ["4.0 M characters"]),
        ("train@s2", "models/s2/dense/history/curve.csv",
         "step,validation_loss\n100,2.5\n200,1.9876\n", ["validation loss 1.988"]),
        ("calibrate@s1", "models/s1/calibration/calibration.json", {"hash": None}, ["nothing to show"]),
        ("calibrate@s1", "models/s1/calibration/calibration.json",
         {"hash": "ab", "samples": 128, "length_tokens": 2048}, ["128 × 2048 tokens"]),
        ("prune@wanda-50-s1", "models/s1/wanda-50/sparsity.json",
         {"sparsity_pruned": 0.5, "packed_bytes": 1_780_608}, ["50 % removed", "1.8 MB"]),
        ("further@depth-25-recovered-s1", "models/s1/depth-25-recovered/sparsity.json",
         {"sparsity_pruned": 0.0, "packed_bytes": 900,
          "recovery": {"validation_loss_before": 2.9, "validation_loss_after": 2.1}}, ["900 B", "loss 2.900 → 2.100"]),
        ("reference@s1", "results/s1/dense/quality.json", {"loss": 1.5, "loss_diff": None}, ["loss 1.500"]),
        # dense: 1.984 - 0.0744 = 1.9096, of which 0.0744 are 3.9 %
        ("quality@wanda-50-s1", "results/s1/wanda-50/quality.json",
         {"loss": 1.984, "loss_diff": 0.0744}, ["loss 1.984 (+3.9 %)"]),
        ("quality-further@depth-25-s2", "results/s2/depth-25/quality.json",
         {"loss": 1.9, "loss_diff": -0.1}, ["loss 1.900 (-5.0 %)"]),
        ("efficiency-dense@s1", "results/s1/dense/efficiency.json",
         {"decode_ratio": 1.0, "decode_ratio_lo": 0.988, "decode_ratio_hi": 1.011}, ["A/A test -1.2 … +1.1 %"]),
        ("efficiency@wanda-50-s1", "results/s1/wanda-50/efficiency.json",
         {"decode_ratio": 0.834, "decode_verdict": "faster", "unreliable": True},
         ["decode 0.83 × dense: faster", "unreliable"]),
        ("efficiency@wanda-50-s1", "results/s1/wanda-50/efficiency.json",
         {"decode_ratio": 1.0}, ["decode 1.00 × dense"]),
    ],
)  # fmt: skip
def test_what_a_stage_found_stands_in_the_file_that_it_wrote(tmp_path, stage, path, content, facts):
    write(tmp_path, path, content)
    assert told.facts(stage, LOSS, root=tmp_path) == facts


@pytest.mark.parametrize(
    "stage", ["fetch", "train@s1", "calibrate@s1", "prune@a-50-s1", "quality@a-50", "report", "x@y"]
)
def test_a_missing_file_is_no_reason_to_fail(tmp_path, stage):
    assert told.facts(stage, LOSS, root=tmp_path) == []


@pytest.mark.parametrize("stage", ["prune@a-50-s1", "quality@a-50-s1", "efficiency@a-50-s1", "efficiency-dense@s1"])
def test_a_missing_figure_is_left_out(tmp_path, stage):
    for path in ("models/s1/a-50/sparsity.json", "results/s1/a-50/quality.json", "results/s1/a-50/efficiency.json",
                 "results/s1/dense/efficiency.json"):  # fmt: skip
        write(tmp_path, path, {})
    assert told.facts(stage, LOSS, root=tmp_path) == []


def test_the_mirror_the_recommendation_and_the_export_say_themselves_what_they_did(tmp_path):
    assert told.facts("mirror", LOSS, ["hint", "MLflow: 3 runs brought"], tmp_path) == ["MLflow: 3 runs brought"]
    assert told.facts("export", LOSS, [], tmp_path) == []
    assert told.facts("recommend", LOSS, ["on pi: …", "Deploy x"], tmp_path) == ["Deploy x"]
    assert told.facts("export", LOSS, ["x" * 300], tmp_path) == ["x" * told.LONGEST + " …"]
    link = "http://x/" + "x" * 300  # it stays one
    assert told.facts("mirror", LOSS, [link], tmp_path) == [link]
