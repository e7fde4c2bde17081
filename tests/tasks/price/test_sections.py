"""What the task price tells in the report: points, verdicts, charts, examples, tables; from figures made by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prunelab.errors import InputError
from prunelab.fragments import Picture, Table
from prunelab.report import drawing, page
from prunelab.report import sections as report
from prunelab.tasks.price.report import charts, points, sections, words
from tests.helpers import prices

DENSE = 20.0
TRUE = np.linspace(50.0, 400.0, 12)
JPEG = b"\xff\xd8\xff\xe0a picture\xff\xd9"
# Percent above dense by rate, with half an interval's width: magnitude keeps the error up to 30 % and rises at 40.
RISES = {
    "magnitude": {"10": (-1, 3), "20": (1, 3), "30": (2, 3), "40": (25, 6), "60": (120, 20), "80": (400, 60)},
    "random": {"10": (12, 4), "20": (60, 9), "30": (150, 20), "40": (300, 30)},
    "wanda": {"20": (0, 3), "30": (1, 3), "40": (4, 3), "60": (6, 7), "80": (8, 3)},
}


def row(name: str, rate: str | None, percent: float = 0.0, half: float = 0.0, tag="s1", seed=1, **more) -> dict:
    mean = DENSE * percent / 100
    width = DENSE * half / 100
    return {
        "variant": f"{name}-{rate}" if rate else name, "method": name, "rate": rate, "seed": seed, "loss": 1.0,
        "path": f"{tag}/{name}-{rate}" if rate else f"{tag}/{name}", "dense": f"{tag}/dense",
        "sparsity_pruned": int(rate) / 100 if rate else 0.0, "mae": DENSE + mean, "mae_diff": mean,
        "mae_diff_lo": mean - width, "mae_diff_hi": mean + width, "mae_increase_percent": percent,
        "mae_increase_percent_lo": percent - half, "mae_increase_percent_hi": percent + half,
    } | more  # fmt: skip


def rows_of(rises=RISES) -> list[dict]:
    return [row("dense", None)] + [
        row(method, rate, *rise) for method, by_rate in rises.items() for rate, rise in by_rate.items()
    ]


def told(method: str, rises=RISES, sharp: float = 10):
    return words.claims({method: points.by_method(rows_of(rises))[method]}, sharp)[0]


def test_points_are_by_method_in_the_order_of_sparsity_with_the_interval_around_the_mean():
    found = points.by_method(rows_of({"wanda": {"60": (6, 7), "20": (0, 3)}}))
    assert [point.rate for point in found["wanda"]] == ["20", "60"]
    assert found["wanda"][1].mae == pytest.approx((21.2, 19.8, 22.6))
    assert found["wanda"][1].increase == pytest.approx((6, -1, 13)) and found["wanda"][1].sign == 0


def test_over_seeds_the_interval_is_that_of_the_seeds():
    rows = [row("dense", None, tag=tag) for tag in ("s1", "s2")]
    rows += [row("wanda", "50", percent, 1, tag, seed) for tag, seed, percent in (("s1", 1, 10), ("s2", 2, 20))]
    (point,) = points.by_method(rows)["wanda"]
    assert point.seeds == 2 and point.increase[0] == pytest.approx(15)
    assert point.increase[2] - 15 == pytest.approx(12.706 * 5, rel=1e-3)  # t of one degree of freedom


def test_the_error_is_worse_from_where_it_stays_worse():
    found = points.by_method(rows_of())
    assert points.worse_from(found["magnitude"]).rate == "40"
    assert points.worse_from(found["random"]).rate == "10"
    assert points.worse_from(found["wanda"]).rate == "80"  # at 40 it is, at 60 it is not
    assert points.worse_from(points.by_method(rows_of({"wanda": {"20": (0, 3)}}))["wanda"]) is None


def test_a_method_that_keeps_the_error_and_rises_past_30_bears_the_paper_out():
    claim = told("magnitude")
    assert claim.status == "holds"
    assert claim.answer == (
        "`magnitude` keeps the error at 10, 20 and 30 %, where the difference's interval holds zero or lies below it; "
        "it is more than 10 % above dense from 40 % on (+25.0 [+19.0, +31.0] %). It is significantly worse than "
        "dense's from 40 % on."
    )
    assert claim.figures[0] == ("10 %", "−1.0 [−4.0, +2.0] %", 0) and claim.figures[3][2] == 1


def test_a_method_that_is_worse_before_30_does_not():
    claim = told("random")
    assert claim.status == "does not hold" and "is already worse than dense at 10, 20 and 30 %" in claim.answer
    assert "It is significantly worse than dense's at every rate, 10 % the lowest." in claim.answer


def test_a_method_that_never_rises_sharply_does_not_either():
    claim = told("wanda")
    assert claim.status == "does not hold" and "nowhere more than 10 % above dense" in claim.answer


def test_a_late_rise_and_a_slight_harm_before_30_hold_in_part():
    late = {"m": {"20": (0, 3), "40": (3, 4), "80": (90, 9)}}
    assert told("m", late).status == "holds in part"
    hurt = {"m": {"20": (4, 3), "40": (30, 5)}}
    assert told("m", hurt).status == "holds in part"


def test_without_rates_on_both_sides_the_question_is_open():
    assert told("m", {"m": {"20": (0, 3)}}).status == "open"
    claim = told("m", {"m": {"50": (30, 3)}})
    assert claim.status == "open" and "no rate up to 30 %" in claim.answer


@pytest.fixture
def study(tmp_path):
    """A study as results.read gives one, and the files of the models that the report shows."""
    rows = [*rows_of(), row("dense-int8", None, 1, 2)]
    files = {}
    for number, one in enumerate(rows):
        quality = {key: one[key] for key in one if key.startswith("mae")} | {
            "rows": 12, "items": 12, "mae_lo": one["mae"] - 2, "mae_hi": one["mae"] + 2, "median_absolute_error": 11.0,
            "log_error": 0.2, "r2": 0.8, "rank_correlation": None, "not_a_number_share": 0.25, "mae_as_zero": 33.0,
            "controls": {
                "shuffled_pictures": {"mae": 60.0, "times_own": 3.0, "mae_diff_lo": 30.0},
                "blank_text": {"mae": 20.0, "times_own": 1.0, "mae_diff_lo": -1.0},
            },
        }  # fmt: skip
        if one["variant"] == "dense":
            quality["baselines"] = {
                "mean": {"mae": 90.0, "dense_diff": -70.0, "dense_diff_lo": -80.0, "dense_diff_hi": -60.0, "r2": 0.0},
                "ridge": {"mae": 21.0, "dense_diff": -1.0, "dense_diff_lo": -5.0, "dense_diff_hi": 3.0, "r2": 0.7},
            }
        files[one["path"]] = {"quality": quality}
        predicted = TRUE + number
        predicted[0] = math.nan
        tensors = {"price": torch.from_numpy(TRUE), "predicted": torch.from_numpy(predicted)}
        if one["variant"] == "dense":
            tensors |= {f"picture.{place}": torch.frombuffer(bytearray(JPEG), dtype=torch.uint8) for place in (7, 0)}
        answers = [{"id": f"cards#{place}", "item": str(place), "answer": "1"} for place in range(12)]
        folder = tmp_path / one["path"]
        folder.mkdir(parents=True)
        name = "reference" if one["variant"] == "dense" else "windows"
        about = {"prunelab": json.dumps({"answers": answers})}
        save_file(tensors, folder / f"{name}.safetensors", metadata=about)
    settings = SimpleNamespace(
        price=prices.settings().price, seeds=["s1"], report=SimpleNamespace(sharp_rise_percent=10)
    )
    return SimpleNamespace(
        settings=settings, rows=rows, files=files, dense=rows[0], results=tmp_path,
        results_of=lambda path: tmp_path / path,
        label=lambda path: path.partition("/")[2], stage=lambda kind, path: f"{kind}@{path}",
    )  # fmt: skip


def test_the_sections_follow_the_papers_order_of_questions(study):
    told = sections.sections(study, study.rows)
    assert [section.id for section in told] == ["price-error", "price-calibration", "price-examples", "baselines"]
    claims = told[0].parts[1]
    # The dense model is worth it but for its reading; then the methods.
    assert [claim.status for claim in claims] == ["holds in part", "holds", "does not hold", "does not hold"]


def test_examples_show_truth_and_predictions_over_the_rates(study):
    tiles = sections.sections(study, study.rows)[2].parts[1]
    assert [tile.title for tile in tiles] == ["cards#0: $50", "cards#7: $273"]
    assert tiles[0].jpeg == JPEG and {line[1:] for line in tiles[0].lines} == {("no number", "bad")}
    assert [line[0] for line in tiles[1].lines] == ["dense", *(f"magnitude {r} %" for r in (10, 30, 40, 80))]
    assert tiles[1].lines[0] == ("dense", "$273", "") and tiles[1].lines[1][1] == "$274"


def test_pictures_that_must_not_be_passed_on_are_left_out_with_the_reason(study):
    folder = study.results / "s1" / "dense"
    answers = {"prunelab": json.dumps({"answers": []})}
    tensors = {"price": torch.from_numpy(TRUE), "predicted": torch.from_numpy(TRUE + 1)}
    save_file(tensors, folder / "reference.safetensors", metadata=answers)
    (why,) = sections.sections(study, study.rows)[2].parts
    assert "must not be passed on" in why and "pass_on: false" in why


def cells(table: Table, name: str) -> dict[str, str]:
    line = next(cells for _, cells in table.rows if cells[0].text == name)
    heads = [f"{column.name} {column.unit}".strip() for column in table.columns]
    return dict(zip(heads, (cell.text for cell in line), strict=True))


def test_the_table_holds_baselines_controls_and_both_ways_to_count_failures(study):
    table = sections.sections(study, study.rows)[3].parts[1]
    mean = cells(table, "mean predictor")
    assert mean["error mean absolute [95 %]"] == "90.0" and mean["dense minus it [95 %]"] == "−70.0 [−80.0, −60.0]"
    dense = cells(table, "dense")
    assert dense["error mean absolute [95 %]"] == "20.0 [18.0, 22.0]" and dense["no number % of answers"] == "25.0"
    assert dense["error no number as 0"] == "33.0" and dense["other pictures error, × own"] == "3.00"
    assert cells(table, "magnitude-40")["against dense % [95 %]"] == "+25.0 [+19.0, +31.0]"
    marks = {cell.text: cell.mark for _, line in table.rows for cell in line[-2:]}
    assert marks["1.00"] == "bad" and marks["3.00"] == ""  # without words it is no worse: it does not read
    assert "rank correlation" not in [column.name for column in table.columns]  # known of no row


def test_the_towers_part_of_a_prefill_is_told_where_it_was_measured(study):
    assert "price-seeing" not in [section.id for section in sections.sections(study, study.rows)]
    study.files["s1/dense"]["efficiency"] = {
        "vision_share": 0.26, "vision_share_p10": 0.25, "vision_share_p90": 0.29, "vision_ms": 5.6226,
        "prompt_tokens": 80, "prefill_ms": 17.86, "decode_ms_per_token": 5.155,
    }  # fmt: skip
    last = sections.sections(study, study.rows)[-1]
    assert last.id == "price-seeing" and "takes 26 % of a prefill (from 25 to 29 % in eight" in last.parts[0]
    assert "5.62 ms. A prefill of 80 tokens, picture included, takes 17.9 ms" in last.parts[0]


def test_what_a_stage_has_not_left_is_named_with_the_stage(study):
    (study.results / "s1" / "dense" / "reference.safetensors").unlink()
    with pytest.raises(InputError, match="reference.safetensors: no such file; the stage quality@s1/dense writes it"):
        sections.sections(study, study.rows)


def test_the_chart_has_the_papers_line_dense_the_baselines_and_every_method(study):
    quality = study.files["s1/dense"]["quality"] | {"mae": DENSE}
    figure = charts.error_against_compression(drawing, points.by_method(study.rows), quality, "$")
    (axes,) = figure.axes
    said = {text.get_text() for text in axes.texts}
    assert {"30 %", "dense", "mean predictor", "ridge on the columns", "magnitude", "random", "wanda"} <= said
    assert 30 in [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    ceiling = axes.get_ylim()[1]
    assert ceiling == pytest.approx(1.03 * 112)  # a little above the interval of magnitude-80, below 1.35 × 90
    assert axes.get_ylabel() == "mean absolute error, $"


def test_errors_far_above_the_mean_predictors_stand_at_the_edge(study):
    quality = {"mae": DENSE, "baselines": {"mean": {"mae": 40.0}}}
    axes = charts.error_against_compression(drawing, points.by_method(study.rows), quality, "$").axes[0]
    assert axes.get_ylim()[1] == pytest.approx(1.35 * 40)
    edge = [line for line in axes.lines if line.get_marker() == "^"]
    assert len(edge) == 2 and {float(line.get_ydata()[0]) for line in edge} == {1.35 * 40}


def test_predictions_stand_against_truth_with_failures_counted():
    predicted = np.array([1.0, math.nan, 900.0])
    figure = charts.predictions_against_truth(drawing, [("dense", np.array([1.0, 2.0, 3.0]), predicted)], "$")
    (axes,) = figure.axes
    dots = axes.collections[0].get_offsets()
    assert len(dots) == 2 and dots[1][1] == axes.get_ylim()[1]  # beyond the picture: at its edge
    assert "1 no number" in [text.get_text() for text in axes.texts]


def test_prices_that_differ_by_much_stand_on_logarithmic_axes():
    true = np.array([10.0, 100.0, 1000.0])
    (axes,) = charts.predictions_against_truth(drawing, [("dense", true, np.array([-5.0, 100.0, 1e9]))], "$").axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    dots = axes.collections[0].get_offsets()[:, 1]
    assert (dots[0], dots[2]) == axes.get_ylim()  # also a price below nothing is at the edge


def test_the_page_draws_all_of_it_and_loads_nothing(study):
    drawn = report.drawn(page.templates(), sections.sections(study, study.rows), 1)
    html = "".join(section.html for section in drawn)
    assert html.count("<h2 id=") == 4 and html.count("<svg viewBox") == 2
    assert html.count('<img src="data:image/jpeg;base64,') == 2 and "http" not in html.replace("http://www.w3.org", "")
    assert 'class="chip does-not-hold"' in html and "<code>magnitude</code>" in html
    assert isinstance(sections.sections(study, study.rows)[0].parts[0], Picture)


def dense_of(mean=(-60.0, -50.0), pictures=(300.0, 250.0), words_=(400.0, 350.0)) -> dict:
    """quality.json of a dense model with an error of 20: (difference, upper end) to the mean price, (increase in
    percent, lower end in currency) of the controls."""
    return {
        "mae": DENSE,
        "baselines": {"mean": {"mae": DENSE - mean[0], "dense_diff": mean[0], "dense_diff_hi": mean[1]}},
        "controls": {
            kind: {"times_own": 1 + more / 100, "mae_diff_lo": lo}
            for kind, (more, lo) in {"shuffled_pictures": pictures, "blank_text": words_}.items()
        },
    }


def test_a_dense_model_that_looks_and_reads_is_worth_pruning():
    claim = words.worth(dense_of())
    assert claim.status == "holds"
    assert claim.answer == (
        "Its error is 0.25 × that of the mean price. It is 4.00 × its own with the pictures of others and 5.00 × its "
        "own without its words."
    )


def test_a_dense_model_that_does_not_look_is_told():
    claim = words.worth(dense_of(pictures=(1.0, -2.0)))
    assert claim.status == "holds in part"
    assert claim.answer.endswith("; with the pictures of others nothing is measurably lost.")


def test_of_a_dense_model_that_is_no_better_than_the_mean_price_nothing_follows():
    claim = words.worth(dense_of(mean=(-1.0, 2.0)))
    assert claim.status == "does not hold"
    assert "what pruning costs it tells nothing" in claim.answer


def test_without_intervals_nothing_is_said_of_the_dense_model():
    assert words.worth({"mae": DENSE}).status == "open"
