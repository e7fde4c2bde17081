"""Rows of a study: the contract's columns, the list from the settings, unknown stays unknown."""

import csv
import json
import subprocess
import sys

import pytest

from prunelab.errors import InputError
from prunelab.recipes import variants
from prunelab.report import results
from tests.helpers import synthetic
from tests.helpers.rows import LOSS

CONTRACT = (
    "variant, method, rate, seed, sparsity_pruned, sparsity_all, parameters, nonzero_parameters, loss, perplexity, "
    "bits_per_byte, loss_diff, loss_diff_lo, loss_diff_hi, kl_to_dense, top1_agreement, dense_bytes, packed_bytes, "
    "macs_per_token, prefill_ms, decode_ms_per_token, decode_ratio, decode_ratio_lo, decode_ratio_hi, "
    "peak_memory_bytes, decode_j_per_token, energy_provenance, gco2_per_million_tokens, device"
)


@pytest.fixture
def made(tmp_path):
    further = {"further": ["dense-average", "dense-best", "depth-25-recovered"]}
    settings = synthetic.settings(tmp_path, seeds=["s1", "s2"], prune=synthetic.TWO_METHODS | further)
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
    for gone in ("s1/magnitude-99", "s9/magnitude-50"):
        (folder / gone).mkdir(parents=True)
        (folder / gone / "quality.json").write_text("{}")
    rows = results.read(settings, folder, models).rows
    assert [row["path"] for row in rows] == [f"{tag}/{v.id}" for tag in ("s1", "s2") for v in settings.variants()]


def test_a_row_holds_what_its_files_hold(made):
    settings, folder, models = made
    rows = {row["path"]: row for row in results.read(settings, folder, models).rows}
    row = rows["s2/systematic-50"]
    quality = json.loads((folder / "s2" / "systematic-50" / "quality.json").read_text())
    dense = json.loads((folder / "s2" / "dense" / "quality.json").read_text())
    assert (row["method"], row["rate"], row["seed"], row["dense"]) == ("systematic", "50", 2, "s2/dense")
    assert row["variant"] == "systematic-50"  # the seed is a column of its own
    assert row["loss"] == quality["loss"] and row["sparsity_pruned"] == 0.5
    assert row["loss_increase_percent"] == pytest.approx(100 * quality["loss_diff"] / dense["loss"])
    assert row["energy_provenance"] == "cpu:cpu_load_model gpu:none ram:model"
    assert (row["dtype"], row["quality_dtype"], row["stored_as"]) == ("float32", "fp32", "fp32")
    assert rows["s1/dense"]["seed"] == settings.seed and rows["s1/dense"]["method"] == "dense"


def test_a_calibrated_row_names_its_calibration_text_by_hash_and_seed(made):
    settings, folder, models = made
    path = models / "s2" / "systematic-50" / "sparsity.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"calibration": {"hash": "cd" * 32, "seed": 2, "samples": 8}}))
    rows = {row["path"]: row for row in results.read(settings, folder, models).rows}
    named = {name: rows["s2/systematic-50"][f"calibration_{name}"] for name in ("hash", "seed")}
    assert named == {"hash": "cd" * 32, "seed": 2}
    assert rows["s1/systematic-50"]["calibration_hash"] is None


def test_what_was_not_measured_is_empty_and_not_zero(made, tmp_path):
    rows = results.read(*made).rows
    average = next(row for row in rows if row["variant"] == "dense-average")
    assert average["packed_bytes"] is None and average["sparsity_all"] is None and average["rate"] is None
    assert average["parameters"] == synthetic.PARAMETERS  # the shape is dense's, so that much is known
    results.write_csv(rows, tmp_path / "results.csv")
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        written = {row["path"]: row for row in csv.DictReader(file)}
    assert written["s1/dense-average"]["packed_bytes"] == ""
    assert written["s1/dense"]["parameters"] == str(synthetic.PARAMETERS)  # whole numbers stay whole


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("results/s1/systematic-50/quality.json", "quality@systematic-50-s1"),
        ("results/s2/magnitude-60/efficiency.json", "efficiency@magnitude-60-s2"),
        ("models/s1/magnitude-50/sparsity.json", "prune@magnitude-50-s1"),
        ("results/s2/dense-best/quality.json", "quality-further@dense-best-s2"),
        ("models/s1/depth-25-recovered/sparsity.json", "further@depth-25-recovered-s1"),
        ("results/s2/depth-25-recovered/efficiency.json", "efficiency-further@depth-25-recovered-s2"),
        ("results/s1/dense/efficiency.json", "efficiency-dense@s1"),
        ("results/s2/dense/quality.json", "reference@s2"),
    ],
)
def test_a_missing_file_names_itself_and_the_stage_to_run(made, tmp_path, file, stage):
    (tmp_path / file).unlink()
    with pytest.raises(InputError) as error:
        results.read(*made)
    assert file in str(error.value) and str(error.value).endswith(f"dvc repro {stage}")


def test_a_broken_file_is_named(made, tmp_path):
    (tmp_path / "results/s1/dense/quality.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"dense/quality\.json: expected a JSON object, found list"):
        results.read(*made)


def test_a_rows_method_is_all_of_its_name_but_the_rate():
    assert variants.parse("magnitude-global-50").family == "magnitude-global"
    assert variants.parse("wanda-2of4").family == "wanda"
    assert variants.parse("mlp-width-50-recovered").family == "mlp-width-recovered"
    assert variants.parse("dense-int8").family == "dense-int8"


def test_bills_of_variants_that_left_the_study_are_left_out(made):
    settings, folder, models = made
    mine = ["fetch", "s1/train", "s2/train", "s1/prune-magnitude-50", "s2/quality-systematic-60", "s1/efficiency-dense"]
    mine += ["s1/further-dense-best", "s2/further-depth-25-recovered"]
    gone = ["s1/prune-magnitude-99", "s9/train", "s2/quality-average-magnitude-50", "s1/further-dense-int8"]
    for name in mine + gone:
        (folder / "energy" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "energy" / f"{name}.json").write_text("{}")
    assert sorted(results.read(settings, folder, models).bills) == sorted(mine)


def test_the_terminal_prints_the_table_without_pandas(made, tmp_path):
    study = results.read(*made)
    (tmp_path / "report").mkdir()
    results.write_csv(study.rows, tmp_path / "report" / "results.csv")
    code = (
        "import sys; from prunelab.report import results; results.main(['--report', 'report']);"
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
    assert sum(line.startswith(("dense", "magnitude", "systematic", "depth")) for line in lines) == len(study.rows)
    assert any("no difference" in line and "est." in line for line in lines)
    assert any("estimated" in line for line in lines) and any("index.html" in line for line in lines)
    assert lines[-1] == "heavy: []"


def test_behind_the_table_stands_what_to_deploy_here_and_on_other_machines(made, tmp_path, capsys):
    results.write_csv(results.read(*made).rows, tmp_path / "results.csv")
    other = {"told": ["Deploy the dense model as it is."]}
    advice = {"told": ["Deploy `depth-25`: 2.40 MB on disk.", "Why."], "devices": {"pi": other}}
    (tmp_path / "recommendation.json").write_text(json.dumps(advice))
    results.show(tmp_path, markdown=False)
    told = capsys.readouterr().out
    assert "\nDeploy depth-25: 2.40 MB on disk.\n\non pi: Deploy the dense model as it is.\n" in told
    results.show(tmp_path, markdown=True)
    assert "Deploy" not in capsys.readouterr().out
    (tmp_path / "recommendation.json").write_text("[]")
    results.show(tmp_path, markdown=False)
    assert "Deploy" not in capsys.readouterr().out


def test_markdown_has_a_row_a_variant_and_numbers_on_the_right(made):
    text = results.table(
        [{k: "" if v is None else str(v) for k, v in row.items()} for row in results.read(*made).rows], LOSS, True
    )
    lines = text.splitlines()
    assert len(lines) == 2 + len(results.read(*made).rows)
    assert lines[1].split("|")[3].strip().endswith(":")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("text", ["", "variant,loss\n", "variant,seed,dense,loss\nwanda-50-s2,2,dense-s2,1.5\n"])
def test_a_table_without_rows_or_of_an_earlier_version_is_one_line(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match="holds no results; write it again: dvc repro -f -s report"):
        results.main(["--report", str(tmp_path)])


def test_no_report_yet_is_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="the stage report writes it"):
        results.main(["--report", str(tmp_path)])


@pytest.mark.parametrize(("key", "other"), [("text_sha256", "f" * 64), ("context", 7), ("dense_sha256", "e" * 64)])
def test_a_row_that_was_scored_on_something_else_than_its_dense_model_is_refused(made, key, other):
    settings, folder, models = made
    path = folder / "s1" / "magnitude-50" / "quality.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: other}))
    with pytest.raises(
        InputError, match=f"s1/magnitude-50: its quality was measured with {key} .*that of s1/dense with"
    ):
        results.read(settings, folder, models)
