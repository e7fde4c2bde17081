"""What a folder or file of the user is, and stays: refused in one line, with nothing touched."""

import importlib
import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from prunelab.disk import files, places
from prunelab.disk.files import whole_directory, write_json
from prunelab.energy import energy
from prunelab.errors import InputError
from tests.helpers import studies


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder, with a user's file and a link in it and a home beside it."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "notes.txt").write_text("precious")
    (folder / "here").symlink_to(".")
    (folder / "nowhere").symlink_to("gone")
    (tmp_path / "people" / "me").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "me"))
    monkeypatch.chdir(folder)
    return folder


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def written(path, *names: str) -> Path:
    with whole_directory(path) as partial:
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(name)
    return Path(path)


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (".", "the current folder"),
        ("sub/..", "the current folder"),
        ("../project", "the current folder"),
        ("here/sub/..", "the current folder"),
        ("here", "a link to ."),
        ("nowhere", "a link to gone"),
        ("..", "a folder above the current folder"),
        ("~", "the home folder"),
        ("~/..", "a folder above the home folder"),
        ("/", "the root of the file system"),
        ("notes.txt", "a file"),
        ("notes.txt/out", "that notes.txt is a file"),
        ("nowhere/out", "that nowhere is a file"),
        ("/dev/null", "a file"),
    ],
)
def test_a_place_that_is_nobodys_result_is_refused_and_untouched(project, tmp_path, out, found):
    out, before = os.path.expanduser(out), listing(tmp_path)
    for refused in (places.check_folder, lambda path: whole_directory(path).__enter__()):
        with pytest.raises(InputError) as caught:
            refused(out)
        assert f"{out}: expected a new or empty folder" in str(caught.value) and f"found {found};" in str(caught.value)
    assert listing(tmp_path) == before and (project / "notes.txt").read_text() == "precious"


def test_a_folder_with_anything_that_was_not_written_here_is_refused(project):
    (project / "sub" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"found config\.json in it, which was not; nothing was touched"):
        places.check_folder("sub")
    (project / "sub" / "config.json").unlink()
    (project / "sub" / ".git").mkdir()
    (project / "sub" / ".git" / "HEAD").touch()
    with pytest.raises(InputError, match=r"found \.git/HEAD in it"):
        places.check_folder("sub")


def test_a_folder_written_here_is_replaced_until_somebody_puts_a_file_into_it(project):
    written("models/v", "config.json", "history/average.safetensors")
    written("models/v", "other.json")
    assert listing(project / "models") == {"v", "v/other.json", f"v/{places.MARK}"}
    (project / "models/v/deep").mkdir()
    (project / "models/v/deep/notes.txt").touch()
    (project / "models/v/link").symlink_to("../../sub")
    with pytest.raises(InputError, match=r"found deep/notes\.txt in it, which was not \(and 1 others\)"):
        places.check_folder("models/v")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prunable.json", [{"name": "h.0.weight", "transposed": False}]),
        ("sparsity.json", {"variant": "wanda-50"}),
        ("int8.json", {"format": "prunelab-int8-1"}),
        ("calibration.json", {"hash": None}),
        ("delivery.json", {"model_sha256": "0"}),
        ("text/manifest.json", {"parts": {}}),
    ],
)
def test_a_folder_from_before_there_was_a_mark_is_known_by_what_a_stage_writes(tmp_path, name, content):
    write_json(tmp_path / "out" / name, content)
    (tmp_path / "out" / "model.safetensors").touch()
    places.check_folder(tmp_path / "out")
    write_json(tmp_path / "out" / name, {"camera": 1})
    with pytest.raises(InputError, match="in it, which was not"):
        places.check_folder(tmp_path / "out")


def test_plots_from_before_there_was_a_mark_are_known(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss_vs_sparsity.csv").write_text("series,rate,sparsity_percent,loss,loss_lo,loss_hi\n")
    places.check_folder(tmp_path / "plots")


def test_what_is_read_from_is_not_written_over_even_where_it_was_written_here(project):
    written("models/v", "config.json")
    for out in ("models/v", "models", "sub/../models/v", "here/models/v"):
        with pytest.raises(InputError, match=r"found (that )?models/v, which is read from"):
            places.check_folder(out, "models/v")
    (project / "link").symlink_to("models/v")
    with pytest.raises(InputError, match="found link, which is read from"):
        places.check_folder("models/v", "link")
    places.check_folder("models/other", "models/v")


def test_a_shared_folder_may_hold_others_files_but_is_none_of_these_places(project, tmp_path):
    (project / "results" / "dense").mkdir(parents=True)
    (project / "results" / "dense" / "quality.json").touch()
    places.check_shared("results/dense")
    places.check_shared("results", "results/dense")
    for out in (".", "sub/..", "..", "/", str(tmp_path / "people"), "notes.txt", "here"):
        with pytest.raises(InputError, match="nothing was touched"):
            places.check_shared(out)
    with pytest.raises(InputError, match="found results/dense, which is read from"):
        places.check_shared("results/dense", "results/dense")


def test_no_place_inside_a_folder_that_is_replaced_as_a_whole(project):
    written("models/v", "config.json")
    for out in ("models/v/plain", "models/v/a/b"):
        with pytest.raises(InputError, match="models/v was written as a whole and lies above it"):
            places.check_folder(out)
    places.check_folder("models/plain", "models")  # the delivered model lies among the models


def test_what_file_managers_leave_behind_is_nobodys(project):
    written("models/v", "config.json")
    (project / "models/v/.DS_Store").touch()
    written("models/v", "other.json")
    assert listing(project / "models") == {"v", "v/other.json", f"v/{places.MARK}"}


def test_a_device_is_not_replaced_by_a_file(project):
    os.mkfifo("pipe")
    for out in ("/dev/null", "pipe"):
        for refused in (lambda path: places.check_json(path, "id"), lambda path: write_json(path, {})):
            with pytest.raises(
                InputError, match=f"{out}: expected the name of a file to write, found a device or pipe"
            ):
                refused(out)
    assert Path("/dev/null").is_char_device() and Path("pipe").is_fifo()


def test_a_name_that_the_system_refuses_is_told_in_a_line(project):
    for refused in (places.check_folder, places.check_shared, places.check_file):
        with pytest.raises(InputError, match=r"n: can't be looked at \(File name too long\); name another place"):
            refused("n" * 300)


def test_a_link_that_leads_nowhere_is_no_folder_for_results(project):
    with pytest.raises(InputError, match="nowhere: .* found a link to gone"):
        places.check_shared("nowhere")


def test_a_file_of_results_replaces_neither_a_folder_nor_another_file(project):
    for out, found in (("sub", "a folder"), ("notes.txt/x.json", "that notes.txt is a file"), ("notes.txt", "another")):
        with pytest.raises(InputError, match=f"found {found}"):
            places.check_json(out, "id")
    write_json("package.json", {"name": "mine"})
    with pytest.raises(InputError, match=r"package\.json: expected no file, or an earlier one with 'id' in it"):
        places.check_json("package.json", "id")
    write_json("device.json", {"id": "abc"})
    places.check_json("device.json", "id")
    places.check_json("new/device.json", "id")
    with pytest.raises(InputError, match="sub: expected the name of a file to write, found a folder"):
        files.write_json("sub", {})


STAGES = {
    "fetch": "",
    "train": "--data data",
    "calibrate": "--dense models/dense --data data",
    "prune": "magnitude-50 --dense models/dense",
    "further": "depth-25-recovered --dense models/dense --calibration models/calibration --data data",
    "cells": "--dense models/dense --data data --reference results/dense --probes more/probes",
    "quality": "v --model models/v --reference results/dense",
    "reference": "--dense models/dense --data data",
    "efficiency": "v --model models/v --dense models/dense --device device.json",
    "runtimes": "v --model models/v --dense models/dense --device device.json --session session.json",
    "recommend": "--results results --models models",
    "report": "--results results --models models --recommendation report/recommendation.json",
    "device": "",
}
OF_ITS_OWN = ["fetch", "train", "calibrate", "prune", "further", "cells"]


@pytest.fixture
def study(project):
    """Just enough for each stage to come to its folder."""
    (project / "params.yaml").write_text(studies.text("smoke"), encoding="utf-8")
    write_json("models/v/sparsity.json", {"variant": "v", "structure": {"config_changes": {}}})
    write_json("session.json", {})
    write_json("device.json", {"id": "abc"})
    return project


def stage(name: str, out: str, *more: str) -> None:
    importlib.import_module(f"stages.{name}").main([*STAGES[name].split(), "--out", out, *more])


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_the_current_folder_and_a_users_file(study, name):
    before = listing(study)
    for out in (".", "sub/..", "notes.txt"):
        with pytest.raises(InputError, match="found a folder" if name == "device" and out != "notes.txt" else "found"):
            stage(name, out)
    assert listing(study) == before and (study / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("name", OF_ITS_OWN)
def test_every_stage_that_writes_a_folder_refuses_a_users_and_its_inputs(study, name):
    (study / "sub" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"sub: .* found notes\.txt in it, which was not"):
        stage(name, "sub")
    for given in STAGES[name].split():
        if "/" in given or given == "data":
            with pytest.raises(InputError, match=f"found {given}, which is read from"):
                stage(name, given)


def test_fetch_refuses_to_replace_what_it_reads(study):
    written("data/fetched", "text/train.txt")
    yaml = YAML(typ="safe", pure=True)
    settings = yaml.load(study / "params.yaml")
    settings["fetch"]["text"] = {"kind": "path", "name": "data/fetched/text/train.txt"}
    yaml.dump(settings, study / "params.yaml")
    with pytest.raises(InputError, match=r"found that data/fetched/text/train\.txt, which is read from, lies in it"):
        stage("fetch", "data/fetched")


@pytest.mark.parametrize("energy_file", ["sub", "notes.txt"])
def test_a_booking_of_energy_is_refused_before_the_stage_has_worked(project, energy_file):
    with pytest.raises(InputError, match=f"{energy_file}: expected"):
        with energy.stage_meter("prune-v", energy_file):
            raise AssertionError("the stage ran")


def test_a_report_replaces_neither_somebodys_page_nor_their_plots(study):
    (study / "sub" / "index.html").write_text("my page")
    with pytest.raises(InputError, match=r"sub/index\.html: expected that of an earlier report or none"):
        stage("report", "sub")
    (study / "sub" / "index.html").unlink()
    (study / "sub" / "plots").mkdir()
    (study / "sub" / "plots" / "mine.svg").touch()
    with pytest.raises(InputError, match=r"sub/plots: .* found mine\.svg in it"):
        stage("report", "sub")
