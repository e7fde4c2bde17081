"""The stage mirror: with nothing new it looks at a hash and imports next to nothing; what was missed is caught up."""

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from prunelab.mirror import kept, stamp, store
from stages import mirror
from tests.helpers import finished, loopback, mlflow_server
from tests.helpers.finished import ROOT

HEAVY = ("mlflow", "torch", "pandas", "numpy", "pydantic", "ruamel", "yaml", "urllib.request")


@pytest.fixture
def study(tmp_path, monkeypatch):
    finished.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def mirrored(folder: Path, runs: tuple[str, ...] = ("a", "b")) -> None:
    """What a mirror to mlflow.db leaves behind, as far as the stamp looks at it."""
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT, lifecycle_stage TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?, 'active')", [(run,) for run in runs])
    connection.close()
    stamp.PATH.parent.mkdir()
    stamp.PATH.write_text(json.dumps({"key": stamp.key(store.address()), "runs": runs, "link": "http://x"}))
    kept.keep(folder / "finished")


def known() -> bool:
    return stamp.still_there(store.address(), stamp.key(store.address())) is not None


def run(folder: Path, **environment: str) -> str:
    """What `python -m stages.mirror` prints; it ends well."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.mirror"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_with_nothing_new_mlflow_is_not_imported_nor_anything_else_that_takes_time(study):
    mirrored(study)
    code = (
        "import sys; from stages import mirror; mirror.main();"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=study, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "MLflow holds these results already · compare: http://x",
        "heavy: []",
    ], done.stderr


@pytest.mark.parametrize(
    "name", ["report/results.csv", "report/metrics.json", "report/index.html", "params.yaml", "models/best/README.md"]
)
def test_whatever_a_run_holds_is_looked_at(study, name):
    mirrored(study)
    assert known()
    (study / name).parent.mkdir(parents=True, exist_ok=True)
    with (study / name).open("a") as file:
        file.write("\n# more\n")
    assert not known()


def test_another_store_does_not_hold_what_this_one_holds(study, monkeypatch):
    mirrored(study)
    (study / "other.db").write_bytes((study / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study / 'other.db'}")
    assert not known()


def test_a_run_that_somebody_deleted_is_missed(study):
    mirrored(study)
    with sqlite3.connect(study / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = 'b'")
    connection.close()
    assert not known()


def test_a_wiped_store_holds_nothing(study):
    mirrored(study)
    (study / "mlflow.db").unlink()
    assert not known()


def test_a_stamp_that_was_cut_short_only_costs_time(study):
    (study / "mlflow.db").touch()
    stamp.PATH.parent.mkdir()
    stamp.PATH.write_text('{"key": "k", ru')
    assert stamp.still_there("sqlite:///mlflow.db", "k") is None


def test_a_server_that_is_down_is_one_line_and_no_failure_and_leaves_no_stamp(study):
    lines = run(study, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{loopback.closed_port()}").splitlines()
    assert len(lines) == 1 and "does not answer" in lines[0]
    assert "the results are complete; mirror them later" in lines[0]
    assert not (study / stamp.PATH).exists()


@pytest.mark.parametrize(
    ("status", "body", "held"),
    [
        (200, {"runs": [{}, {}]}, True),
        (200, {"runs": [{}]}, False),  # one was deleted
        (200, {}, False),  # none is left
        (200, [], False),  # no MLflow
        (401, {}, False),  # MLflow's own client knows how to log in
    ],
)
def test_a_server_is_asked_for_its_runs_without_mlflow(study, monkeypatch, status, body, held):
    with loopback.serve(lambda path, attempt: (status, {}, json.dumps(body).encode())) as (address, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        stamp.PATH.parent.mkdir()
        known_runs = {"key": stamp.key(address), "experiment": "1", "runs": ["a", "b"], "link": "http://x"}
        stamp.PATH.write_text(json.dumps(known_runs))
        assert known() is held
    assert asked == ["/api/2.0/mlflow/runs/search"]


def test_a_misspelt_address_is_one_line_and_no_failure(study, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    mirror.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert "MLFLOW_TRACKING_URI=http://localhost:5000" in line


@pytest.mark.slow
def test_what_a_server_missed_is_brought_when_it_is_up_again(study):
    port = loopback.closed_port()
    address = f"http://127.0.0.1:{port}"
    assert "does not answer" in run(study, MLFLOW_TRACKING_URI=address)
    with mlflow_server.serve(study, port):
        assert "5 new runs, 0 there already" in run(study, MLFLOW_TRACKING_URI=address)
        assert "holds these results already" in run(study, MLFLOW_TRACKING_URI=address)
        delete_run(address, json.loads(stamp.PATH.read_text())["runs"][0])
        assert "1 new runs, 4 there already" in run(study, MLFLOW_TRACKING_URI=address)


def delete_run(address: str, run_id: str) -> None:
    body, told = json.dumps({"run_id": run_id}).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/api/2.0/mlflow/runs/delete", body, told)).close()
