"""Charts keep within their frame, name everything, and survive what a study may hold."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from prunelab.report import charts, drawing, evolution, results, verdict
from tests.helpers import synthetic


def study(folder, **changes):
    settings = synthetic.settings(folder, **changes)
    return results.read(settings, *synthetic.write(folder, settings))


def loss_svg(made) -> str:
    references = [row for row in made.rows if row["rate"] is None]
    return drawing.inline(charts.against_sparsity(made.headline, verdict.groups(made), references, 2, 10), "label")


def test_every_method_and_the_dense_line_are_named_in_the_chart(tmp_path):
    svg = loss_svg(study(tmp_path))
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"random", "magnitude", "systematic", "systematic-average", "dense"} <= set(words)
    assert any(word.startswith("dense 1.5") for word in words) and any(
        word.startswith("averaged, unp") for word in words
    )


def test_rows_in_fewer_bits_have_a_line_each_over_seeds_too_and_points_among_the_costs(tmp_path):
    rows = ["dense-bf16", "dense-int8", "dense-int4", "dense-int4-gptq", "depth-25-recovered-int4", "magnitude-50-int8"]
    prune = synthetic.TWO_METHODS | {"further": ["dense-average", *rows]}
    made = study(tmp_path, prune=prune, seeds=["s1", "s2"])
    svg = loss_svg(made)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for name in rows[:4]:
        assert any(re.match(rf"{name} 1\.5\d+$", word) for word in words), name
        assert f"{name}: interval over seeds" in svg
    assert {"depth-recovered-int4", "magnitude-int8"} <= set(words)
    panels = {
        axes.get_title(loc="left"): axes for axes in charts.tradeoffs(made.headline, made.rows, made.dense, 30).axes
    }
    sizes = {text.get_text() for text in panels["Size"].texts}
    assert set(rows[:4]) <= sizes
    times = {text.get_text() for text in panels["Time"].texts}
    assert {"dense-bf16", "dense-int8", "dense-int4"} <= times
    assert "dense-int4-gptq" not in times  # it has those of dense-int4


def test_one_panel_suffices_when_every_loss_is_near_dense(tmp_path):
    far = loss_svg(study(tmp_path / "far", prune=synthetic.TWO_METHODS | {"rates": [50, 95]}))
    near = loss_svg(study(tmp_path / "near", prune=synthetic.TWO_METHODS | {"rates": [20, 50]}))
    assert "Whole range" in far and "Whole range" not in near
    assert "limit +2 %" in near and ">systematic<" in near


def test_one_panel_suffices_when_no_loss_is_near_dense(tmp_path):
    wrecked = loss_svg(study(tmp_path, prune={"methods": ["random"], "rates": [80, 95]}))
    assert "Near dense" not in wrecked and "random-95: " in wrecked and "limit +2 %" in wrecked


def test_every_point_names_its_variant_under_the_pointer(tmp_path):
    made = study(tmp_path, prune=synthetic.TWO_METHODS)
    titles = re.findall(r"<title>([^<]*)</title>", loss_svg(made))
    for row in made.rows:
        assert row["rate"] is None or any(title.startswith(f"{row['variant']}: ") for title in titles)


def test_colours_in_a_page_are_variables_and_ids_do_not_collide(tmp_path):
    svg = loss_svg(study(tmp_path, prune=synthetic.TWO_METHODS))
    ElementTree.fromstring(svg)  # well-formed
    assert "var(--vermillion)" in svg and drawing.LIGHT["vermillion"] not in svg
    assert not re.search(r'<g id="', svg) and "http://www.w3.org/1999/xlink" not in re.sub(r"xmlns:xlink", "", svg)


def test_equal_studies_draw_equal_bytes(tmp_path):
    made = study(tmp_path, prune=synthetic.TWO_METHODS)
    assert loss_svg(made) == loss_svg(made)


def test_more_than_eight_methods_get_a_panel_each(tmp_path):
    methods = ["random", "magnitude", "systematic"]
    methods = [f"{method}{allocation}" for method in methods for allocation in ("", "-global", "-sigma")]
    svg = loss_svg(study(tmp_path, prune={"methods": methods, "rates": [50, 80]}))
    assert set(methods) <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def test_patterns_and_prune_rates_are_lines_of_their_own(tmp_path):
    by_percent = verdict.groups(study(tmp_path / "a", prune={"methods": ["magnitude"], "rates": [50, "2of4"]}))
    assert list(charts.series(by_percent)) == ["magnitude", "magnitude n:m"]
    by_sigma = {"methods": ["magnitude"], "rates": [50, "sigma112"], "allocation": "sigma"}
    assert list(charts.series(verdict.groups(study(tmp_path / "b", prune=by_sigma)))) == ["magnitude", "magnitude σ"]


def test_seeds_and_unknown_losses_are_drawn_or_left_out(tmp_path):
    made = study(tmp_path, seeds=["s1", "s2", "s3"], prune=synthetic.TWO_METHODS)
    for row in made.rows:
        if row["variant"] == "systematic-80":
            row["loss"] = row["loss_diff"] = None  # a variant whose loss is beyond all numbers
    titles = re.findall(r"<title>([^<]*)</title>", loss_svg(made))
    assert not any(title.startswith("systematic-80") for title in titles)
    assert any(title.startswith("systematic-60") for title in titles)


def test_modelled_energy_is_grey_nameless_and_called_estimated(tmp_path):
    made = study(tmp_path, prune=synthetic.TWO_METHODS)
    dense = made.rows[0]
    svg = drawing.inline(charts.tradeoffs(made.headline, made.rows, dense, 30), "label")
    assert "Energy (estimated" in svg and "J a decoded token, estimated" in svg
    for row in made.rows:
        row["energy_estimated"] = False
    svg = drawing.inline(charts.tradeoffs(made.headline, made.rows, dense, 30), "label")
    assert "estimated" not in svg


def test_without_measurements_there_is_no_chart_of_costs(tmp_path):
    made = study(tmp_path, prune=synthetic.TWO_METHODS)
    for row in made.rows:
        row.update(dict.fromkeys(charts.COSTS))
    assert charts.tradeoffs(made.headline, made.rows, made.rows[0], 30) is None


def test_trajectories_tell_the_share_of_each_kind(tmp_path):
    import pandas

    made = study(tmp_path, prune=synthetic.TWO_METHODS)
    paths = evolution.paths(pandas.read_parquet(made.models / "s1" / "dense" / "history" / "trajectories.parquet"))
    svg = drawing.inline(charts.trajectories(paths), "label")
    shares = re.findall(r">(grow|stay flat|shrink|diverge): (\d+) %<", svg)
    assert [kind for kind, _ in shares] == list(evolution.KINDS)
    assert sum(int(share) for _, share in shares) == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    ("heights", "gap", "moved"),
    [
        ([0.1, 0.5, 0.9], 0.1, [0.1, 0.5, 0.9]),
        ([0.5, 0.5], 0.1, [0.45, 0.55]),
        ([0.4, 0.5, 0.5, 0.9], 0.1, [11 / 30, 14 / 30, 17 / 30, 0.9]),
        ([1.0, 1.0], 0.1, [0.92, 1.02]),
        ([], 0.1, []),
    ],
)
def test_labels_move_as_little_as_they_must(heights, gap, moved):
    assert drawing.spread(heights, gap) == pytest.approx(moved)


def test_colour_is_what_a_method_ranks_by_and_dashes_what_it_keeps():
    style = drawing.Style(["magnitude", "average-magnitude", "systematic", "new", "newer", "new-global"])
    assert style["magnitude"]["color"] == style["average-magnitude"]["color"] != style["systematic"]["color"]
    assert style["magnitude"]["linestyle"] == "-" != style["average-magnitude"]["linestyle"]
    assert style["new"]["color"] == style["new-global"]["color"] != style["newer"]["color"]
