"""Which settings run, one study at a time, and dead locks."""

import json
import os
import subprocess
import sys

import pytest

from flows import graph, repro, workspace
from prunelab.errors import InputError
from tests.toy import edit_params, environment, toy  # noqa: F401  (a fixture)


def test_a_named_study_becomes_the_params_that_run(toy):  # noqa: F811
    (toy / "studies" / "other.yaml").write_text(
        (toy / "params.yaml").read_text().replace("study: default", "study: other")
    )
    assert workspace.choose("other").study == "other"
    assert (toy / "params.yaml").read_bytes() == (toy / "studies" / "other.yaml").read_bytes()
    assert workspace.choose("small").study == "default"  # the one before was a study file: nothing lost


def test_without_a_name_the_params_stay(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    assert workspace.choose(None).train.epochs == 3


def test_edits_that_are_kept_nowhere_else_are_not_overwritten(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    edited = (toy / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=r"git checkout params\.yaml") as raised:
        workspace.choose("small")
    assert "\n" not in str(raised.value)
    assert (toy / "params.yaml").read_bytes() == edited


def test_edits_that_are_committed_may_be_overwritten(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "x"], check=True)
    assert workspace.choose("small").train.epochs != 3


def test_an_unknown_study_is_named_with_the_nearest_and_all_known(toy):  # noqa: F811
    with pytest.raises(InputError, match=r"'smal' \(did you mean 'small'\?\); studies/ holds: small"):
        workspace.choose("smal")


def test_a_broken_study_is_refused_before_it_takes_the_place_of_params(toy):  # noqa: F811
    (toy / "studies" / "bad.yaml").write_text("study: bad\n")
    before = (toy / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=r"studies/bad\.yaml"):
        workspace.choose("bad")
    assert (toy / "params.yaml").read_bytes() == before


def test_two_studies_do_not_run_in_one_folder_and_a_dead_one_is_no_hindrance(toy):  # noqa: F811
    with workspace.alone():
        second = subprocess.run(
            [sys.executable, "-c", "from flows import workspace\nwith workspace.alone(): pass"],
            env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert f"already running in this folder (process {os.getpid()})" in second.stderr
    with workspace.alone():
        pass


def test_a_study_is_refused_outside_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no dvc\.yaml"), workspace.alone():
        pass


@pytest.mark.parametrize(
    "left",
    [
        '{"write": {"models/dense": {"pid": 4194',  # cut short: dvc says "JSON structure is corrupted"
        json.dumps({"write": {"models/dense": {"pid": os.getpid(), "cmd": "dvc repro"}}}),  # the id is another's now
    ],
)
def test_locks_that_a_killed_dvc_left_are_removed(toy, left):  # noqa: F811
    workspace.RWLOCK.write_text(left)
    with workspace.alone():
        assert not workspace.RWLOCK.exists()


def test_locks_of_a_living_dvc_stay(toy):  # noqa: F811
    script = "import sys; print('here', flush=True); sys.stdin.readline()"
    living = subprocess.Popen([sys.executable, "-c", script, "dvc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert living.stdout.readline() == b"here\n"  # before, the system does not know it by its own name yet
    workspace.RWLOCK.write_text(json.dumps({"read": {"data": [{"pid": living.pid, "cmd": "dvc repro"}]}}))
    with workspace.alone():
        assert workspace.RWLOCK.exists()
    living.communicate(b"\n")


def test_the_graph_of_a_matrix_has_the_names_that_dvc_uses(toy):  # noqa: F811
    stages = graph.read()
    assert stages.probes == {"device"}
    assert stages.needs["prune@random-50"] == {"train"}
    assert stages.needs["efficiency@magnitude-80"] == {"prune@magnitude-80", "device"}
    assert stages.needs["report"] == {
        "efficiency@random-50", "efficiency@random-80", "efficiency@magnitude-50", "efficiency@magnitude-80",
    }  # fmt: skip


@pytest.mark.slow
def test_what_changed_takes_along_everything_that_reads_it(toy):  # noqa: F811
    needs = graph.read().needs
    assert graph.changed(needs) == needs.keys()
    subprocess.run(repro.command("-q"), check=True)
    assert graph.changed(needs) == set()
    (toy / "models" / "random-80").unlink()
    assert graph.changed(needs) == {"prune@random-80", "efficiency@random-80", "report"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Running stage 'prune@random-50':", ("ran", "prune@random-50")),
        ("Stage 'train' is cached - skipping run, checking out outputs", ("restored", "train")),
        ("Stage 'report' didn't change, skipping", ("unchanged", "report")),
        ("epoch 3: Running stage 'x'", None),
    ],
)
def test_lines_of_dvc_that_tell_an_outcome_are_understood(line, told):
    assert repro.outcome(line) == told
