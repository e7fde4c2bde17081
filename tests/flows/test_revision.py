"""Worktrees of other revisions: whose cache they share, which are refused, and that they don't pile up."""

import subprocess
import sys
from importlib import metadata

import pytest

from flows import revision
from prunelab.errors import InputError
from tests.helpers.toy import environment, toy  # noqa: F401  (a fixture)
from tests.helpers.workshop import git


def commit(folder, name: str, text: str) -> str:
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", name)
    return git(folder, "rev-parse", "HEAD").strip()


def test_a_run_without_a_revision_and_one_of_the_clones_own_commit_take_place_in_the_clone(toy):  # noqa: F811
    here = git(toy, "rev-parse", "HEAD").strip()
    assert revision.place(None) == revision.place(here) == revision.place(here[:8]) == toy.resolve()
    assert not revision.FOLDER.exists()
    revision.require(here)


def test_another_revision_has_its_files_and_keeps_what_git_does_not_know(toy):  # noqa: F811
    first = commit(toy, "file.txt", "first")
    commit(toy, "file.txt", "second")
    folder = revision.place(first)
    assert (folder / "file.txt").read_text() == "first" and (toy / "file.txt").read_text() == "second"
    (folder / "file.txt").write_text("edited by a run")
    (folder / "events.log").write_text("kept")
    assert revision.place(first) == folder
    assert (folder / "file.txt").read_text() == "first" and (folder / "events.log").read_text() == "kept"
    with pytest.raises(InputError, match="is not what is in this folder"):
        revision.require(first)


def test_half_a_worktree_of_a_killed_run_is_made_anew(toy):  # noqa: F811
    first = commit(toy, "file.txt", "first")
    commit(toy, "file.txt", "second")
    folder = revision.place(first)
    (folder / ".git").unlink()
    (folder / "file.txt").unlink()
    assert (revision.place(first) / "file.txt").read_text() == "first"


def test_what_was_computed_in_the_clone_is_not_computed_again_in_a_worktree(toy):  # noqa: F811
    first = git(toy, "rev-parse", "HEAD").strip()
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "config", "--local", "core.checksum_jobs", "1"], env=environment(), check=True)
    subprocess.run([*dvc, "repro", "-q", "train"], env=environment(), check=True)
    commit(toy, "file.txt", "second")
    folder = revision.place(first)
    assert "checksum_jobs = 1" in (folder / ".dvc" / "config.local").read_text()
    done = subprocess.run(
        [*dvc, "repro", "train"], cwd=folder, env=environment(), check=True, capture_output=True, text=True
    )
    assert "Stage 'train' is cached" in done.stdout and not (folder / "events.log").exists()


def test_the_oldest_worktrees_go(toy):  # noqa: F811
    commits = [commit(toy, "file.txt", str(number)) for number in range(revision.KEPT + 2)]
    for one in commits[:-1]:
        revision.place(one)
    kept = {folder.name for folder in (toy / revision.FOLDER).iterdir()}
    assert kept == {one[:12] for one in commits[1:-1]}
    assert len(git(toy, "worktree", "list").splitlines()) == revision.KEPT + 1


@pytest.mark.parametrize("name", ["nowhere", "--output=x", "HEAD~1", "a b", "$(touch x)", "", "../x"])
def test_what_is_no_commit_tag_or_branch_is_refused_in_a_line(toy, name):  # noqa: F811
    with pytest.raises(InputError, match="has no such commit, tag or branch"):
        revision.place(name)
    assert not (toy / "x").exists()


def test_a_revision_that_wants_another_environment_is_refused_and_names_both_versions(toy):  # noqa: F811
    numpy = metadata.version("numpy")
    other = commit(toy, "constraints.txt", "numpy==0.1.0\nnot-installed-here==1.0\n")
    same = commit(toy, "constraints.txt", f"# tested\nnumpy=={numpy}\n")
    commit(toy, "file.txt", "newest")
    with pytest.raises(InputError, match=rf"wants numpy==0\.1\.0, here it is {numpy}; run it on a worker"):
        revision.place(other)
    assert not revision.FOLDER.exists()
    assert revision.place(same).exists()


def test_the_build_of_a_version_is_no_other_version(monkeypatch):
    monkeypatch.setattr(revision.metadata, "version", lambda name: "2.13.0+cu130")
    revision.require_environment("torch==2.13.0\n", "v1")
    with pytest.raises(InputError, match="here it is 2.13.0"):
        revision.require_environment("torch==2.12.0\n", "v1")


def test_only_what_is_committed_can_be_shared_out(toy):  # noqa: F811
    here = git(toy, "rev-parse", "HEAD").strip()
    (toy / "params.yaml").write_text("seed: 2\n")
    assert revision.committed(chosen=True) == here
    with pytest.raises(InputError, match=r"params\.yaml was edited; commit and push it first"):
        revision.committed(chosen=False)
    (toy / "stage.sh").write_text("true\n")
    with pytest.raises(InputError, match=r"stage\.sh was edited"):
        revision.committed(chosen=True)
