"""Which settings run, one study at a time, and dead locks."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from flows import graph, process, repro, workspace
from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers.toy import edit_params, environment, toy  # noqa: F401  (a fixture)


def test_a_named_study_becomes_the_params_that_run(toy):  # noqa: F811
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 3}   # why\n")
    settings = workspace.choose("other")
    assert settings.study == "other" and settings.train.epochs == 3
    assert params.load(toy / "params.yaml") == settings
    assert (toy / "params.yaml").read_text().startswith("# The study that runs: studies/other.yaml merged onto ")
    assert workspace.choose("small").study == "small"  # the one before was a study's: nothing lost


def test_what_differs_is_printed_when_a_study_is_chosen_and_not_when_it_runs_again(toy, capsys):  # noqa: F811
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 3}\n")
    workspace.choose("other")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "study other: as the default study, but for"
    assert told[1].startswith("  train  epochs ") and told[1].endswith(" → 3") and len(told) == 2
    workspace.choose("other")
    assert capsys.readouterr().out == ""


def test_a_study_that_was_edited_runs_again_as_it_is_now(toy):  # noqa: F811
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 3}\n")
    workspace.choose("other")
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 4}\n")  # params.yaml is in no study any more
    assert workspace.choose("other").train.epochs == 4


def test_a_merge_of_another_clone_is_known_and_an_edit_of_it_is_not_overwritten(toy):  # noqa: F811
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 3}\n")
    workspace.choose("other")
    workspace.WRITTEN.unlink()
    workspace.choose("small")
    workspace.choose("other")
    edit_params(toy, train={"epochs": 5})
    with pytest.raises(InputError, match="edits that are kept nowhere else"):
        workspace.choose("small")


def test_params_that_were_kept_as_a_study_may_be_overwritten(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    shutil.copy(toy / "params.yaml", toy / "studies" / "kept.yaml")
    assert workspace.choose("small").train.epochs != 3
    assert workspace.choose("kept").train.epochs == 3


def test_a_study_that_cannot_be_merged_is_in_nobody_s_way(toy):  # noqa: F811
    (toy / "studies" / "bad.yaml").write_text("trian: {}\n")
    (toy / "studies" / "other.yaml").write_text("train: {epochs: 3}\n")
    workspace.choose("other")
    workspace.WRITTEN.unlink()
    assert workspace.choose("small").study == "small"


def test_a_study_whose_data_its_user_must_bring_is_skipped_with_a_line_until_it_is_there(toy):  # noqa: F811
    mine = "fetch: {text: {kind: path, name: data/mine, licence: none}}\n"
    (toy / "studies" / "mine.yaml").write_text(mine)
    before = (toy / "params.yaml").read_bytes()
    with pytest.raises(workspace.Skipped, match="skipped: study mine reads data/mine, which is not there; studies/"):
        workspace.choose("mine")
    assert (toy / "params.yaml").read_bytes() == before
    run = [sys.executable, "-m", "flows.local", "--study", "mine"]
    ended = subprocess.run(run, capture_output=True, text=True, env=environment())
    assert ended.returncode == 0 and ended.stdout.startswith("skipped: study mine reads data/mine"), ended.stderr
    (toy / "data" / "mine").mkdir(parents=True)
    assert workspace.choose("mine").study == "mine"


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


def test_line_ends_that_git_itself_writes_are_no_edit(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    commit()
    (toy / "params.yaml").write_bytes((toy / "params.yaml").read_bytes().replace(b"\n", b"\r\n"))
    subprocess.run(["git", "config", "core.autocrlf", "true"], check=True)
    assert subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "params.yaml"]).returncode == 0
    assert workspace.choose("small").train.epochs != 3


def test_edits_that_git_was_told_to_overlook_are_edits(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    subprocess.run(["git", "update-index", "--assume-unchanged", "params.yaml"], check=True)
    with pytest.raises(InputError, match="edits that are kept nowhere else"):
        workspace.choose("small")


def test_params_that_are_in_no_commit_are_not_overwritten(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    shutil.rmtree(toy / ".git")
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(InputError, match=r"params\.yaml is in no commit.*commit it"):
        workspace.choose("small")
    commit("--allow-empty", all_files=False)
    with pytest.raises(InputError, match=r"params\.yaml is in no commit"):
        workspace.choose("small")


def test_without_git_s_folder_its_own_reason_is_told_and_nothing_overwritten(toy):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    edited = (toy / "params.yaml").read_bytes()
    shutil.rmtree(toy / ".git")
    with pytest.raises(InputError, match="not a git repository.*keep it as a study") as raised:
        workspace.choose("small")
    assert "\n" not in str(raised.value) and "git checkout" not in str(raised.value)
    assert (toy / "params.yaml").read_bytes() == edited


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_told_with_how_to_trust_it(toy, monkeypatch):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    commit()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # where this machine may trust every folder
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for folder in (toy, toy / ".git"):
        os.chown(folder, 12345, -1)
    with pytest.raises(InputError, match=r"dubious ownership.*git config --global --add safe\.directory") as raised:
        workspace.choose("small")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("script", "told"), [(None, "git is not installed"), ("sleep 60", "git did not answer within 0.5 s")]
)
def test_a_git_that_is_not_there_or_never_answers_is_told(toy, monkeypatch, script, told):  # noqa: F811
    edit_params(toy, train={"epochs": 3})
    (toy / "bin").mkdir()
    if script is not None:
        (toy / "bin" / "git").write_text(f"#!/bin/sh\nexec {script}\n")
        (toy / "bin" / "git").chmod(0o755)
    monkeypatch.setattr(process, "environment", lambda **_: {"PATH": f"{toy / 'bin'}:/nowhere"})
    monkeypatch.setattr(process, "ASK_SECONDS", 0.5)
    if script is not None:
        (toy / "bin" / "sleep").symlink_to(shutil.which("sleep"))
    with pytest.raises(InputError, match=told):
        workspace.choose("small")


def test_a_folder_that_was_no_clone_is_told_what_dvc_wants_before_anything_runs(toy):  # noqa: F811
    shutil.rmtree(toy / ".git")
    with pytest.raises(InputError, match=r"is not a git repository.*\(git init\).*\(dvc config core\.no_scm true\)"):
        with workspace.alone():
            pass
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.no_scm", "true"], check=True)
    with workspace.alone():
        pass


def commit(*options: str, all_files: bool = True) -> None:
    user = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *user, "commit", "-qam" if all_files else "-qm", "x", *options], check=True)


def test_an_unknown_study_is_named_with_the_nearest_and_all_known(toy):  # noqa: F811
    with pytest.raises(InputError, match=r"'smal' \(did you mean 'small'\?\); studies/ holds: default, small"):
        workspace.choose("smal")


def test_a_broken_study_is_refused_before_it_takes_the_place_of_params(toy):  # noqa: F811
    (toy / "studies" / "bad.yaml").write_text("train: {epoch: 3}\n")
    before = (toy / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=r"studies/bad\.yaml: train\.epoch: unknown key"):
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
    ids=["cut short", "a living process's"],
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
    assert stages.probes == {"device"} and stages.last == {"mirror"}
    assert stages.needs["prune@random-50"] == {"train"}
    assert stages.needs["efficiency@magnitude-80"] == {"prune@magnitude-80", "device"}
    assert stages.needs["report"] == {
        "efficiency@random-50", "efficiency@random-80", "efficiency@magnitude-50", "efficiency@magnitude-80",
    }  # fmt: skip


@pytest.mark.slow
def test_what_changed_takes_along_everything_that_reads_it(toy):  # noqa: F811
    needs = graph.read().needs
    assert graph.look() == (graph.read(), needs.keys())
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    assert graph.look()[1] == set()
    (toy / "models" / "random-80").unlink()
    assert graph.look()[1] == {"prune@random-80", "efficiency@random-80", "report", "mirror"}


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


def test_overrides_go_over_a_study_as_its_own_file_would(toy, capsys):  # noqa: F811
    settings = workspace.choose("small", {"train": {"epochs": 3, "tracker": {"every": 3}}, "seeds": ["s1", "s2"]})
    assert (settings.train.epochs, settings.train.tracker.every, settings.seeds) == (3, 3, ["s1", "s2"])
    assert settings.train.batch_size == workspace.studies.merge("small").settings.train.batch_size
    assert params.load(toy / "params.yaml") == settings
    told = capsys.readouterr().out
    assert "epochs 20 → 3" in told and "seeds" in told
    text = (toy / "params.yaml").read_text()
    assert '# With what this run overrides: {"train": {"epochs": 3' in text
    assert workspace.choose("small").train.epochs == 20  # it was merged here: nothing is lost


def test_overrides_go_over_the_params_that_are_there_where_no_study_is_named(toy):  # noqa: F811
    assert workspace.choose(None, {"train": {"epochs": 3}}).train.epochs == 3
    edit_params(toy, train={"epochs": 7})
    with pytest.raises(InputError, match="'overrides' would overwrite it"):
        workspace.choose(None, {"train": {"epochs": 3}})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"trian": {}}, "did you mean 'train'"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown key"),
        ({"train": 3}, "train: "),
        ({"prune": {"methods": ["magnitude; touch x"]}}, "there is no method 'magnitude; touch x'"),
        ({"train": {"learning_rate": float("nan")}}, "with overrides: expected sections"),
    ],
)
def test_overrides_that_are_no_settings_are_refused_in_a_line(toy, overrides, words):  # noqa: F811
    before = (toy / "params.yaml").read_bytes()
    with pytest.raises(InputError) as caught:
        workspace.choose("small", overrides)
    assert words in str(caught.value) and "small with overrides" in str(caught.value)
    assert (toy / "params.yaml").read_bytes() == before


def test_targets_take_along_what_they_need_and_nothing_else(toy):  # noqa: F811
    stages = graph.read()
    wanted = graph.towards(stages, ["efficiency@random-50", "train"])
    assert wanted.needs.keys() == {"device", "fetch", "train", "prune@random-50", "efficiency@random-50"}
    assert wanted.probes == {"device"} and wanted.last == set()
    assert graph.towards(stages, ["mirror"]) == stages
    assert {name for name in graph.towards(stages, ["prune"]).needs if "@" in name} == {
        "prune@random-50", "prune@random-80", "prune@magnitude-50", "prune@magnitude-80",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"targets: there is no stage 'prun' \(did you mean 'prune'\?\)"):
        graph.towards(stages, ["prun"])
