"""Which rows are timed themselves, and what others take over: masks do the work of magnitude's, controls dense's."""

import json
import re

import pytest

from prunelab.errors import InputError
from prunelab.recipes import variants
from prunelab.report import charts, page, results, tables, verdict
from stages import recommend, report
from tests.helpers import synthetic
from tests.helpers.rows import LOSS

FURTHER = ["dense-average", "dense-int8", "depth-25-recovered", "magnitude-50-recovered", "systematic-60-int8"]
QUANTISED = [
    *("dense-bf16", "dense-int4", "dense-int4-gptq", "depth-25-recovered-int4", "systematic-60-int4"),
    "systematic-60-bf16",
]


def of(folder, methods=("magnitude",), further=FURTHER, **changes) -> results.Study:
    prune = {"methods": ["magnitude", "systematic"], "rates": [50, 60], "further": list(further)}
    settings = synthetic.settings(folder, prune=prune, efficiency={"methods": list(methods)}, **changes)
    return results.read(settings, *synthetic.write(folder, settings))


@pytest.mark.parametrize(
    ("identifier", "other"),
    [
        ("dense", None),
        ("magnitude-50", None),
        ("systematic-50", "magnitude-50"),
        ("magnitude-60-recovered", "magnitude-60"),  # recovery changes values, not work
        ("systematic-70-recovered", "dense"),  # no mask of that rate is timed
        ("dense-average", "dense"),
        ("dense-best", "dense"),
        ("dense-int8", None),
        ("dense-small", None),
        ("depth-25", None),
        ("mlp-width-30-recovered", None),
        ("systematic-60-int8", None),
    ],
)
def test_what_does_the_same_work_takes_the_time_of_the_masks_of_its_rate_and_else_of_dense(tmp_path, identifier, other):
    settings = synthetic.settings(
        tmp_path,
        prune={"methods": ["magnitude", "systematic"], "rates": [50, 60]},
        efficiency={"methods": ["magnitude"]},
    )
    assert settings.timed_as(variants.parse(identifier)) == other


@pytest.mark.parametrize(
    ("identifier", "further", "other"),
    [
        ("systematic-60-int8", ["dense-int8"], "dense-int8"),  # zeros change no time in that precision either
        ("systematic-60-recovered-int8", ["dense-int4"], None),  # the rival of another precision is none
        ("systematic-60-int8", ["dense-int8-gptq"], "dense-int8-gptq"),
        ("systematic-60-bf16", ["dense-bf16"], "dense-bf16"),
        ("dense-int4-gptq", ["dense-int4"], "dense-int4"),  # nor does rounding
        ("dense-int4-gptq", [], None),
        ("depth-25-int4-gptq", ["dense-int4", "depth-25-int4"], "depth-25-int4"),
        ("depth-25-int4", ["dense-int4", "depth-25-int4-gptq"], None),
    ],
)
def test_a_quantised_mask_takes_the_time_of_its_rival_of_that_precision_where_the_study_has_it(
    tmp_path, identifier, further, other
):
    calibrate = {"samples": 8, "length": 32}
    settings = synthetic.settings(tmp_path, prune={"further": [*further, identifier]}, calibrate=calibrate)
    assert settings.timed_as(variants.parse(identifier)) == other


def test_without_timed_masks_every_mask_takes_the_time_of_dense(tmp_path):
    study = of(tmp_path, methods=[])
    assert {row["timed_as"] for row in study.rows if row["method"] in ("magnitude", "systematic")} == {"dense"}
    assert {row["decode_ratio"] for row in study.rows if row["method"] == "magnitude"} == {1.0}


def test_a_row_takes_over_the_figures_of_time_memory_and_energy_and_keeps_its_own_of_size(tmp_path):
    study = of(tmp_path, seeds=["s1", "s2"])
    rows = {row["path"]: row for row in study.rows}
    for tag in ("s1", "s2"):
        for mine, theirs in (("systematic-50", "magnitude-50"), ("dense-average", "dense")):
            row, timed = rows[f"{tag}/{mine}"], rows[f"{tag}/{theirs}"]
            assert row["timed_as"] == theirs and timed["timed_as"] is None
            for key in (
                "prefill_ms", "decode_ms_per_token", "decode_ratio", "decode_ratio_lo", "decode_verdict",
                "peak_memory_bytes", "decode_j_per_token", "macs_per_token", "device", "energy_provenance",
            ):  # fmt: skip
                assert row[key] == timed[key] is not None, key
            assert row["variant"] == mine
    assert rows["s1/systematic-50"]["decode_ratio"] != rows["s2/systematic-50"]["decode_ratio"]
    sparsity = study.files["s1/systematic-50"]["sparsity"]
    for key in ("packed_bytes", "nonzero_parameters"):
        assert rows["s1/systematic-50"][key] == sparsity[key]
    assert rows["s1/dense-average"]["packed_bytes"] is None and rows["s1/dense-average"]["nonzero_parameters"] is None


def test_quantised_rows_hold_their_own_bytes_and_the_times_of_what_runs_the_same_kernels(tmp_path):
    rows = {row["variant"]: row for row in of(tmp_path, further=QUANTISED).rows}
    mask, rival = rows["systematic-60-int4"], rows["dense-int4"]
    assert mask["timed_as"] == rows["dense-int4-gptq"]["timed_as"] == "dense-int4"
    assert mask["decode_ratio"] == rival["decode_ratio"] and mask["packed_bytes"] < rival["packed_bytes"]
    assert rows["systematic-60-bf16"]["timed_as"] == "dense-bf16"
    assert rows["dense-int4-gptq"]["packed_bytes"] == rival["packed_bytes"]  # without an efficiency.json of its own
    assert rows["depth-25-recovered-int4"]["timed_as"] is None
    stored = {"dense": "fp32", "dense-bf16": "bf16", "dense-int4-gptq": "int4", "systematic-60-int4": "int4"}
    assert {name: rows[name]["stored_as"] for name in stored} == stored


def test_a_row_of_another_precision_than_its_recipe_says_is_told(tmp_path):
    study = of(tmp_path, further=["dense-bf16"])
    for variant, changed in (("dense-bf16", "bf16"), ("systematic-50", "bf16")):
        path = study.results / "s1" / variant / "quality.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": changed}))
    with pytest.raises(
        InputError, match="s1/systematic-50: its quality was measured with dtype bf16, that of s1/dense"
    ):
        results.read(study.settings, study.results, study.models)


def test_a_row_that_is_not_timed_needs_no_file_of_times(tmp_path):
    study = of(tmp_path)
    for identifier in ("systematic-50", "magnitude-50-recovered", "dense-average"):
        assert not (study.results / "s1" / identifier / "efficiency.json").exists()
        assert "efficiency" not in study.files[f"s1/{identifier}"]


def test_the_page_s_table_says_as_whom_in_place_of_a_second_figure(tmp_path):
    study = of(tmp_path)
    table = tables.results(study, None)
    names = [column.name for column in table.columns]
    rows = {cells[0].text: dict(zip(names, cells, strict=True)) for _, cells in table.rows}
    for variant, other in (("systematic-50", "magnitude-50"), ("dense-average", "dense")):
        assert rows[variant]["decode time"].text == f"as {other}"
        assert {rows[variant][name].text for name in ("decoding is", "prefill", "decode", "decode energy")} == {"–"}
    assert rows["magnitude-50"]["decode time"].text.startswith(("0.9", "1.0"))
    assert rows["depth-25-recovered"]["decoding is"].text == "faster"


def test_the_terminal_s_table_says_as_whom_too(tmp_path):
    words = [{key: "" if value is None else str(value) for key, value in row.items()} for row in of(tmp_path).rows]
    lines = results.table(words, LOSS).splitlines()
    (mask,) = (line for line in lines if line.startswith("systematic-50 "))
    assert re.search(r" as magnitude-50 +– +–$", mask)
    (timed,) = (line for line in lines if line.startswith("magnitude-50 "))
    assert "no difference" in timed and timed.endswith("est.")


def test_what_was_not_timed_is_no_point_of_time(tmp_path):
    study = of(tmp_path)
    times = [
        axes
        for axes in charts.tradeoffs(study.headline, study.rows, study.dense, 30).axes
        if axes.get_title(loc="left") == "Time"
    ]
    points = {line.get_gid() for axes in times for line in axes.lines if line.get_gid()}
    assert any(gid.startswith("name:magnitude-50: ") for gid in points)
    assert not any(gid.startswith("name:systematic-50: ") for gid in points)


def test_times_by_workload_are_those_of_the_row_that_was_timed_for_the_choice(tmp_path):
    work = {"prompt_tokens": 32, "batch": 1, "prefill_ms": 4.0, "decode_ms_per_token": 2.5, "decode_verdict": "faster"}
    work |= {f"{phase}_ratio{end}": 0.8125 for phase in ("prefill", "decode") for end in ("", "_lo", "_hi")}
    study = of(tmp_path)
    study.files["s1/magnitude-50"]["efficiency"]["works"] = [work, work | {"batch": 8}]
    chosen = next(row for row in study.rows if row["variant"] == "systematic-50")
    assert study.timed_at(chosen) == "s1/magnitude-50"
    advice = recommend.of(study) | {"variant": "systematic-50"}
    html = page.render(study, verdict.groups(study), page.Pictures(None, None, None, None), advice)
    assert "<code>magnitude-50</code> by prompt length and batch" in html and "0.812" in html


def test_metrics_hold_a_time_where_it_was_measured(tmp_path):
    metrics = report.metrics(of(tmp_path))
    assert set(metrics["systematic-50"]) == {"loss", "sparsity", "packed_bytes"}
    assert "decode_ratio" in metrics["magnitude-50"] and "decode_ratio" in metrics["depth-25-recovered"]


def test_an_unreliable_session_is_marked_once_at_the_row_that_was_timed(tmp_path):
    study = of(tmp_path)
    study.files["s1/magnitude-50"]["efficiency"]["unreliable"] = True
    table = tables.results(study, None)
    marked = [cells[0].text for _, cells in table.rows if any(cell.text.endswith("⚠") for cell in cells)]
    assert marked == ["magnitude-50"]
