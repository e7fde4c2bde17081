"""The pipeline through real `dvc repro`: what runs, what does not, what it leaves behind."""

import csv
import json
import re

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from prunelab.study import params
from tests.helpers import imports, workspace

CONTRACT = [
    "variant", "method", "rate", "seed", "sparsity_pruned", "sparsity_all", "parameters", "nonzero_parameters",
    "loss", "perplexity", "bits_per_byte", "loss_diff", "loss_diff_lo", "loss_diff_hi", "kl_to_dense",
    "top1_agreement", "dense_bytes", "packed_bytes", "macs_per_token", "prefill_ms", "decode_ms_per_token",
    "decode_ratio", "decode_ratio_lo", "decode_ratio_hi", "peak_memory_bytes", "decode_j_per_token",
    "energy_provenance", "gco2_per_million_tokens", "device",
]  # fmt: skip


def graph() -> dict:
    stages = YAML(typ="safe").load(imports.ROOT / "dvc.yaml")["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.mark.parametrize("name", list(graph()))
def test_a_stage_lists_the_modules_it_is_made_of(name):
    stage = graph()[name]
    module = re.match(r"python -m stages\.(\w+)", stage["cmd"])[1]
    listed = {dep for dep in stage.get("deps", []) if dep.endswith(".py")}
    assert listed == imports.code_of(module), (
        f"dvc.yaml, {name}: python -m tests.helpers.imports writes what belongs there"
    )


def test_training_does_not_depend_on_methods_or_on_the_report():
    """So that a researcher who adds a method, or edits the report, does not train again."""
    for name in ("fetch", "train", "reference"):
        code = " ".join(graph()[name]["deps"])
        assert "methods" not in code and "scores" not in code and "page" not in code


def test_every_command_writes_where_dvc_looks():
    for name, stage in graph().items():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
        for option in re.findall(r"--(?:out|energy) (\S+)", stage["cmd"]):
            assert any(out == option or out.startswith(option + "/") for out in outs), (name, option)


def test_a_bill_is_named_by_its_stage_so_that_the_report_finds_it():
    for name, stage in graph().items():
        module = re.match(r"python -m stages\.(\w+)", stage["cmd"])[1]
        bill = re.search(r"--energy results/energy/(\S+)\.json", stage["cmd"])
        if bill:
            assert re.fullmatch(rf"{module}(-.+)?", bill[1]), name
        else:  # the last two read that folder; the probes do nothing worth booking
            assert module in ("device", "inputs", "export", "report")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The smoke study after one `dvc repro`, with what that printed."""
    folder = workspace.make(tmp_path_factory.mktemp("clone"))
    return folder, workspace.run(folder, "dvc", "repro")


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def rows(folder) -> list[dict]:
    with open(folder / "report" / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_one_command_runs_every_stage_and_leaves_the_contract_s_files(study):
    folder, output = study
    settings = params.load(folder / "params.yaml")
    ids = [variant.id for variant in settings.variants()]
    for stage in ("fetch", "train", "reference", "efficiency-dense", "export", "report"):
        assert stage in ran(output)
    for identifier in ids:
        assert {f"{kind}@{identifier}" for kind in ("prune", "quality", "efficiency")} <= set(ran(output))
        assert (folder / "models" / identifier / "sparsity.json").exists()
        for part in ("quality.json", "efficiency.json", "readings.parquet"):
            assert (folder / "results" / identifier / part).exists()
    delivered = json.loads((folder / "models" / "best" / "delivery.json").read_text())
    assert delivered["variant"] in ["dense", *ids]
    best, dense = (AutoModelForCausalLM.from_pretrained(folder / "models" / name) for name in ("best", "dense"))
    assert best.num_parameters() == dense.num_parameters()
    table = rows(folder)
    assert list(table[0])[: len(CONTRACT)] == CONTRACT
    assert [row["variant"] for row in table] == [*settings.references(), *ids]
    for row in table:
        assert float(row["loss"]) > 0
        if row["variant"] in ids:
            assert float(row["sparsity_pruned"]) == pytest.approx(0.5, abs=0.001)
            assert int(row["packed_bytes"]) < int(row["dense_bytes"])
    assert (
        "http"
        not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", (folder / "report" / "index.html").read_text()).split("<body")[0]
    )


@pytest.mark.slow
def test_a_second_repro_runs_nothing_but_the_probes_of_machine_and_files(study):
    folder, _ = study
    assert ran(workspace.run(folder, "dvc", "repro")) == ["device", "inputs"]


@pytest.mark.slow
def test_a_report_option_runs_the_report_alone(study):
    folder, _ = study
    file = folder / "params.yaml"
    before = file.read_text()
    file.write_text(before.replace('title: "Smoke study"', 'title: "Another title"'))
    assert ran(workspace.run(folder, "dvc", "repro")) == ["device", "inputs", "report"]
    assert "Another title" in (folder / "report" / "index.html").read_text()
    file.write_text(before)
    workspace.run(folder, "dvc", "repro")


@pytest.mark.slow
def test_dvc_s_own_commands_work(study):
    folder, _ = study
    assert "systematic-50" in workspace.run(folder, "dvc", "metrics", "show")
    assert "quality@magnitude-50" in workspace.run(folder, "dvc", "dag", "--dot")
    workspace.run(folder, "dvc", "metrics", "diff")
    page = workspace.run(folder, "dvc", "plots", "show", "--out", "plots").strip().splitlines()[-1]
    assert page.endswith("index.html") and (folder / "plots" / "index.html").stat().st_size > 1000


@pytest.mark.slow
def test_an_experiment_changes_a_setting_by_itself(study):
    folder, _ = study
    output = workspace.run(folder, "dvc", "exp", "run", "--temp", "--name", "shorter", "-S", "train.epochs=2", "train")
    assert "train" in ran(output) and "fetch" not in ran(output)
    assert "shorter" in workspace.run(folder, "dvc", "exp", "show", "--csv")


@pytest.mark.slow
def test_a_second_clone_pulls_what_the_first_one_pushed(study, tmp_path):
    folder, _ = study
    workspace.run(folder, "dvc", "remote", "add", "--force", "--default", "shared", str(tmp_path / "remote"))
    workspace.run(folder, "dvc", "push")
    workspace.run(folder, "git", "add", "--all")
    workspace.run(folder, "git", "commit", "--quiet", "-m", "results")
    workspace.run(tmp_path, "git", "clone", "--quiet", str(folder), "second")
    workspace.run(tmp_path / "second", "dvc", "pull")
    assert ran(workspace.run(tmp_path / "second", "dvc", "repro")) == ["device", "inputs"]
    assert rows(tmp_path / "second") == rows(folder)


@pytest.mark.slow
def test_a_bad_setting_stops_the_study_with_one_line_and_loses_nothing(study):
    folder, _ = study
    file = folder / "params.yaml"
    before, table = file.read_text(), rows(folder)
    file.write_text(before.replace("rates: [50] ", "rates: [50, 100] "))
    output = workspace.run(folder, "python", "-m", "flows.local", check=False)
    assert "prune.rates.1: 100 is not a rate" in output and "Traceback" not in output
    file.write_text(before)
    assert rows(folder) == table
