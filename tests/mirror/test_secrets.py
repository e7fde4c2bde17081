"""Secrets of the environment stay there: a study is mirrored with markers in it, then all that was written is read.

The same against real servers, with stages, workers and a DVC remote: `make test-services`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import finished
from tests.helpers.finished import ROOT

MARK = "markerofasecret"
SECRETS = {
    name: f"{MARK}-{name.lower()}"
    for name in (
        "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN", "PREFECT_API_KEY", "POSTGRES_PASSWORD",
    )
} | {
    "PIP_INDEX_URL": f"https://me:{MARK}@127.0.0.1:9/simple",
    "HF_ENDPOINT": f"https://me:{MARK}@127.0.0.1:9",
    "MLFLOW_TRACKING_USERNAME": "me",  # no secret: MLflow itself notes it as the one who logged a model
    "PREFECT_API_URL": f"http://me:{MARK}@127.0.0.1:9/api",
}  # fmt: skip


def said(folder: Path, *command: str, **more: str) -> str:
    """What a command says, with the secrets in its environment."""
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def holding(folder: Path) -> list[str]:
    """The files in `folder` with a marker in them."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_secret_is_in_records_stores_or_logs(tmp_path):
    finished.write(tmp_path)
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "remote", "add", "origin", f"https://me:{MARK}@127.0.0.1/x"], cwd=tmp_path, check=True)
    stage = (sys.executable, "-m")
    lines = said(tmp_path, *stage, "stages.device", "--out", "results/device.json")
    for uri in (
        f"http://me:{MARK}@127.0.0.1:9",
        f"me:{MARK}@127.0.0.1:9",
        f"postgresql+psycopg2://me:{MARK}@127.0.0.1:9/mlflow",
    ):
        told = said(tmp_path, *stage, "stages.mirror", MLFLOW_TRACKING_URI=uri)
        assert "127.0.0.1:9" in told
        lines += told
    lines += said(tmp_path, *stage, "stages.mirror", MLFLOW_TRACKING_URI="")
    assert "5 new runs" in lines
    assert (tmp_path / "mlflow.db").exists() and (tmp_path / ".prunelab/mirrored.json").exists()
    assert MARK not in lines
    assert holding(tmp_path) == [str(tmp_path / ".git/config")], "where it was put"
