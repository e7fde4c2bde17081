"""A study of two seeds: every row is repeated, and its spread is shown, whatever it was made by."""

import json
import math
import re

import pytest

from prunelab.report import charts, details, drawing, results, tables, verdict
from stages import report
from tests.helpers import synthetic
from tests.helpers.rows import LOSS

FURTHER = [
    "dense-average", "dense-small", "dense-int8", "mlp-width-30-recovered", "depth-25", "depth-25-recovered-int8",
    "magnitude-60-recovered",
]  # fmt: skip


def of(folder, seeds=("s1", "s2"), **changes) -> results.Study:
    further = {"methods": ["magnitude", "systematic"], "rates": [50, 60], "further": FURTHER}
    settings = synthetic.settings(folder, seeds=list(seeds), prune=further, **changes)
    return results.read(settings, *synthetic.write(folder, settings))


def column(table: tables.Table, name: str) -> list[str]:
    at = [column.name for column in table.columns].index(name)
    return [cells[at].text for _, cells in table.rows]


def test_every_row_stands_there_once_for_every_seed(tmp_path):
    study = of(tmp_path)
    ids = [row["variant"] for row in study.rows if row["seed"] == 2]
    assert set(FURTHER) < set(ids) and len(study.rows) == 2 * len(ids) == 2 * (1 + 4 + len(FURTHER))
    assert [row["path"] for row in study.rows] == [f"{tag}/{name}" for tag in ("s1", "s2") for name in ids]


def test_a_row_is_called_by_its_id_with_one_seed_and_by_id_and_tag_with_several(tmp_path):
    one, two = of(tmp_path / "one", seeds=["s1"]), of(tmp_path / "two")
    assert column(tables.results(one, None), "variant")[:2] == ["dense", "dense-average"]
    called = column(tables.results(two, None), "variant")
    assert called[0] == "dense s1" and {"magnitude-50 s2", "depth-25-recovered-int8 s1"} < set(called)
    assert len(set(called)) == len(two.rows)
    assert (one.label("s1/wanda-50"), two.label("s2/wanda-50")) == ("wanda-50", "wanda-50 s2")


def test_means_over_seeds_have_an_interval_for_structured_recovered_quantised_and_control_rows(tmp_path):
    study = of(tmp_path)
    table = tables.over_seeds([*verdict.unpruned(study), *verdict.groups(study)], study.headline)
    found = dict(zip(column(table, "method"), column(table, "loss"), strict=True))
    for method in (
        "dense-average", "dense-small", "dense-int8", "mlp-width-recovered", "depth", "depth-recovered-int8",
        "magnitude-recovered", "magnitude", "systematic",
    ):  # fmt: skip
        assert re.fullmatch(r"[\d.]+ \[−?[\d.]+, [\d.]+\]", found[method]), (method, found[method])
    assert set(column(table, "seeds")) == {"2"}
    rates = dict(zip(column(table, "method"), column(table, "rate"), strict=True))
    assert (rates["dense-int8"], rates["depth-recovered-int8"]) == ("–", "25 %")


def test_the_interval_over_two_seeds_is_students_t_of_the_differences_to_each_ones_dense_model(tmp_path):
    study = of(tmp_path)
    rows = {row["path"]: row for row in study.rows}
    group = next(one for one in verdict.unpruned(study) if one.method == "dense-int8")
    one, two = (rows[f"{tag}/dense-int8"]["loss_diff"] for tag in ("s1", "s2"))
    dense = (rows["s1/dense"]["loss"] + rows["s2/dense"]["loss"]) / 2
    half = 12.7062 * abs(one - two) / 2  # t of one degree of freedom; the standard error of two is half their distance
    assert group.value == pytest.approx((dense + (one + two) / 2, dense + (one + two) / 2 - half,
                                        dense + (one + two) / 2 + half), abs=1e-6)  # fmt: skip


def test_one_seed_has_no_table_of_means(tmp_path):
    study = of(tmp_path, seeds=["s1"])
    assert tables.over_seeds([*verdict.unpruned(study), *verdict.groups(study)], study.headline) is None


def loss_svg(study) -> str:
    references = [row for row in study.rows if row["rate"] is None]
    return drawing.inline(charts.against_sparsity(study.headline, verdict.groups(study), references, 2, 10), "label")


def test_the_chart_of_losses_shows_the_spread_of_removed_and_recovered_rows_and_of_controls(tmp_path):
    two, one = loss_svg(of(tmp_path / "two")), loss_svg(of(tmp_path / "one", seeds=["s1"]))
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", two))
    assert {"depth", "mlp-width-recovered", "depth-recovered-int8", "magnitude-recovered"} <= words
    bar = "<title>dense-average: interval over seeds</title>"
    assert bar in two and bar not in one


def test_a_controls_spread_is_that_of_its_difference_to_dense():
    rows = [
        {"variant": "dense-average", "loss": loss, "loss_diff": diff} for loss, diff in ((1.5, -0.01), (1.6, -0.03))
    ]
    mean, lo, hi = charts._values(LOSS, rows)["dense-average"]
    assert (mean, hi - mean, mean - lo) == pytest.approx((1.55, 12.7062 * 0.01, 12.7062 * 0.01), rel=1e-4)
    assert all(math.isnan(end) for end in charts._values(LOSS, rows[:1])["dense-average"][1:])


def test_the_chart_of_costs_names_the_seed_of_every_point(tmp_path):
    study = of(tmp_path)
    svg = drawing.inline(charts.tradeoffs(study.headline, study.rows, study.dense, 30), "label")
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    for name in ("magnitude-50 s1", "magnitude-50 s2", "depth-25 s2", "depth-25-recovered-int8 s2"):
        assert any(title.startswith(f"{name}: ") for title in titles), name
    one = of(tmp_path / "one", seeds=["s1"])
    svg = drawing.inline(charts.tradeoffs(one.headline, one.rows, one.dense, 30), "label")
    assert any(title.startswith("magnitude-50: ") for title in re.findall(r"<title>([^<]*)</title>", svg))


def test_recovery_and_runtimes_are_listed_for_every_seed(tmp_path):
    further = {"methods": ["magnitude"], "rates": [50], "further": ["depth-25", "depth-25-recovered"]}
    settings = synthetic.settings(
        tmp_path, seeds=["s1", "s2"], prune=further, runtimes={"variants": ["depth-25"], "names": ["compile"]}
    )
    found, models = synthetic.write(tmp_path, settings)
    for tag, ratio in (("s1", 0.7), ("s2", 0.8)):
        figures = {f"{phase}_ratio{end}": ratio for phase in ("prefill", "decode") for end in ("", "_lo", "_hi")}
        figures |= {"available": True, "decode_verdict": "faster"}
        content = {"variant": "depth-25", "device": "x", "runtimes": {"compile": figures}}
        (found / tag / "depth-25" / "runtimes.json").write_text(json.dumps(content))
    study = results.read(settings, found, models)
    table = details.runtimes(study)
    assert column(table, "variant") == ["depth-25 s1", "depth-25 s2"]
    assert column(table, "decode time") == ["0.700 [0.700, 0.700]", "0.800 [0.800, 0.800]"]
    table, rows = details.recovery(study), {row["path"]: row for row in study.rows}
    assert column(table, "variant") == ["depth-25-recovered s1", "depth-25-recovered s2"]
    before = [rows[f"{tag}/depth-25"]["loss_increase_percent"] for tag in ("s1", "s2")]
    assert [cell.split()[0] for cell in column(table, "test before")] == [f"{value:+.2f}" for value in before]


def test_an_added_seed_changes_no_figure_of_the_others(tmp_path):
    one, two = of(tmp_path / "one", seeds=["s1"]), of(tmp_path / "two", seeds=["s1", "s2"])
    assert one.rows == [row for row in two.rows if row["path"].startswith("s1/")]


def test_metrics_go_by_variant_with_one_seed_and_by_variant_and_tag_with_several(tmp_path):
    one, two = (report.metrics(of(tmp_path / str(len(seeds)), seeds=seeds)) for seeds in (["s1"], ["s1", "s7"]))
    assert set(one["depth-25"]) == {"loss", "sparsity", "packed_bytes", "decode_ratio"}
    assert two["depth-25"].keys() == {"s1", "s7"} and two["depth-25"]["s1"] == one["depth-25"]
    assert two["depth-25"]["s7"]["loss"] != one["depth-25"]["loss"]
    assert set(two["dense-average"]["s7"]) == {"loss", "sparsity"}
