"""What Prefect's interface says of where a study can be seen; progress and table are held in test_flow.py."""

import json

import pytest

from flows import artifacts
from prunelab.mirror import stamp, store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a report, whose store is a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<html>")
    return tmp_path


def mirror(folder) -> None:
    link = "http://mlflow.example:5000/#/compare-runs?runs=1"
    stamp.PATH.parent.mkdir(exist_ok=True)
    mirrored = {"key": stamp.key(store.address()), "experiment": "7", "runs": ["a", "b", "study"], "link": link}
    stamp.PATH.write_text(json.dumps(mirrored))


def test_results_that_are_mirrored_are_linked_and_the_report_beside_them(folder):
    mirror(folder)
    told = artifacts.links()
    assert "[MLflow: the rows side by side](http://mlflow.example:5000/#/compare-runs?runs=1)" in told
    assert "http://mlflow.example:5000/#/experiments/7/runs/study/artifacts" in told
    assert f"`{folder / 'report' / 'index.html'}` on `" in told


def test_what_mlflow_holds_of_earlier_results_is_no_link_to_these(folder, monkeypatch):
    assert artifacts.links().startswith("- MLflow holds nothing of it yet: `prunelab mirror`")
    mirror(folder)
    (folder / "report" / "index.html").write_text("<html>another")
    assert "compare-runs" not in artifacts.links()
    mirror(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlflow.example:5000")  # misspelt
    assert "compare-runs" not in artifacts.links()
    stamp.PATH.write_text("{")
    assert "compare-runs" not in artifacts.links()
