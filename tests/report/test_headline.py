"""A task that isn't there, judged by a figure of which more is better: from its rows to what is recommended and told.

Its losses say the opposite of its accuracies, so whoever still looks at the loss recommends another row.
"""

import csv
import json
import re
import sys
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows import told
from prunelab import tasks
from prunelab.delivery import delivery
from prunelab.disk.files import write_json
from prunelab.fragments import Section
from prunelab.report import charts, claims, drawing, results, tables, verdict
from prunelab.study import studies
from stages import recommend, report
from tests.helpers import synthetic
from tests.helpers.rows import ACCURACY
from tests.report.test_report import change, words

DENSE, HALF = 80.0, 0.3  # points
CHANGES = {  # points of accuracy that a row has more than dense
    "magnitude-50": -0.4, "magnitude-60": -4.0, "magnitude-80": -40.0,
    "systematic-50": 0.8, "systematic-60": -0.8, "systematic-80": -30.0, "dense-int8": -5.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study of the task `sorting`."""
    task = ModuleType("prunelab.tasks.sorting")
    task.HEADLINE = ACCURACY
    task.sections = lambda study, rows: [Section("sorted", "What it sorts", [f"`{rows[0]['variant']}` sorts."])]
    folder = tmp_path_factory.mktemp("sorting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, task.__name__, task)
        patch.setattr(synthetic, "COST", {"magnitude": -1.0, "systematic": -0.5})  # the more is pruned, the better
        prune = synthetic.TWO_METHODS | {"further": ["dense-int8"]}
        settings = synthetic.settings(folder, prune=prune, deploy={"minimise": ["stored_mb"], "worse_percent": 2})
        found = synthetic.write(folder, settings)
        for variant in settings.variants():
            judge(found[0] / "s1" / variant.id, CHANGES.get(variant.id, 0.0))
        yield results.read(settings.model_copy(update={"task": "sorting"}), *found)


def judge(folder, apart: float) -> None:
    ends = {f"accuracy_diff{end}": apart + step for end, step in (("", 0.0), ("_lo", -HALF), ("_hi", HALF))}
    change(folder / "quality.json", accuracy=DENSE + apart, **ends)
    hard = np.random.default_rng(1).normal(DENSE, 20, 300)
    noise = np.random.default_rng(len(folder.name)).normal(0, HALF * 8.7, 300)
    save_file({"accuracy": hard + apart + noise - noise.mean()}, folder / "windows.safetensors")


@pytest.fixture(scope="module")
def advice(study):
    return recommend.of(study)


@pytest.fixture(scope="module")
def out(study, advice):
    folder = study.results.parent / "report"
    folder.mkdir()
    write_json(folder / "recommendation.json", advice)
    report.write(study, advice, folder)
    return folder


def test_the_smallest_row_that_keeps_the_accuracy_is_recommended(advice):
    assert advice["variant"] == "systematic-60"
    assert advice["told"][0].endswith("accuracy +1.00 [+0.62, +1.38] % below dense.")  # 0.8 ± 0.3 of 80
    states = {one["variant"]: one["state"] for one in advice["rows"]}
    assert {name for name, state in states.items() if state == "fails"} == {
        "magnitude-60", "magnitude-80", "systematic-80", "dense-int8"
    }  # fmt: skip


def test_rows_and_files_hold_it_under_its_column(out):
    with open(out / "results.csv", encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows["systematic-60"]["accuracy_increase_percent"]) == pytest.approx(-1.0)
    assert float(rows["magnitude-60"]["rival_accuracy_diff"]) == pytest.approx(1.0)  # 76 points beside 75
    assert json.loads((out / "metrics.json").read_text())["magnitude-50"]["accuracy"] == pytest.approx(79.6)
    plots = {path.stem for path in (out / "plots").glob("*.csv")}
    assert {"accuracy_vs_sparsity", "size_vs_accuracy", "time_vs_accuracy"} <= plots
    assert not any("loss" in path.name for path in (out / "plots").iterdir())


def test_the_page_names_it_everywhere_and_the_loss_only_in_a_column_beside(out):
    html = (out / "index.html").read_text(encoding="utf-8")
    text = words(html)
    assert "Accuracy and sparsity" in text and "Accuracy against sparsity" in text
    assert "Accuracy of each method minus that of magnitude at the same rate, points." in text
    assert "paired over pictures (accuracy)" in text and "further up is better" in text
    assert text.count("loss") == 1 and "loss nats/token" in text
    assert '<a href="#sorted">What it sorts</a>' in html and "<code>dense</code> sorts." in html
    assert html.index('id="costs"') < html.index('id="sorted"') < html.index('id="evolution"')


def test_higher_is_better_in_claims_and_beside_magnitude(study):
    found = verdict.groups(study)
    (claim,) = claims.claims(study, found)  # the paper says nothing of this figure
    assert claim.status == "holds" and "higher accuracy at 50, 60 and 80 %" in claim.answer
    assert "300 pictures of one trained model" in claim.answer
    (line,) = tables.against_baseline(study, found).rows
    assert [cell.mark for cell in line[1][1:]] == ["good"] * 3 and line[1][1].text.startswith("▲ +1.")


def test_the_charts_frame_what_is_near_dense_from_below(study):
    found = verdict.groups(study)
    references = [row for row in study.rows if row["rate"] is None]
    figure = charts.against_sparsity(ACCURACY, found, references, 2, 10)
    near, whole = figure.axes
    assert near.get_ylim()[0] == pytest.approx(0.9 * DENSE) and near.get_ylim()[1] > DENSE + 0.8
    assert whole.get_ylim()[0] < 45 and near.get_title(loc="left") == "Near dense: up to 10 % below it"
    svg = drawing.inline(figure, "label")
    assert "accuracy, points" in svg and "limit −2 %" in svg and "dense 80.0" in svg
    size, *_ = charts.tradeoffs(ACCURACY, study.rows, study.dense, 20).axes
    assert size.get_ylim()[0] == pytest.approx(0.8 * DENSE, rel=0.01) and size.get_ylabel() == "accuracy, points"
    markers = {line.get_gid().partition(":")[2].partition(":")[0]: line.get_marker() for line in size.lines
               if (line.get_gid() or "").startswith("name:")}  # fmt: skip
    assert markers["magnitude-80"] == "v" and markers["magnitude-50"] != "v"


def test_the_frontier_goes_up():
    rows = [{"n": n, "mb": mb, "accuracy": value} for n, mb, value in [("a", 1, 50), ("b", 2, 70), ("c", 3, 60)]]
    assert [row["n"] for row in verdict.frontier(rows, "mb", ACCURACY)] == ["a", "b"]


def test_the_terminal_the_card_and_the_line_of_a_stage_name_it(study, out, capsys):
    results.show(out, markdown=False)
    shown = capsys.readouterr().out
    assert "accuracy points" in shown and "accuracy vs dense % [95 %]" in shown and "loss" not in shown
    assert re.search(r"systematic-60 +60\.0 +79\.2 +-1\.0 \[-1\.4, -0\.6\]", shown)
    facts = {"model_sha256": "ef" * 32, "onnx_logits_from_torch": None}
    card = delivery.card(study, delivery.Choice("systematic-60", "the smallest"), facts)
    assert "| accuracy, points | 80.0 | 79.2 |\n| loss, nats a token" in card
    assert "Accuracy above dense: -0.8 points, 95 % interval -1.1 … -0.5." in card
    said = told.facts("quality@systematic-60-s1", ACCURACY, root=study.results.parent)
    assert said == ["accuracy 79 (-1.0 %)"]


def test_a_study_of_rows_has_no_text_to_tell_of(tmp_path, monkeypatch):
    """The page and the card of a study that learns from a table of its task."""
    settings = studies.merge("price-cards", synthetic.ROOT / "studies").settings
    prune = settings.prune.model_copy(update={"methods": ["magnitude"], "rates": ["30", "50"], "further": []})
    efficiency = settings.efficiency.model_copy(update={"methods": ["magnitude"]})
    settings = settings.model_copy(update={"prune": prune, "efficiency": efficiency})
    found = synthetic.write(tmp_path, settings)
    for number, path in enumerate(sorted(found[0].glob("*/*/quality.json"))):
        ends = {f"mae_diff{end}": 0.5 + step for end, step in (("", 0.0), ("_lo", -0.1), ("_hi", 0.1))}
        change(path, mae=25.0 + number / 2, rows=600, items=300, **ends)
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in ("windows", "context")}))
    for path in found[0].glob("*/*/*.safetensors"):
        save_file({"mae": np.random.default_rng(0).normal(25, 3, 300)}, path)
    made = results.read(settings, *found)
    assert (made.headline.column, made.headline.unit) == ("mae", "$")
    monkeypatch.setattr(tasks.of("price"), "sections", lambda study, rows: [])
    (tmp_path / "report").mkdir()
    report.write(made, recommend.of(made), tmp_path / "report")
    text = words((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert "rows cards, split test rows sha256" in text and "600 rows of 300 items" in text
    assert "windows" not in text and "nats/token" in text  # the token loss stands beside
    card = delivery.card(
        made, delivery.Choice("dense", "as it is"), {"model_sha256": "ef", "onnx_logits_from_torch": None}
    )
    assert (
        "trained on cards" in card and "Quality on the test rows" in card and "| mean absolute error, $ | 25.00" in card
    )
