"""The stage recommend on finished studies: one object, in words that say what the figures say, also per device."""

import json
import re
import shutil

import pytest

from prunelab.deploy import figures, recommendation
from prunelab.errors import InputError
from stages import inputs, recommend
from tests.helpers import synthetic
from tests.helpers.rows import LOSS, deploy, row

FURTHER = ["dense-average", "depth-25-recovered", "mlp-width-30-recovered", "dense-int8", "depth-25-recovered-int8"]


def made(rows, **wanted) -> dict:
    return recommendation.make(rows, LOSS, deploy(**wanted), device="here")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A finished default study, with removed structure and rivals."""
    monkeypatch.chdir(tmp_path)
    settings = synthetic.settings(tmp_path, prune={"further": FURTHER})
    synthetic.write(tmp_path, settings)
    return tmp_path


def run() -> dict:
    recommend.main(["--results", "results", "--models", "models", "--out", "report"])
    with open("report/recommendation.json", encoding="utf-8") as file:
        return json.load(file)


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_stage_writes_what_to_deploy_and_why_and_says_it(study, capsys):
    found = run()
    assert found["variant"] == "depth-25-recovered-int8" and found["tied"] == []
    assert capsys.readouterr().out.splitlines()[-1] == found["told"][0].replace("`", "")
    number = r"\+?\d\.\d+ \[\+?\d\.\d+, \+?\d\.\d+\]"
    assert re.fullmatch(
        r"Deploy `depth-25-recovered-int8`: \d\.\d\d MB on disk instead of 3\.30 \(0\.\d\d ×\), "
        rf"{number} ms a token \({number} × dense\), loss {number} % above dense\.",
        found["told"][0],
    )
    assert "rows keep to worse_percent ≤ 2" in found["told"][1]
    asked = "the least decode_ms_per_token, then stored_mb of the rows that keep to worse_percent ≤ 2"
    assert found["why"] == f"{asked}, by 95 % intervals"
    assert found["runners_up"][0] == "depth-25-recovered"
    assert any(line.startswith("Next: `depth-25-recovered`, larger: 2.") for line in found["told"])
    assert any(line.startswith("The frontier, which no other row significantly beats: ") for line in found["told"])
    assert {"depth-25-recovered-int8", "depth-25-recovered"} <= set(found["frontier"])
    states = {one["variant"]: one["state"] for one in found["rows"]}
    assert states["random-80"] == "fails" and states["depth-25-recovered"] == "behind"
    assert found["rivals"]["magnitude-60"]["dominated_by"] == "dense-int8"
    assert found["device"] == "cpu-2-cores-3f9a"


@pytest.mark.parametrize("seeds", [["s1"], ["s1", "s2", "s3"]])
@pytest.mark.parametrize("unreliable", [False, True])
def test_the_first_line_recommends_no_row_that_another_beats_in_all_that_was_asked(tmp_path, seeds, unreliable):
    settings = synthetic.settings(tmp_path, seeds=seeds, prune={"further": FURTHER})
    results, models = synthetic.write(tmp_path, settings)
    if unreliable:  # as on a virtual machine: nearly every interval is too wide
        for number, path in enumerate(sorted(results.glob("*/*/efficiency.json"))):
            known = json.loads(path.read_text())
            wide = 0.02 + 0.01 * (number % 7)
            ends = {"decode_ratio_lo": known["decode_ratio"] - wide, "decode_ratio_hi": known["decode_ratio"] + wide}
            change(path, unreliable=True, **ends)
    found = synthetic.advise(settings, results, models)
    assert found["told"][0].startswith(f"Deploy `{found['variant']}`")
    table = {one["variant"]: {name: one["figures"][name] for name in figures.RULES} for one in found["rows"]}
    mine = table[found["variant"]]
    assert mine["worse_percent"]["hi"] <= 2
    asked = ["decode_ms_per_token", "stored_mb", "worse_percent"]
    for name, other in table.items():
        assert not all(other[figure]["value"] < mine[figure]["value"] for figure in asked), name
        if other["worse_percent"]["hi"] <= 2:  # nor in all that was to be small
            assert not all(other[figure]["value"] < mine[figure]["value"] for figure in asked[:2]), name


def test_two_runs_write_equal_bytes_and_a_broken_or_other_file_is_one_line(study):
    first, text = run(), (study / "report" / "recommendation.json").read_bytes()
    run()
    assert (study / "report" / "recommendation.json").read_bytes() == text
    path = study / "report" / "recommendation.json"
    listed = [one["variant"] for one in first["rows"]]
    assert recommendation.read(path, listed) == first
    with pytest.raises(InputError, match=r"is of another list of rows \(ria-50\); write it again: dvc repro recommend"):
        recommendation.read(path, [*listed, "ria-50"])
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no recommendation; write it again: dvc repro -f -s recommend"):
        recommendation.read(path, listed)
    path.write_text('{"mine": 1}')
    with pytest.raises(InputError, match="expected no file, or an earlier one with 'told' in it"):
        run()


def test_an_unreliable_time_that_was_merely_minimised_is_told(study):
    for path in (study / "results").glob("*/*/efficiency.json"):
        change(path, unreliable=True)
    assert any("merely to be small, so its wide interval counts as it is" in line for line in run()["told"])


def test_an_undecided_row_is_listed_and_not_recommended():
    rows = [row("dense", unreliable=False), row("depth-25", mb=2.4, time=0.75, unreliable=True)]
    found = made(rows, decode_ms_per_token=2.5)
    assert found["variant"] == "dense" and found["told"][0].startswith(
        "Deploy the dense model as it is: 3.20 MB on disk"
    )
    assert found["told"][-1] == (
        "Undecided, so not recommended: `depth-25` (decode_ms_per_token is marked unreliable)."
    )
    assert found["rows"][1]["budgets"][0]["holds"] is None


def test_where_nothing_qualifies_it_says_which_budget_fails_by_how_much_and_what_comes_nearest():
    found = made([row("dense"), row("magnitude-50", mb=1.8, loss=3.9)], stored_mb=1.5, worse_percent=2)
    assert found["variant"] is None and recommendation.delivered(found) == "dense"
    assert found["told"] == [
        "Nothing qualifies: no row keeps to stored_mb ≤ 1.5, worse_percent ≤ 2 with its whole 95 % interval.",
        "No row keeps stored_mb ≤ 1.5: 1.80 MB stored, 20 % over at best.",
        "Nearest comes `magnitude-50`: stored_mb ≤ 1.5: 1.80 MB stored, 20 % over; worse_percent ≤ 2: "
        "+3.90 [+3.80, +4.00] % of loss above dense, 100 % over.",
    ]
    assert found["nearest"]["variant"] == "magnitude-50"
    assert [one["excess_percent"] for one in found["nearest"]["fails"]] == pytest.approx([20, 100])
    told = made([row("dense"), row("depth-25", time=0.7)], joules_per_token=1)["told"]
    assert told[1] == "joules_per_token is undecided for every row: estimated: time × modelled power."


def test_tied_rows_are_named_in_the_first_line_and_a_mask_promises_no_speed():
    found = made([row("dense"), row("magnitude-50", mb=1.8, loss=0.9), row("systematic-50", mb=1.8, loss=0.5)])
    assert found["variant"] == "systematic-50" and found["tied"] == ["magnitude-50"]
    assert found["told"][0].startswith(
        "Deploy `systematic-50` (or `magnitude-50`, which nothing asked for tells apart): "
    )
    assert "It saves storage, not time: masks alone make no dense kernel faster." in found["told"]


def test_a_named_variant_is_told_with_what_it_breaks():
    found = made([row("dense"), row("magnitude-80", mb=0.8, loss=46)], variant="magnitude-80", worse_percent=2)
    assert found["variant"] == "magnitude-80" and found["why"] == "named in deploy.variant"
    assert found["told"][1].startswith("It is named in deploy.variant, against worse_percent ≤ 2: +46.00 [")


def test_accuracy_is_that_of_all_questions_and_its_interval_is_turned():
    quality = {"pooled_accuracy_diff": -0.01, "pooled_accuracy_diff_lo": -0.035, "pooled_accuracy_diff_hi": 0.015}
    drop = figures.drops(quality)
    assert drop == pytest.approx({
        "accuracy_drop_points": 1.0, "accuracy_drop_points_lo": 1 - 2.5, "accuracy_drop_points_hi": 1 + 2.5,
    })  # fmt: skip
    surer = figures.drops({f"pooled_right_probability_diff{end}": 0.02 for end in ("", "_lo", "_hi")})
    assert surer == dict.fromkeys((f"right_probability_drop_points{end}" for end in ("", "_lo", "_hi")), -2.0)
    assert figures.drops({"pooled_tasks": []}) == figures.drops({}) == {}
    rows = [row("dense"), row("depth-25", mb=2.4, time=0.7, **drop)]
    assert made(rows, accuracy_drop_points=4)["variant"] == "depth-25"
    assert made(rows, accuracy_drop_points=3)["variant"] == "dense"


def with_devices(folder, **devices) -> None:
    synthetic.settings(folder, prune={"further": FURTHER}, deploy={"devices": devices})


def test_another_machine_gets_an_answer_of_its_own_from_what_it_measured(study):
    before = run()
    shutil.copytree("results", "pi")
    for name in ("depth-25-recovered", "depth-25-recovered-int8"):  # there, quantised kernels are slow
        slow = 0.6 if name.endswith("recovered") else 2.5
        ends = {f"decode_ratio{end}": slow + step for end, step in (("", 0), ("_lo", -0.02), ("_hi", 0.02))}
        change(study / "pi" / "s1" / name / "efficiency.json", device="pi-4", **ends)
    change(study / "pi" / "s1" / "dense" / "efficiency.json", device="pi-4")
    (study / "pi" / "s1" / "mlp-width-30-recovered" / "efficiency.json").unlink()
    with_devices(study, pi="pi")
    found = run()
    assert found["variant"] == before["variant"] == "depth-25-recovered-int8"
    there = found["devices"]["pi"]
    assert there["variant"] == "depth-25-recovered" and there["device"] == "pi-4"
    assert "mlp-width-30-recovered" not in {one["variant"] for one in there["rows"]}  # not measured there
    assert "magnitude-50" in {one["variant"] for one in there["rows"]}


@pytest.mark.parametrize(
    ("key", "row", "line"),
    [
        ("dense_sha256", "dense", "dense_sha256 ffff, this study has None"),
        ("weights_sha256", "magnitude-50", "weights_sha256 ffff, this study has None"),
    ],
)
def test_a_machine_that_measured_other_weights_is_refused_in_one_line(study, key, row, line):
    shutil.copytree("results", "pi")
    change(study / "pi" / "s1" / row / "efficiency.json", **{key: "ffff"})
    with_devices(study, pi="pi")
    with pytest.raises(InputError, match=rf"pi/s1/{row}/efficiency\.json: measured with {line}; measure these models"):
        run()
    assert not (study / "report").exists()


def test_a_folder_without_the_dense_model_or_none_at_all_is_one_line(study):
    shutil.copytree("results", "pi")
    (study / "pi" / "s1" / "dense" / "efficiency.json").unlink()
    with_devices(study, pi="pi")
    with pytest.raises(InputError, match=r"pi/s1/dense/efficiency\.json: no such file; measure the dense model there"):
        run()
    with_devices(study, pi="nowhere")
    with pytest.raises(InputError, match="nowhere: expected a file or folder, found nothing there"):
        inputs.main(["--out", "data/inputs"])


def test_what_other_machines_measured_is_known_by_its_content(study):
    shutil.copytree("results", "pi")
    with_devices(study, pi="pi")
    settings = study / "params.yaml"
    settings.write_text(settings.read_text())

    def hashes() -> dict:
        inputs.main(["--out", "data/inputs"])
        return json.loads((study / "data" / "inputs" / "devices.json").read_text())

    before = hashes()
    (study / "pi" / "s1" / "dense" / "readings.parquet").write_text("not read")
    assert hashes() == before and set(before) == {"pi"}
    change(study / "pi" / "s1" / "dense" / "efficiency.json", decode_ms_per_token=7.0)
    assert hashes() != before
