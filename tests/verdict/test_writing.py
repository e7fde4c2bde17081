"""What `prunelab verdict` leaves: a page that works offline, JSON, a table of effects, a picture."""

import csv
import json
import re

import pytest

from prunelab.command import line
from prunelab.verdict import findings, writing
from tests.helpers import cells as planted
from tests.report.test_report import Checker, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    planted.write(folder, "verdict", planted.alike)
    planted.write(folder, "verdict-past-best", planted.alike)
    writing.write("verdict", folder)
    return folder


def test_four_files_stand_beside_the_studies(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "verdict", "verdict-effects.csv", "verdict-past-best", "verdict.html", "verdict.json", "verdict.png",
    ]  # fmt: skip
    assert (folder / "verdict.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_whole_and_loads_nothing(folder):
    html = (folder / "verdict.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    ids = [name for name in checker.ids if not re.fullmatch("p[0-9a-f]{10}", name)]  # clip paths, named by their shape
    assert checker.open == [] and checker.loaded == [] and len(set(ids)) == len(ids)
    assert {link[1:] for link in checker.links} <= set(checker.ids)
    text = words(html)
    for said in (
        "Weight history ranks weights no better than their final magnitude does",
        "Six comparisons that were named beforehand",
        "Stopped in time, 50 %, one-shot, final weights kept: ranked by history instead of final magnitude",
        "falls up to 60 % of compression and rises sharply past 70 %",
        "Between the regimes, past its best minus stopped in time",
        "the paper, in words – falls falls falls falls – rises sharply",
        "train.epochs 8 40",  # what the studies do differently
        "How weights evolved",
        "those that train.tracker.trajectories names",
        "Where each training stopped",
    ):
        assert said in text, said
    assert html.count("<svg") == 8  # two panels in one, effects, 2 × (random, clearest), 2 × curve


def test_every_effect_is_in_the_table_with_its_interval(folder):
    with open(folder / "verdict-effects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(writing.EFFECTS)
    one = next(
        row for row in rows
        if (row["factor"], row["level"], row["regime"], row["rate"])
        == ("ranking", "final weights kept", "stopped in time", "50")
    )  # fmt: skip
    assert float(one["loss_diff_lo"]) < float(one["loss_diff"]) < float(one["loss_diff_hi"]) and one["seeds"] == "5"
    assert {row["kind"] for row in rows} == {"main effect", "interaction", "regime", "against dense"}


def test_the_json_holds_sentences_comparisons_limits_and_breaks(folder):
    content = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert len(content["claims"]) == 7 and len(content["primary"]) == 6
    assert content["primary"][0]["effect"]["seeds"] == 5 and content["missing"] == {}
    broken = next(one for one in content["breaks"] if one["pruned_by"] == "magnitude")
    assert broken["found"] and broken["at_percent"][1] <= 62 <= broken["at_percent"][2]
    safe = next(one for one in content["safe"] if one["pruned_by"] == "random")
    assert safe["tested"] == list(planted.RATES)


def test_the_verb_writes_and_prints_what_one_study_alone_can_tell(tmp_path, capsys):
    few(tmp_path / "mine", "mine")
    line.main(["verdict", "mine", "--finished", str(tmp_path / "mine")])
    told = capsys.readouterr().out
    assert all(f"P{number}  " in told for number in range(1, 7)) and "mine.html" in told
    assert "mine-past-best is not finished (make study STUDY=mine-past-best)." in told
    html = (tmp_path / "mine" / "mine.html").read_text(encoding="utf-8")
    assert "mine-past-best is not finished" in words(html) and "not in these studies" in words(html)
    assert "How weights evolved" not in html and "Too few rates or seeds to find a break" in html


def few(folder, study: str) -> None:
    """A study of few cells, whose model was not trained."""
    place = planted.write(folder, study, planted.alike, ids=("dense", "magnitude-50", "systematic-50"))
    (place / "trajectories.parquet").unlink()
    (place / "curves.csv").unlink()


def test_as_markdown_it_fits_a_readme(tmp_path):
    few(tmp_path, "verdict")
    told = writing.told(findings.find("verdict", tmp_path), "verdict", tmp_path, markdown=True).splitlines()
    assert told[0].startswith("**Weight history") and sum(row.startswith("| P") for row in told) == 6
    assert len({row.count("|") for row in told if row.startswith("|")}) == 1


def test_where_no_study_is_nothing_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        line.main(["verdict", "--finished", str(tmp_path)])
    assert "neither verdict nor verdict-past-best is kept there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
