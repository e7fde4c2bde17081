"""The parts of the simulated study, by hand and small; at size it is run as docs/scaling.md says."""

import json
import os
import subprocess
import sys

import psutil
import pytest
from ruamel.yaml import YAML

from benchmarks import commands, scaling, stub_study
from flows import lockfile, schedule
from prunelab.errors import InputError
from tests.helpers import loopback, workspace


@pytest.mark.parametrize(
    ("variants", "shape"),
    [(1, (1, 1, 1)), (5, (1, 5, 1)), (99, (1, 99, 1)), (100, (2, 50, 1)), (500, (10, 50, 1)), (1000, (10, 50, 2))],
)
def test_a_number_of_variants_is_methods_times_rates_times_as_few_seeds_as_can_be(variants, shape):
    assert stub_study.shape(variants) == shape


def test_a_number_that_is_no_such_product_is_refused_in_a_line():
    with pytest.raises(InputError, match="--variants 997: expected at most 10 methods x 99 rates"):
        stub_study.shape(997)
    with pytest.raises(InputError, match="--variants 0"):
        stub_study.shape(0)


def test_the_study_has_that_many_variants_and_all_of_them_run_side_by_side(tmp_path):
    study = stub_study.settings(tmp_path, 200, timed=False)
    made = [variant for variant in study.variants() if variant.rate is not None]
    assert len(made) * len(study.seeds) == 200 and study.efficiency.methods == []
    stages = [f"{kind}@{method}-50-s1" for kind in stub_study.WAITING for method in stub_study.METHODS]
    assert all(schedule.shares(stage) for stage in stages)


def test_only_the_commands_of_the_graph_are_replaced_and_only_stages_of_a_variant_wait(tmp_path):
    clone, yaml = stub_study.make(tmp_path / "clone", 2, 0.25), YAML(typ="safe")
    graph, own = (yaml.load(folder / "dvc.yaml")["stages"] for folder in (clone, workspace.ROOT))
    bodies = {name: stage.get("do", stage) for name, stage in graph.items()}
    for name, stage in own.items():
        body = stage.get("do", stage)
        assert {**body, "cmd": ""} == {**bodies[name], "cmd": ""}, name
    waiting = {name for name, body in bodies.items() if body["cmd"].startswith("sleep 0.25 && ")}
    assert waiting == {"prune", "quality"} and not any("python" in body["cmd"] for body in bodies.values())
    place = "models/${item.seed}/${item.method}-${item.rate}"
    assert f"mkdir -p $(dirname {place}) && cp written.json {place}" in bodies["prune"]["cmd"]


def test_the_lock_that_is_made_up_holds_what_the_graph_asks_of_every_row(tmp_path):
    study = stub_study.settings(tmp_path, 4, timed=True)
    stub_study.write_lock(tmp_path, study)
    entries = lockfile.read(tmp_path / "dvc.lock")
    assert len(entries) == 3 * 4
    prune = entries["prune@random-3-s1"]
    assert [out["path"] for out in prune["outs"]] == ["models/s1/random-3", "results/energy/s1/prune-random-3.json"]
    assert prune["params"]["params.yaml"]["train.epochs"] == study.train.epochs
    assert {"models/s1/dense", "prunelab/tasks/language"} <= {dep["path"] for dep in prune["deps"]}
    assert "${" not in (tmp_path / "dvc.lock").read_text()


def test_stages_whose_entries_differ_between_two_locks_are_counted():
    head, entry = lockfile.HEAD, "  {}:\n    cmd: {}\n"
    one = head + entry.format("a", "x") + entry.format("b", "x") + entry.format("c", "x")
    other = head + entry.format("b", "x") + entry.format("a", "y") + entry.format("d", "x")
    assert scaling.differing(one.encode(), one.encode()) == 0
    assert scaling.differing(one.encode(), other.encode()) == 3  # a changed, c and d are in one alone


def test_a_process_that_carries_the_mark_is_an_orphan_until_it_ends(monkeypatch):
    monkeypatch.setenv(scaling.MARK, "a test's own")
    monkeypatch.setattr(scaling, "SETTLE_SECONDS", 0.3)
    assert scaling.orphans() == []
    left = subprocess.Popen(["sleep", "60"])
    try:
        assert scaling.orphans() == [left.pid]
    finally:
        left.kill()
        left.wait()
    assert scaling.orphans() == []


def test_a_command_s_cost_counts_what_its_children_computed_and_a_failure_shows_what_it_said(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done')"
    cost = commands.run(tmp_path, "sh", "-c", f'{sys.executable} -c "{busy}"')
    assert cost.said == "done\n" and 0.2 <= cost.cpu_seconds <= cost.seconds + 0.5
    with pytest.raises(AssertionError, match="no such thing"):
        commands.run(tmp_path, "sh", "-c", "echo no such thing; exit 3")


def test_commands_are_led_to_no_server_of_the_user_s(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    said = commands.run(tmp_path, "env", PREFECT_HOME="here").said
    assert "127.0.0.1:9" not in said and "PREFECT_HOME=here" in said


def test_a_server_ends_with_what_was_asked_of_it_and_one_that_ends_at_once_does_not_answer(tmp_path):
    port = loopback.closed_port()
    address = f"http://127.0.0.1:{port}/"
    listening = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with commands.served(["sh", "-c", f"{' '.join(listening)} & wait"], tmp_path, address, {}) as answers:
        assert answers
        below = psutil.Process().children(recursive=True)
        assert len(below) >= 2
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    with commands.served(["false"], tmp_path, address, {}) as answers:
        assert not answers


def test_a_page_of_mlflow_counts_only_where_runs_came():
    with loopback.serve(lambda path, attempt: (200, {}, json.dumps({"runs": [{}]}).encode())) as (address, asked):
        assert 0 < scaling.asked(address, "1", 100) < 60
        assert asked == ["/api/2.0/mlflow/runs/search"]
    with loopback.serve(lambda path, attempt: (200, {}, b"{}")) as (address, _):
        with pytest.raises(KeyError):
            scaling.asked(address, "1", 100)


def test_the_table_is_markdown_and_names_the_machine_by_what_it_is():
    assert scaling.table([scaling.Figure("one", "2 s", "3 s")]).splitlines() == [
        "| figure | value | wanted |", "| --- | ---: | --- |", "| one | 2 s | 3 s |",
    ]  # fmt: skip
    assert " cores, " in scaling.machine() and os.uname().nodename not in scaling.machine()


@pytest.mark.parametrize("given", [["--only", "stages,mlflow"], ["--processes", "0"], ["--variants", "997"]])
def test_what_cannot_be_measured_is_refused_before_anything_is_made(given, capsys):
    with pytest.raises(InputError, match=given[0]):
        scaling.main(given)
    assert capsys.readouterr().out == ""
