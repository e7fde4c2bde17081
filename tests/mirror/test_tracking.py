"""The MLflow mirror against a small study made by hand: what a run holds, and that mirroring again adds nothing."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.errors import InputError
from prunelab.mirror import entries, stamp, tracking, views
from prunelab.report import results
from prunelab.study import params
from tests.helpers import finished, loopback

ROOT = Path(__file__).parents[2]
TABLES = {"results.csv", "recommendation.json"}  # what the report leaves beside its page


@pytest.fixture
def study(tmp_path, monkeypatch):
    finished.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def made() -> dict[str, entries.Entry]:
    return {entry.name: entry for entry in entries.entries(params.load())}


def test_every_variant_and_the_study_become_one_run_each_in_the_order_of_the_settings(study):
    assert list(made()) == ["dense", "dense-average", "random-50", "magnitude-50", "default"]


def test_the_model_to_deploy_is_the_study_s_logged_model_and_names_what_dvc_keeps(study):
    assert made()["default"].model is None
    best = study / "models" / "best"
    best.mkdir()
    (best / "delivery.json").write_text(json.dumps({"variant": "magnitude-50", "why": "named in deploy.variant"}))
    (best / "README.md").write_text("# card")
    lock = finished.yaml().load(study / "dvc.lock")
    lock["stages"]["export"] = {"cmd": "x", "outs": [{"path": "models/best", "md5": "ee.dir"}]}
    with open(study / "dvc.lock", "w", encoding="utf-8") as file:
        finished.yaml().dump(lock, file)
    entry = made()["default"]
    assert entry.model["variant"] == "magnitude-50" and entry.model["dvc.md5"] == "ee.dir"
    assert entry.model["dvc.get"] == "dvc pull models/best"
    assert Path("models/best/README.md") in entry.artifacts
    uri = f"sqlite:///{study / 'mlflow.db'}"
    experiment, runs, _ = tracking.mirror(list(made().values()), "default", uri)
    import mlflow

    logged = mlflow.MlflowClient(uri).search_logged_models([experiment])
    assert {model.name for model in logged} == {"dense", "dense-average", "random-50", "magnitude-50", "best"}
    (delivered,) = (model for model in logged if model.name == "best")
    assert delivered.tags["dvc.path"] == "models/best" and delivered.source_run_id == runs[-1]


def test_what_to_deploy_is_a_tag_of_the_study_s_run_and_where_a_row_stands_one_of_its_own(study):
    runs = made()
    tags = runs["default"].tags
    assert (tags["deploy.variant"], tags["deploy.tied"]) == ("magnitude-50", "dense")
    assert tags["deploy.variant.pi"] == "none" and tags["deploy.told"] == "Deploy `magnitude-50`."
    states = {name: run.tags["deploy.state"] for name, run in runs.items() if name != "default"}
    assert states == {"dense": "tied", "dense-average": "behind", "random-50": "behind", "magnitude-50": "recommended"}
    assert Path("report/recommendation.json") in runs["default"].artifacts
    (study / "report" / "recommendation.json").unlink()
    with pytest.raises(InputError, match=r"recommendation\.json: no such file; run the stage that writes it"):
        made()


def test_the_runs_of_variants_have_the_same_parameters_and_metrics(study):
    variants = list(made().values())[:-1]
    assert all(entry.metrics.keys() == variants[0].metrics.keys() for entry in variants)
    assert all(entry.params.keys() == variants[0].params.keys() for entry in variants)


def test_an_unknown_figure_is_not_a_number_and_never_zero(study):
    assert math.isnan(made()["dense-average"].metrics["decode_ms_per_token"])


def test_the_rate_is_a_metric_and_zero_only_where_nothing_was_pruned(study):
    assert [entry.metrics["rate"] for entry in list(made().values())[:-1]] == [0, 0, 50, 50]


def test_a_run_names_the_stages_and_hashes_of_its_files_and_its_model_those_of_the_weights(study):
    entry = made()["random-50"]
    assert entry.tags["dvc.stage"] == "prune@random-50-s1 quality@random-50-s1"
    assert entry.tags["dvc.md5.results/s1/random-50/quality.json"] == "dd"
    assert (entry.model["dvc.path"], entry.model["dvc.md5"]) == ("models/s1/random-50", "cc.dir")
    assert entry.tags["device"] == "d1"


def test_a_control_points_at_its_own_folder(study):
    assert made()["dense-average"].model["dvc.md5"] == "ff.dir"
    assert made()["dense-average"].model["dvc.get"] == "dvc pull models/s1/dense-average"


def test_with_several_seeds_a_run_s_name_says_its_seed_and_its_files_are_those_of_the_seed(tmp_path, monkeypatch):
    finished.write(tmp_path, seeds=("s1", "s2"))
    monkeypatch.chdir(tmp_path)
    runs = made()
    names = ["dense", "dense-average", "random-50", "magnitude-50"]
    assert list(runs) == [*(f"{name} s1" for name in names), *(f"{name} s2" for name in names), "default"]
    entry = runs["random-50 s2"]
    assert (entry.params["variant"], entry.params["seed"], entry.params["path"]) == ("random-50", "2", "s2/random-50")
    assert entry.metrics["loss"] == 3.1 and runs["random-50 s1"].metrics["loss"] == 3.0
    assert entry.model["dvc.path"] == "models/s2/random-50"
    assert entry.tags["dvc.stage"] == "prune@random-50-s2 quality@random-50-s2"
    assert runs["dense s2"].curve == runs["dense s1"].curve != []
    assert len({one.content() for one in runs.values()}) == len(runs)


def test_the_training_curve_belongs_to_the_dense_model_and_leaves_gaps_out(study):
    assert made()["dense"].curve == [
        (100, "epoch", 1.0, None), (100, "train_loss", 2.5, None), (100, "validation_loss", 2.4, None),
        (200, "epoch", 2.0, None), (200, "train_loss", 2.0, None),
    ]  # fmt: skip
    assert made()["random-50"].curve == []


def test_what_the_training_said_by_the_clock_stands_in_its_curve_and_gives_evaluations_their_time(study):
    said = [
        {"at": 10.5, "step": 40, "recent_train_loss": 2.9, "tokens_per_second": 700.0},
        {"at": 20.0, "step": 100, "epoch": 1.0, "train_loss": 2.5, "validation_loss": 2.4},
    ]
    place = study / "results" / "s1" / "dense"
    place.mkdir(parents=True, exist_ok=True)
    (place / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    assert made()["dense"].curve == made()["default"].curve == [
        (40, "recent_train_loss", 2.9, 10_500), (40, "tokens_per_second", 700.0, 10_500),
        (100, "epoch", 1.0, 20_000), (100, "train_loss", 2.5, 20_000), (100, "validation_loss", 2.4, 20_000),
        (200, "epoch", 2.0, None), (200, "train_loss", 2.0, None),
    ]  # fmt: skip


def test_a_run_is_known_again_where_rows_were_added_and_is_another_one_where_its_training_changed(study):
    settings = params.load()
    prune, train = settings.prune, settings.train
    more = settings.model_copy(update={"prune": prune.model_copy(update={"rates": ["50", "80"]})})
    longer = settings.model_copy(update={"train": train.model_copy(update={"epochs": train.epochs + 1})})
    assert entries.key(settings, "s1/dense") == entries.key(more, "s1/dense") != entries.key(longer, "s1/dense")
    assert entries.key(settings, entries.STUDY) != entries.key(more, entries.STUDY)  # its list of rows is a parameter
    assert len({entry.key for entry in made().values()}) == 5


def test_the_study_holds_every_setting_and_the_numbers_of_metrics_json_but_no_flags(study):
    entry = made()["default"]
    assert entry.params["train.tracker.weighting"] == "linear"
    assert entry.metrics == {"dense.loss": 1.5}


def test_a_variant_that_the_table_lacks_is_named(study):
    table = study / "report" / "results.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("magnitude-50")))
    with pytest.raises(InputError, match=r"no row for s1/magnitude-50"):
        made()


def test_a_row_left_from_a_struck_out_rate_becomes_no_run(study):
    table = study / "report" / "results.csv"
    table.write_text(table.read_text() + "random-90,random,90,1337,s1/random-90,s1/dense,0.9,9.0,2.0,d1\n")
    assert "random-90" not in made()


def test_the_content_changes_with_any_figure_and_with_nothing_else(study):
    before = {name: entry.content() for name, entry in made().items()}
    table = study / "report" / "results.csv"
    table.write_text(table.read_text().replace("1.7", "1.8"))
    after = {name: entry.content() for name, entry in made().items()}
    assert {name for name in before if before[name] != after[name]} == {"magnitude-50", "default"}


def test_two_studies_with_equal_figures_are_told_apart(study):
    before = made()["dense"].content()
    text = (study / "params.yaml").read_text()
    (study / "params.yaml").write_text(text.replace("study: default", "study: other"))
    assert made()["dense"].content() != before


def test_the_link_opens_the_view_of_the_rows():
    opens = "/#/experiments/7/runs?viewStateShareKey=prunelab&compareRunsMode=CHART"
    assert tracking.compare_link("http://host:1/", "7") == f"http://host:1{opens}"
    assert tracking.compare_link("sqlite:///x", "7") == f"http://127.0.0.1:5000{opens}"


def test_the_view_shows_figures_that_runs_have_and_names_the_headline_of_the_task_first(study):
    view, dense = json.loads(views.state(params.load())), made()["dense"]
    kinds = {"metrics": results.COLUMNS, "params": dense.params, "tags": dense.tags}
    for column in view["selectedColumns"]:
        kind, _, name = column.partition(".")
        assert name.strip("`") in kinds[kind], column
    assert view["selectedColumns"][:3] == ["metrics.`loss`", "metrics.`rate`", "params.`method`"]
    parallel, *scatter = view["compareRunCharts"]
    assert {*parallel["selectedMetrics"]} <= {*results.COLUMNS} and len(scatter) == 3
    assert len(views.state(params.load())) < 5000  # what MLflow keeps of a tag


def test_a_server_that_is_down_fails_the_command_with_one_line_but_not_a_study(study, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{loopback.closed_port()}")
    with pytest.raises(tracking.Unreachable, match="does not answer.*prunelab mirror"):
        tracking.main([])
    tracking.main(["--if-reachable"])
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and "mirror them later with: prunelab mirror" in told[0]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"<html>\nlog in</html>", "error code 401 != 200; log in with MLFLOW_TRACKING_USERNAME"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "not yours"}', "PERMISSION_DENIED: not yours; log in"),
        (404, b"", "error code 404 != 200; is http://127.0.0.1"),
        (200, b"<html>a portal</html>", "not in a valid JSON format; is http://127.0.0.1"),
    ],
)
def test_a_server_that_refuses_is_told_with_its_reason_and_fails_no_study(
    study, monkeypatch, capsys, status, body, told
):
    with loopback.serve(lambda path, attempt: (status, {}, body)) as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        tracking.main(["--if-reachable"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1 and told in lines[0] and "prunelab mirror" in lines[0]
        with pytest.raises(tracking.Unreachable):
            tracking.main([])


def test_a_misspelt_address_fails_the_command_but_not_a_study(study, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    tracking.main(["--if-reachable"])
    assert "MLFLOW_TRACKING_URI=http://localhost:5000" in capsys.readouterr().out
    with pytest.raises(tracking.Unreachable, match="begins with http://"):
        tracking.main([])


def run_mirror(folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prunelab.mirror.tracking"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs(folder: Path) -> list:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("prunelab-default").experiment_id])


def test_a_run_s_source_is_the_git_revision_and_says_where_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.runs.revision() == {
        "git.commit": "unknown", "mlflow.source.type": "LOCAL", "mlflow.source.name": "prunelab"
    }  # fmt: skip
    (tmp_path / "file").write_text("x")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "t"]):
        subprocess.run(["git", *words], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    clean = tracking.runs.revision()
    assert clean["mlflow.source.name"] == f"prunelab@{commit[:12]}" and clean["mlflow.source.git.commit"] == commit
    (tmp_path / "file").write_text("y")
    dirty = tracking.runs.revision()
    assert dirty["mlflow.source.name"] == f"prunelab@{commit[:12]}-dirty" and dirty["git.commit"] == f"{commit}-dirty"


@pytest.mark.slow
def test_mirroring_again_adds_nothing_and_a_wiped_store_is_built_anew(study):
    assert "5 new runs, 0 there already" in run_mirror(study)
    stored = {run.info.run_name: run for run in runs(study)}
    assert stored["magnitude-50"].data.metrics["loss"] == 1.7
    assert stored["magnitude-50"].data.params["method"] == "magnitude"
    assert stored["magnitude-50"].data.tags["git.commit"]
    assert math.isnan(stored["dense-average"].data.metrics["decode_ms_per_token"])

    assert "holds these results already" in run_mirror(study)
    (study / stamp.PATH).unlink()
    assert "0 new runs, 5 there already" in run_mirror(study)
    assert len(runs(study)) == 5

    (study / "mlflow.db").unlink()
    shutil.rmtree(study / "mlartifacts")
    assert "5 new runs, 0 there already" in run_mirror(study)


@pytest.mark.slow
def test_any_name_of_the_folder_and_variables_of_somebodys_training_run_make_no_difference(tmp_path, monkeypatch):
    folder = tmp_path / "my study (2) #1? 50%41 é"
    folder.mkdir()
    finished.write(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    leaks = {"MLFLOW_ACTIVE_MODEL_ID": "m-1", "MLFLOW_RUN_ID": "r", "MLFLOW_EXPERIMENT_ID": "77"}
    leaks |= {"MLFLOW_REGISTRY_URI": "htp://x", "MLFLOW_ENABLE_ASYNC_LOGGING": "true"}
    assert "5 new runs, 0 there already" in run_mirror(folder, **leaks)
    assert "holds these results already" in run_mirror(folder, **leaks)
    monkeypatch.chdir(folder)
    import mlflow

    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    (run,) = [one for one in client.search_runs(["1"]) if one.info.run_name == "default"]
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"index.html", "params.yaml", *TABLES}
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]  # nothing beside it


@pytest.mark.slow
def test_a_store_of_another_version_is_told_with_the_way_to_upgrade_it_and_fails_no_study(study, monkeypatch, capsys):
    run_mirror(study)
    with sqlite3.connect(study / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'acf3f17fdcc7'")
    connection.close()
    stamp.PATH.unlink()
    tracking.main(["--if-reachable"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "another version of MLflow (found acf3f17fdcc7, expected" in line
    assert f"mlflow db upgrade sqlite:///{study / 'mlflow.db'}" in line
    with pytest.raises(tracking.Unreachable, match="mlflow db upgrade"):
        tracking.main([])


@pytest.mark.slow
def test_a_run_that_someone_deleted_or_an_interrupted_mirror_left_half_is_made_again(study):
    import mlflow

    run_mirror(study)
    client = mlflow.MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    stored = {run.info.run_name: run.info.run_id for run in runs(study)}
    client.delete_run(stored["dense"])
    client.update_run(stored["random-50"], status="RUNNING")
    assert "2 new runs, 3 there already" in run_mirror(study)
    assert len(runs(study)) == 5


@pytest.mark.slow
def test_logged_models_carry_figures_and_the_hash_but_no_weights(study):
    import mlflow

    run_mirror(study)
    client = mlflow.MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prunelab-default").experiment_id
    models = {model.name: model for model in client.search_logged_models([experiment])}
    assert models.keys() == {"dense", "dense-average", "random-50", "magnitude-50"}
    assert models["random-50"].tags["dvc.md5"] == "cc.dir"
    assert {metric.key: metric.value for metric in models["random-50"].metrics}["loss"] == 3.0
    kept = [path for path in (study / "mlartifacts").rglob("*") if path.is_file()]
    assert {path.name for path in kept} == {"MLmodel", "index.html", "params.yaml", *TABLES}
    curve = client.get_metric_history(models["dense"].source_run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(100, 2.5), (200, 2.0)]


@pytest.mark.slow
def test_a_study_of_two_seeds_has_a_run_and_a_logged_model_for_each(tmp_path, monkeypatch):
    finished.write(tmp_path, seeds=("s1", "s2"))
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    experiment, identifiers, new = tracking.mirror(list(made().values()), "default", uri)
    assert new == len(set(identifiers)) == 2 * 4 + 1
    import mlflow

    models = {model.name: model for model in mlflow.MlflowClient(uri).search_logged_models([experiment])}
    assert {"magnitude-50 s1", "magnitude-50 s2"} < models.keys() and len(models) == 8
    assert models["random-50 s2"].tags["dvc.path"] == "models/s2/random-50"


@pytest.mark.slow
def test_two_mirrors_at_once_make_one_store_with_every_run_once(study):
    command = [sys.executable, "-m", "prunelab.mirror.tracking"]
    both = [subprocess.Popen(command, cwd=study, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(runs(study)) == 5
