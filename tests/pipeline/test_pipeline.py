"""The pipeline through real `dvc repro`: what runs, what does not, what it leaves behind."""

import csv
import json
import re

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from prunelab import tasks
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
    """The stages of dvc.yaml, their commands with the paths that a stage makes of @seed and @variant."""
    stages = YAML(typ="safe").load(imports.ROOT / "dvc.yaml")["stages"]
    for stage in stages.values():
        variant = "${item.variant}" if "variant" in stage.get("matrix", ()) else "${item.method}-${item.rate}"
        stage["cmd"] = stage["cmd"].replace("@seed", "${item.seed}").replace("@variant", variant)
    return stages


@pytest.mark.parametrize("name", list(graph()))
def test_a_stage_lists_the_folders_it_is_made_of(name):
    """Those of every task: what one of them alone needs is listed for all."""
    stage = graph()[name]
    module = re.match(r"python -m stages\.(\w+)", stage["cmd"])[1]
    listed = [dep for dep in stage["deps"] if dep.split("/")[0] in imports.PACKAGES]
    assert sorted(listed) == sorted(imports.code_of(module)), (
        f"dvc.yaml, {name}: python -m tests.helpers.imports writes what belongs there"
    )
    for task in tasks.NAMES:
        assert imports.code_of(module, [task]) <= set(listed)
        for folder in listed:
            assert (imports.ROOT / folder.replace("${task}", task)).exists()


def test_training_does_not_depend_on_methods_or_on_the_report():
    """So that a researcher who adds a method, or edits the report, does not train again."""
    for name in ("fetch", "train", "reference"):
        folders = {dep.removeprefix("prunelab/") for dep in graph()[name]["deps"]}
        assert not folders & {"recipes", "pruning", "calibration", "structure", "recovery", "making", "report"}
    for name, stage in graph().items():
        listed = "prunelab/report" in stage["deps"]
        assert listed == (name in ("recommend", "export", "report", "mirror")), (
            f"{name}: an edit of the report must measure nothing"
        )


def test_the_graph_is_short_and_so_are_folders_and_files():
    lines = (imports.ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300 and len(graph()) <= 20
    for package in ("prunelab", "stages", "flows"):
        for path in (imports.ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
    for folder in (path for path in (imports.ROOT / "prunelab").rglob("*") if path.is_dir()):
        held = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".pyc"]
        assert len(held) <= 14, f"{folder}: {len(held)} files; split it by subject"


def test_every_command_writes_where_dvc_looks():
    for name, stage in graph().items():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
        for option in re.findall(r"--(?:out|energy) (\S+)", stage["cmd"]):
            assert any(out == option or out.startswith(option + "/") for out in outs), (name, option)


def test_a_bill_is_named_by_its_stage_so_that_the_report_finds_it():
    for name, stage in graph().items():
        module = re.match(r"python -m stages\.(\w+)", stage["cmd"])[1]
        bill = re.search(r"--energy results/energy/(?:\$\{item\.seed\}/)?(\S+)\.json", stage["cmd"])
        if bill:
            assert re.fullmatch(rf"{module}(-.+)?", bill[1]), name
        else:  # the last four read that folder; the probes do nothing worth booking
            assert module in ("device", "inputs", "recommend", "export", "report", "mirror")


def test_what_is_made_for_a_seed_lies_in_that_seed_s_folders():
    for name, stage in graph().items():
        whole = yaml_of(stage)
        seed = "${item.seed}" if "matrix" in stage else None
        for path in re.findall(r"(?<![\w/])(?:models|results)/[^\s\"',]+", whole):
            once = ("results/device.json", "models/best", "results/energy/fetch.json", "results/energy/probes.json")
            shared = path in once
            assert shared or seed in path.split("/"), (name, path)


def yaml_of(stage: dict) -> str:
    outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
    return " ".join([stage["cmd"], *stage["deps"], *outs])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The smoke study after one `dvc repro`, as a user types it, with what that printed."""
    folder = workspace.make(tmp_path_factory.mktemp("clone"))
    return folder, workspace.run(folder, "dvc", "repro", fork=False)


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def rows(folder) -> list[dict]:
    with open(folder / "report" / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


PROBES = ["device", "inputs"]  # they run every time, and so does the mirror


def stages_of(kinds: tuple[str, ...], ids: list[str], seed: str = "s1") -> set[str]:
    return {f"{kind}@{identifier}-{seed}" for kind in kinds for identifier in ids}


@pytest.mark.slow
def test_one_command_runs_every_stage_and_leaves_the_contract_s_files(study):
    folder, output = study
    settings = params.load(folder / "params.yaml")
    ids = [variant.id for variant in settings.variants()]
    masks, further, timed = ["magnitude-50", "systematic-50"], settings.prune.further, ["magnitude-50"]
    assert sorted(ids) == sorted(["dense", *masks, *further])
    assert set(ran(output)) == {
        *PROBES, "fetch", "probes", "train@s1", "reference@s1", "calibrate@s1", "cells@s1",
        "efficiency-dense@s1",
        "recommend", "export", "report", "mirror",
        *stages_of(("prune", "quality"), masks), *stages_of(("efficiency",), timed),
        *stages_of(("further", "quality-further", "efficiency-further"), further),
    }  # fmt: skip
    for identifier in ids:
        parts = ["quality.json"]
        if identifier not in ("dense", "dense-average", "dense-best"):
            assert (folder / "models" / "s1" / identifier / "sparsity.json").exists()
        if identifier != "systematic-50":  # it does the work of magnitude-50
            parts += ["efficiency.json", "readings.parquet"]
        for part in parts:
            assert (folder / "results" / "s1" / identifier / part).exists(), (identifier, part)
    delivered = json.loads((folder / "models" / "best" / "delivery.json").read_text())
    assert delivered["variant"] in ids
    best, dense = (AutoModelForCausalLM.from_pretrained(folder / "models" / name) for name in ("best", "s1/dense"))
    assert best.num_parameters() <= dense.num_parameters()
    table = rows(folder)
    assert list(table[0])[: len(CONTRACT)] == CONTRACT
    assert [row["variant"] for row in table] == ids
    for row in table:
        assert float(row["loss"]) > 0
        if row["variant"] in masks:
            assert float(row["sparsity_pruned"]) == pytest.approx(0.5, abs=0.001)
        if row["variant"] in [*masks, "depth-50-recovered"]:
            assert int(row["packed_bytes"]) < int(row["dense_bytes"])
    assert (
        "http"
        not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", (folder / "report" / "index.html").read_text()).split("<body")[0]
    )


@pytest.mark.slow
def test_a_second_repro_runs_nothing_but_the_probes_of_machine_and_files_and_the_mirror(study):
    folder, _ = study
    assert ran(workspace.run(folder, "dvc", "repro")) == [*PROBES, "mirror"]


@pytest.mark.slow
def test_importing_every_module_changes_no_stage(study):
    folder, _ = study
    code = (
        "import importlib, pathlib\n"
        "for path in sorted(pathlib.Path('prunelab').rglob('*.py')):\n"
        "    if path.stem not in ('__init__', '__main__'):\n"
        "        importlib.import_module('.'.join(path.with_suffix('').parts))\n"
    )
    usual = ("env", "-u", "PYTHONDONTWRITEBYTECODE", "-u", "PYTHONPYCACHEPREFIX")
    workspace.run(folder, *usual, "python", "-c", code)
    assert list((folder / "prunelab").rglob("*.pyc")), "nothing was compiled, which shows nothing"
    assert changed(folder) == {*PROBES, "mirror"}


def changed(folder) -> set[str]:
    """The stages that `dvc repro` would run now, as far as can be known before it."""
    return set(json.loads(workspace.run(folder, "dvc", "status", "--json")))


@pytest.mark.slow
def test_a_report_option_runs_the_report_alone(study):
    folder, _ = study
    file = folder / "params.yaml"
    before = file.read_text()
    assert 'title: "Smoke study"' in before
    file.write_text(before.replace('title: "Smoke study"', 'title: "Another title"'))
    assert ran(workspace.run(folder, "dvc", "repro")) == [*PROBES, "report", "mirror"]
    assert "Another title" in (folder / "report" / "index.html").read_text()
    file.write_text(before)
    workspace.run(folder, "dvc", "repro")


@pytest.mark.slow
def test_an_edit_in_report_trains_prunes_and_measures_nothing(study):
    folder, _ = study
    code = folder / "prunelab" / "report" / "page.py"
    before = code.read_text()
    code.write_text(before + "\n# An edit.\n")
    assert changed(folder) == {*PROBES, "recommend", "export", "report", "mirror"}
    code.write_text(before)


@pytest.mark.slow
def test_an_edit_of_another_task_changes_nothing_and_one_of_its_own_trains_again(study):
    folder, _ = study
    for task, again in (("price", set()), ("language", {"fetch", "train@s1", "reference@s1", "calibrate@s1"})):
        edit = folder / "prunelab" / "tasks" / task / "more.py"
        edit.write_text("# An edit.\n")
        found = changed(folder)
        edit.unlink()
        assert again <= found if again else found == {*PROBES, "mirror"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "added", "told"),
    [
        (
            "seeds: [s1] ",
            "seeds: [s1, s2] ",
            {"train@s2", "reference@s2", "calibrate@s2", "cells@s2", "efficiency-dense@s2"}
            | stages_of(("prune", "quality"), ["magnitude-50", "systematic-50"], "s2")
            | stages_of(("efficiency",), ["magnitude-50"], "s2")
            | stages_of(
                ("further", "quality-further", "efficiency-further"),
                ["dense-average", "dense-best", "depth-50-recovered"],
                "s2",
            ),
            set(),
        ),
        (
            "further: [dense-average, dense-best, depth-50-recovered]",
            "further: [dense-average, depth-50-int8, dense-best, depth-50-recovered]",
            stages_of(("further", "quality-further", "efficiency-further"), ["depth-50-int8"]),
            {"calibrate@s1", "cells@s1"},  # they look what is needed now, and leave the same
        ),
    ],
    ids=["seed", "row"],
)
def test_a_seed_or_a_row_that_is_added_changes_no_other_result(study, old, new, added, told):
    folder, _ = study
    file, lock = folder / "params.yaml", folder / "dvc.lock"
    before, locked = file.read_text(), lock.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    tables = {"recommend", "export", "report"}  # they list every row
    assert changed(folder) == {*PROBES, "mirror", *tables, *told, *added}
    if told:
        workspace.run(folder, "dvc", "repro", "--single-item", *told)
        assert changed(folder) == {*PROBES, "mirror", *tables, *added}
    file.write_text(before)
    lock.write_text(locked)
    workspace.run(folder, "dvc", "checkout", "--force")


@pytest.mark.slow
def test_another_text_to_judge_by_trains_prunes_and_times_nothing(study):
    folder, _ = study
    file = folder / "params.yaml"
    before = file.read_text()
    assert "  texts: [] " in before
    file.write_text(before.replace("  texts: [] ", "  texts: [arithmetic] "))
    rows = ["magnitude-50", "systematic-50", "dense-average", "dense-best", "depth-50-recovered"]
    assert changed(folder) == {
        *PROBES, "mirror", "report", "probes", "reference@s1", "cells@s1",
        *stages_of(("quality",), rows[:2]), *stages_of(("quality-further",), rows[2:]),
    }  # fmt: skip
    file.write_text(before)


@pytest.mark.slow
def test_dvc_s_own_commands_work(study):
    folder, _ = study
    assert "systematic-50" in workspace.run(folder, "dvc", "metrics", "show")
    assert "quality@magnitude-50-s1" in workspace.run(folder, "dvc", "dag", "--dot")
    workspace.run(folder, "dvc", "metrics", "diff")
    page = workspace.run(folder, "dvc", "plots", "show", "--out", "plots").strip().splitlines()[-1]
    assert page.endswith("index.html") and (folder / "plots" / "index.html").stat().st_size > 1000


@pytest.mark.slow
def test_an_experiment_changes_a_setting_by_itself(study):
    folder, _ = study
    output = workspace.run(
        folder, "dvc", "exp", "run", "--temp", "--name", "shorter", "-S", "train.epochs=2", "train@s1"
    )
    assert "train@s1" in ran(output) and "fetch" not in ran(output)
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
    assert ran(workspace.run(tmp_path / "second", "dvc", "repro")) == [*PROBES, "mirror"]
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
