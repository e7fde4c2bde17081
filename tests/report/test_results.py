"""Rows of a study: the contract's columns, the list from the settings, unknown stays unknown."""

import csv
import json
import subprocess
import sys

import pytest

from prunelab.errors import InputError
from prunelab.recipes.variants import Variant
from prunelab.report import results
from tests.helpers import synthetic

CONTRACT = (
    "variant, method, rate, seed, sparsity_pruned, sparsity_all, parameters, nonzero_parameters, loss, perplexity, "
    "bits_per_byte, loss_diff, loss_diff_lo, loss_diff_hi, kl_to_dense, top1_agreement, dense_bytes, packed_bytes, "
    "macs_per_token, prefill_ms, decode_ms_per_token, decode_ratio, decode_ratio_lo, decode_ratio_hi, "
    "peak_memory_bytes, decode_j_per_token, energy_provenance, gco2_per_million_tokens, device"
)


@pytest.fixture
def made(tmp_path):
    settings = synthetic.settings(tmp_path, replicas=["s2"], prune=synthetic.TWO_METHODS)
    return settings, *synthetic.write(tmp_path, settings)


def test_the_contracts_columns_stand_first_and_in_order(made, tmp_path):
    study = results.read(*made)
    results.write_csv(study.rows, tmp_path / "results.csv")
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert ", ".join(header).startswith(CONTRACT + ", ")
    assert list(results.frame(study).columns) == header
    assert len(set(header)) == len(header)


def test_rows_are_the_settings_variants_and_not_what_lies_in_the_folder(made):
    settings, folder, models = made
    (folder / "magnitude-99").mkdir()
    (folder / "magnitude-99" / "quality.json").write_text("{}")
    rows = results.read(settings, folder, models).rows
    assert [row["variant"] for row in rows] == [*settings.references(), *(v.id for v in settings.variants())]


def test_a_row_holds_what_its_files_hold(made):
    settings, folder, models = made
    rows = {row["variant"]: row for row in results.read(settings, folder, models).rows}
    row = rows["systematic-50-s2"]
    quality = json.loads((folder / "systematic-50-s2" / "quality.json").read_text())
    dense = json.loads((folder / "dense-s2" / "quality.json").read_text())
    assert (row["method"], row["rate"], row["seed"], row["dense"]) == ("systematic", "50", 2, "dense-s2")
    assert row["loss"] == quality["loss"] and row["sparsity_pruned"] == 0.5
    assert row["loss_increase_percent"] == pytest.approx(100 * quality["loss_diff"] / dense["loss"])
    assert row["energy_provenance"] == "cpu:cpu_load_model gpu:none ram:model"
    assert (row["dtype"], row["quality_dtype"]) == ("float32", "float32")
    assert rows["dense"]["seed"] == settings.seed and rows["dense"]["method"] == "dense"


def test_a_calibrated_row_names_its_calibration_text_by_hash_and_seed(made):
    settings, folder, models = made
    path = models / "systematic-50-s2" / "sparsity.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"calibration": {"hash": "cd" * 32, "seed": 2, "samples": 8}}))
    rows = {row["variant"]: row for row in results.read(settings, folder, models).rows}
    named = {name: rows["systematic-50-s2"][f"calibration_{name}"] for name in ("hash", "seed")}
    assert named == {"hash": "cd" * 32, "seed": 2}
    assert rows["systematic-50"]["calibration_hash"] is None


def test_what_was_not_measured_is_empty_and_not_zero(made, tmp_path):
    rows = results.read(*made).rows
    average = next(row for row in rows if row["variant"] == "dense-average")
    assert average["decode_ratio"] is None and average["packed_bytes"] is None and average["rate"] is None
    assert average["parameters"] == synthetic.PARAMETERS  # the shape is dense's, so that much is known
    results.write_csv(rows, tmp_path / "results.csv")
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        written = {row["variant"]: row for row in csv.DictReader(file)}
    assert written["dense-average"]["decode_ratio"] == ""
    assert written["dense"]["parameters"] == str(synthetic.PARAMETERS)  # whole numbers stay whole


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("results/systematic-50/quality.json", "quality@systematic-50"),
        ("results/magnitude-60-s2/efficiency.json", "efficiency-replica@magnitude-60-s2"),
        ("models/magnitude-50/sparsity.json", "prune@magnitude-50"),
        ("results/dense-best/quality.json", "control@best"),
        ("results/dense/efficiency.json", "efficiency-dense"),
        ("results/dense-s2/quality.json", "reference-replica@s2"),
    ],
)
def test_a_missing_file_names_itself_and_the_stage_to_run(made, tmp_path, file, stage):
    (tmp_path / file).unlink()
    with pytest.raises(InputError) as error:
        results.read(*made)
    assert file in str(error.value) and str(error.value).endswith(f"dvc repro {stage}")


def test_a_broken_file_is_named(made, tmp_path):
    (tmp_path / "results/dense/quality.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"dense/quality\.json: expected a JSON object, found list"):
        results.read(*made)


def test_a_rows_method_is_all_of_its_name_but_rate_and_seed():
    def method(identifier: str, rate: str, tag: str | None) -> str:
        return results._method(Variant(identifier, "", None, rate, tag, "dense"))

    assert method("magnitude-global-50-s2", "50", "s2") == "magnitude-global"
    assert method("wanda-2of4", "2of4", None) == "wanda"
    assert method("mlp-width-50-recovered", "50", None) == "mlp-width-recovered"


def test_bills_of_variants_that_left_the_study_are_left_out(made):
    settings, folder, models = made
    (folder / "energy").mkdir()
    mine = ["train", "train-s2", "prune-magnitude-50", "quality-systematic-60-s2", "efficiency-dense"]
    gone = ["prune-magnitude-99", "train-s9", "quality-average-magnitude-50"]
    for name in mine + gone:
        (folder / "energy" / f"{name}.json").write_text("{}")
    assert sorted(results.read(settings, folder, models).bills) == sorted(mine)


def test_the_terminal_prints_the_table_without_pandas(made, tmp_path):
    study = results.read(*made)
    (tmp_path / "report").mkdir()
    results.write_csv(study.rows, tmp_path / "report" / "results.csv")
    code = (
        "import sys; from prunelab import results; results.main(['--report', 'report']);"
        "print('heavy:', [m for m in ('numpy', 'pandas', 'pydantic', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(synthetic.ROOT)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("dense", "magnitude", "systematic")) for line in lines) == len(study.rows)
    assert any("no difference" in line and "est." in line for line in lines)
    assert any("estimated" in line for line in lines) and any("index.html" in line for line in lines)
    assert lines[-1] == "heavy: []"


def test_markdown_has_a_row_a_variant_and_numbers_on_the_right(made):
    text = results.table(
        [{k: "" if v is None else str(v) for k, v in row.items()} for row in results.read(*made).rows], True
    )
    lines = text.splitlines()
    assert len(lines) == 2 + len(results.read(*made).rows)
    assert lines[1].split("|")[3].strip().endswith(":")
    assert len({line.count("|") for line in lines}) == 1


def test_no_report_yet_is_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="the stage report writes it"):
        results.main(["--report", str(tmp_path)])


@pytest.mark.parametrize(("key", "other"), [("text_sha256", "f" * 64), ("context", 7), ("dense_sha256", "e" * 64)])
def test_a_row_that_was_scored_on_something_else_than_its_dense_model_is_refused(made, key, other):
    settings, folder, models = made
    path = folder / "magnitude-50" / "quality.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: other}))
    with pytest.raises(InputError, match=f"magnitude-50: its quality was measured with {key} .*that of dense with"):
        results.read(settings, folder, models)
