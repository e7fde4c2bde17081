"""The six comparisons: named in the docs, adjusted as by hand, and never surer for a study that is missing."""

import math
from pathlib import Path

import pytest

from prunelab.verdict import primary
from prunelab.verdict.cells import IN_TIME, PAST_BEST
from tests.helpers import cells as planted

DOCS = " ".join((Path(__file__).parents[2] / "docs" / "verdict.md").read_text(encoding="utf-8").split())


def test_holm_by_hand():
    """Sorted 0.005·6, 0.01·5, 0.02·4, 0.03·3, 0.04·2, 0.5·1, none below the one before it."""
    found = primary.holm([0.01, 0.04, 0.03, 0.005, 0.5, 0.02])
    assert found == pytest.approx([0.05, 0.09, 0.09, 0.03, 0.5, 0.08])


def test_what_is_unknown_counts_as_one_of_the_six():
    nan = math.nan
    found = primary.holm([0.01, nan, nan, nan, nan, nan])
    assert found[0] == pytest.approx(0.06) and all(math.isnan(value) for value in found[1:])


@pytest.mark.parametrize("one", primary.PRIMARY, ids=lambda one: one.id)
def test_every_primary_comparison_stands_in_the_docs_as_it_is_computed(one):
    cells = [f"`{variant}`" for _, variant in (one.one, one.other)]
    assert f"| {one.id} | {one.words} | {cells[0]} − {cells[1]} |" in DOCS


def test_six_and_their_cells_exist():
    assert [one.id for one in primary.PRIMARY] == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert all(variant in planted.IDS for one in primary.PRIMARY for _, variant in (one.one, one.other))


def test_a_planted_difference_is_found_and_none_is_none():
    def better(name: str) -> float:
        return planted.alike(name) - 0.02 * name.startswith("systematic-50")

    regimes = {IN_TIME: planted.regime(IN_TIME, better), PAST_BEST: planted.regime(PAST_BEST, planted.alike)}
    found = {one.primary.id: one for one in primary.answers(regimes)}
    assert found["P1"].words == "lower loss" and found["P1"].effect.mean == pytest.approx(-0.02, abs=0.003)
    assert found["P2"].words == found["P3"].words == found["P4"].words == "no difference"
    assert found["P5"].words == "higher loss"  # 60 % costs 0.03 nats and nothing falls


def test_a_missing_regime_leaves_its_comparisons_open():
    found = primary.answers({IN_TIME: planted.regime(IN_TIME, planted.alike)})
    assert [one.words for one in found if one.effect is None] == ["not in these studies"] * 3
    assert [one.primary.id for one in found if one.effect is None] == ["P2", "P5", "P6"]


def test_one_seed_decides_nothing():
    found = primary.answers({IN_TIME: planted.regime(IN_TIME, planted.alike, seeds=("s1",))})
    assert found[0].words == "open: one seed has no interval" and found[0].sign == 0
