"""Rows beside the dense model in fewer bits: who is dominated, by whom, and what the one sentence says."""

import numpy as np
import pytest

from prunelab.deploy import figures, rivals
from tests.helpers.rows import DENSE_LOSS, LOSS, row


def of(*rows, values=None) -> dict[str, dict]:
    return rivals.columns(figures.candidates(list(rows), LOSS), rivals.comparison(values))


@pytest.mark.parametrize(
    ("identifier", "whether"),
    [
        ("dense-bf16", True), ("dense-int8", True), ("dense-int4", True), ("dense-int4-gptq", True),
        ("dense", False), ("dense-average", False), ("dense-small", False), ("depth-25-int8", False),
    ],
)  # fmt: skip
def test_a_rival_is_dense_in_all_but_how_its_weights_are_stored(identifier, whether):
    assert rivals.is_rival(identifier) is whether


INT8 = row("dense-int8", mb=0.9, time=(0.6, 0.01), loss=(0.02, 0.02))


@pytest.mark.parametrize(
    ("mine", "by"),
    [
        (row("magnitude-50", mb=1.8, time=1.0, loss=3.9), "dense-int8"),  # worse in all
        (row("magnitude-20", mb=2.9, time=1.0, loss=-0.05), "dense-int8"),  # its loss is lower, but not by what counts
        (row("magnitude-20", mb=2.9, time=1.0, loss=-0.5), "none"),  # it buys loss
        (row("magnitude-80", mb=0.8, time=1.0, loss=46), "none"),  # it buys bytes
        (row("depth-25", mb=2.4, time=0.5, loss=0.5), "none"),  # it buys time
        (row("depth-25", mb=2.4, time=0.59, loss=0.5), "dense-int8"),  # faster by less than what counts
        (row("dense-small", mb=0.9, time=0.6, loss=0.02), "none"),  # nothing tells them apart
        (row("dense"), "dense-int8"),
    ],
)
def test_a_row_is_dominated_by_what_is_better_in_one_and_in_none_worse_beyond_what_counts(mine, by):
    told = of(mine, INT8)[mine["variant"]]
    assert (told["dominated_by"], told["best_rival"]) == (by, "dense-int8")


def test_a_row_beside_its_best_rival_has_ratios_and_the_difference_of_losses_with_intervals():
    told = of(row("depth-25", mb=1.8, time=(0.75, 0.0075), loss=(0.52, 0.03)), INT8)["depth-25"]
    assert told["rival_bytes_ratio"] == pytest.approx(2.0)
    assert told["rival_decode_ratio"] == pytest.approx(1.25)
    # 1 % and 1.7 % of them, as logarithms in quadrature, at the level that two noisy figures share
    half = (2.2414 / 1.95996) * (0.01**2 + (1 / 60) ** 2) ** 0.5
    assert np.log(told["rival_decode_ratio_hi"] / 1.25) == pytest.approx(half, rel=0.02)
    assert told["rival_loss_diff"] == pytest.approx(DENSE_LOSS * 0.5 / 100)
    half = DENSE_LOSS / 100 * (2.2414 / 1.95996) * (0.03**2 + 0.02**2) ** 0.5
    assert told["rival_loss_diff"] - told["rival_loss_diff_lo"] == pytest.approx(half, rel=1e-3)


def test_the_best_rival_is_the_smallest_of_no_higher_loss_and_else_the_one_of_the_lowest():
    int4 = row("dense-int4", mb=0.55, time=0.5, loss=0.8)
    told = of(row("depth-25", loss=1.0), row("magnitude-20", mb=2.9, loss=0.1), row("dense"), INT8, int4)
    assert [told[name]["best_rival"] for name in ("depth-25", "magnitude-20", "dense")] == [
        "dense-int4", "dense-int8", "dense-int8"
    ]  # fmt: skip
    assert told["dense-int8"]["best_rival"] == "dense-int4" and told["dense-int8"]["dominated_by"] == "none"


def test_without_a_rival_or_a_figure_nothing_is_said():
    assert set(of(row("dense"), row("depth-25"))["depth-25"].values()) == {None}
    unknown = row("magnitude-50", decode_ratio=None, decode_ms_per_token=None)
    assert set(of(unknown, INT8)["magnitude-50"].values()) == {None}


def test_over_seeds_a_row_is_dominated_by_what_holds_over_seeds():
    def seeds(name, losses, **about):
        return [row(name, loss=loss, seed=n, tag=f"s{n}", **about) for n, loss in enumerate(losses)]

    int8 = seeds("dense-int8", (0.0, 0.1, 0.2), mb=0.9)
    told = of(*seeds("dense", (0, 0, 0)), *seeds("depth-25", (1.0, 1.1, 1.2), mb=0.9), *int8)["depth-25"]
    assert told["dominated_by"] == "dense-int8"  # by 1.0 at every seed
    assert (
        told["rival_loss_diff_hi"]
        == pytest.approx(told["rival_loss_diff"])
        == pytest.approx(DENSE_LOSS / 100, rel=0.02)
    )
    told = of(*seeds("dense", (0, 0, 0)), *seeds("depth-25", (0.1, 2.5, 0.7), mb=0.9), *int8)["depth-25"]
    assert told["dominated_by"] == "none"


def test_the_sentence_says_what_is_faster_smaller_and_better_than_the_rival_and_by_what():
    rows = [
        row("dense"), INT8, row("magnitude-80", mb=0.8, time=1.0, loss=46),
        row("depth-25-int8", mb=0.7, time=(0.45, 0.009), loss=(0.05, 0.02)),
        row("depth-25", mb=2.4, time=0.75, loss=-0.5),
    ]  # fmt: skip
    told = rivals.comparison_told(figures.candidates(rows, LOSS), rivals.comparison(), 2)
    assert told.startswith("Removal, a mask, quantising or both? Beside `dense-int8` (0.90 MB): at its loss or less ")
    assert "`depth-25-int8` is faster (removal and quantising: 0.75 [0.7" in told
    assert "`depth-25-int8` is smaller (removal and quantising: 0.78 × its bytes)" in told
    assert "in its bytes or fewer nothing is measurably better" in told
    assert "; in its time or less nothing is measurably better." in told


def test_the_sentence_says_so_where_there_is_no_rival():
    told = rivals.comparison_told(figures.candidates([row("dense"), row("magnitude-50")], LOSS), rivals.comparison(), 2)
    assert "this study cannot tell whether pruning beats quantising" in told
