"""What report, table and card say of questions, of a right answer's price, and of sets that tell nothing."""

import csv
import json

import pytest

from tests.helpers import synthetic
from tests.report.test_report import run, words


def task(name: str, acc: float, above: bool, diff: float = 0.0, chance: float = 0.25) -> dict:
    return {
        "task": name, "version": None, "questions": 60, "chance": chance, "chat": False, "acc": acc,
        "acc_stderr": 0.05, "acc_diff": diff, "acc_diff_lo": diff - 0.04, "acc_diff_hi": diff + 0.04,
        "dense_above_chance": above,
    }  # fmt: skip


def pooled(acc: float, diff: float = 0.0) -> dict:
    ends = {"": 0.0, "_lo": -0.03, "_hi": 0.03}
    figures = {f"pooled_accuracy{end}": acc + step for end, step in ends.items()}
    figures |= {f"pooled_accuracy_diff{end}": diff + step for end, step in ends.items()}
    figures |= {"pooled_accuracy_stderr": 0.0153, "pooled_right_probability": acc - 0.1, "pooled_chance": 0.25}
    return figures | {"pooled_tasks": ["science", "short"], "pooled_questions": 120, "pooled_query_tokens": 20.0,
                      "pooled_answer_tokens": 4.0}  # fmt: skip


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.write(tmp_path, synthetic.settings(tmp_path, prune=synthetic.TWO_METHODS))
    for path in (tmp_path / "results" / "s1").glob("*/quality.json"):
        name = path.parent.name
        drop = 0.0 if name.startswith("dense") else -0.1 if name != "magnitude-80" else -0.25
        tasks = [task("science", 0.6 + drop, True, drop), task("arithmetic", 0.3 + drop, False, drop)]
        content = json.loads(path.read_text()) | {"tasks": tasks} | pooled(0.5 + drop, drop)
        path.write_text(json.dumps(content))
    return run(tmp_path)


def test_every_set_stands_with_its_error_its_difference_and_what_guessing_gets(page):
    text = words(page)
    assert "50.0 ± 5.0, −10.0 [−14.0, −6.0]" in text and "guessing 25 %" in text
    assert "On arithmetic dense is no better than guessing" in text
    assert (
        "Pooled over 120 questions of science and short , dense answers 50.0 % rightly, guessing would 25.0 %" in text
    )
    assert "40.0 ± 1.5" in text and "−10.0 [−13.0, −7.0]" in text
    assert 'id="answers"' in page and "questions answered rightly, %" in page


def test_a_set_on_which_dense_guesses_ranks_nothing(page):
    marks = {}
    for accuracy in ("20.0 ± 5.0", "50.0 ± 5.0"):  # of arithmetic and of science, both ten points below dense
        before = page[: page.index(f"{accuracy}, −10.0")]
        marks[accuracy] = before[before.rindex("<td") :]
    assert "same" in marks["20.0 ± 5.0"] and "bad" in marks["50.0 ± 5.0"]


def test_a_right_answer_has_a_price_only_where_nobody_guesses(page, tmp_path):
    with open(tmp_path / "report" / "results.csv", newline="", encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    dense = rows["dense"]
    joules = (20 * 0.004 + 4 * float(dense["decode_j_per_token"])) / 0.25
    assert float(dense["j_per_correct"]) == pytest.approx(joules)
    assert float(dense["gco2_per_correct"]) == pytest.approx(joules / 3.6e6 * 344)
    assert float(dense["litres_per_correct"]) == pytest.approx(joules / 3.6e6 * 1.93)
    assert rows["magnitude-80"]["j_per_correct"] == "" and float(rows["magnitude-80"]["pooled_accuracy"]) == 0.25
    assert float(rows["magnitude-50"]["accuracy_drop_points"]) == pytest.approx(10.0)
    assert "includes chance" in rows["magnitude-80"]["per_correct_missing"]
    assert 'title="the accuracy' in page and f"{joules:.3g} est." in page
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["magnitude-50"]["pooled_accuracy"] == pytest.approx(0.4)
