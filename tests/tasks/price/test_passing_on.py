"""Data that may not be passed on: `dvc push` leaves it here."""

from pathlib import Path

from dvc.repo import Repo
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[3]


def test_what_is_kept_here_is_not_pushed_and_everything_else_is(tmp_path, monkeypatch):
    """The repository's own DVC settings and its output of the stage fetch, with a file instead of data."""
    yaml = YAML(typ="safe", pure=True)
    fetched = yaml.load((REPOSITORY / "dvc.yaml").read_text())["stages"]["fetch"]["outs"][0]
    stage = {"cmd": "mkdir -p data/fetched && echo mine > data/fetched/rows", "params": ["fetch"], "outs": [fetched]}
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    (tmp_path / "data").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n    remote = ours\n['remote \"ours\"']\n    url = {tmp_path}/ours\n"
        + (REPOSITORY / ".dvc" / "config").read_text().partition("false\n    autostage = false\n")[2]
    )
    yaml.dump({"stages": {"fetch": stage}}, tmp_path / "dvc.yaml")
    pushed = {}
    for remote in ("kept-here", None):
        yaml.dump({"fetch": {"remote": remote}}, tmp_path / "params.yaml")
        with Repo() as repo:
            repo.reproduce()
            repo.push()
        pushed[remote] = [path for path in (tmp_path / "ours").rglob("*") if path.is_file()]
    assert pushed["kept-here"] == []
    assert sorted(path.read_text()[:5] for path in pushed[None]) == ['[{"md', "mine\n"]
