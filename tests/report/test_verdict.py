"""Groups and paired effects, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from prunelab.errors import InputError
from prunelab.report import results, verdict
from tests.helpers import synthetic
from tests.helpers.rows import LOSS


def read(folder, **changes):
    settings = synthetic.settings(folder, prune=synthetic.TWO_METHODS, **changes)
    return results.read(settings, *synthetic.write(folder, settings))


def test_one_seed_takes_its_interval_from_windows(tmp_path):
    study = read(tmp_path)
    found = {(g.method, g.rate): g for g in verdict.groups(study)}
    one = found["systematic", "60"]
    row = one.first
    assert one.increase == pytest.approx(
        tuple(row[f"loss_increase_percent{end}"] for end in ("", "_lo", "_hi")), rel=1e-9
    )
    assert one.value[0] == pytest.approx(row["loss"], abs=1e-9)


def test_several_seeds_give_a_mean_with_students_t(tmp_path):
    study = read(tmp_path, seeds=["s1", "s2", "s3"])
    one = next(g for g in verdict.groups(study) if (g.method, g.rate) == ("magnitude", "60"))
    assert [row["path"] for row in one.rows] == ["s1/magnitude-60", "s2/magnitude-60", "s3/magnitude-60"]
    diffs = np.array([row["loss_diff"] for row in one.rows])
    half = 4.302653 * diffs.std(ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    dense = np.mean([row["loss"] for row in study.rows if row["path"] == row["dense"]])
    assert one.value == pytest.approx(
        (dense + diffs.mean(), dense + diffs.mean() - half, dense + diffs.mean() + half), abs=1e-6
    )


def test_a_paired_effect_finds_the_planted_difference(tmp_path):
    study = read(tmp_path)
    found = verdict.groups(study)
    effect = verdict.effects(study, found, "systematic", "magnitude")["80"]
    planted = (0.5 - 1.0) * 0.5 * 0.8**4
    assert effect.lo < planted < effect.hi and effect.hi - effect.lo < 0.01  # unpaired it would be 0.08 wide
    assert (effect.sign, effect.units, effect.unit) == (-1, synthetic.WINDOWS, "items")


def test_over_seeds_the_unit_is_the_seed(tmp_path):
    study = read(tmp_path, seeds=["s1", "s2", "s3"])
    effect = verdict.effects(study, verdict.groups(study), "systematic", "magnitude")["50"]
    assert (effect.units, effect.unit) == (3, "seeds")


def test_an_interval_that_holds_zero_is_no_difference():
    assert [
        verdict.Effect(m, lo, hi, 9, "items").sign for m, lo, hi in [(0.1, -0.1, 0.3), (0.2, 0.1, 0.3), (-1, -2, -0.5)]
    ] == [0, 1, -1]
    assert verdict.Effect(0.1, math.nan, math.nan, 1, "seeds").sign == 0


def test_unequal_sparsity_is_not_compared(tmp_path):
    study = read(tmp_path)
    one, other = verdict.groups(study)[:2]
    assert one.sparsity != other.sparsity and verdict.effect(study, one, other) is None


def test_missing_window_losses_name_the_stage(tmp_path):
    study = read(tmp_path)
    rows = {row["variant"]: row for row in study.rows}
    (study.results / "s1" / "magnitude-50" / "windows.safetensors").unlink()
    with pytest.raises(InputError, match=r"windows\.safetensors: no such file; the stage quality@magnitude-50-s1"):
        verdict.item_values(study, rows["magnitude-50"])
    (study.results / "s1" / "magnitude-60" / "windows.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="broken"):
        verdict.item_values(study, rows["magnitude-60"])


def test_the_frontier_keeps_what_nothing_beats_in_both():
    rows = [
        {"n": n, "mb": mb, "loss": loss}
        for n, mb, loss in [("a", 1, 3), ("b", 2, 2), ("c", 3, 2.5), ("d", 4, 1), ("e", None, 0)]
    ]
    assert [row["n"] for row in verdict.frontier(rows, "mb", LOSS)] == ["a", "b", "d"]
