"""dvc.lock read and written an entry at a time, beside DVC's own reader and writer of the whole file."""

import copy
import io

import pytest

from flows import lockfile

ENTRY = {
    "cmd": "python -m stages.prune magnitude-50 --dense models/s1/dense --calibration models/s1/calibration --out x",
    "deps": [{"path": "data/fetched", "hash": "md5", "md5": "ab.dir", "size": 12, "nfiles": 2}],
    "params": {"params.yaml": {"train": {"beta": 0.9, "rate": 1e-05, "window": None, "names": [], "deep": {"a": [1]}}}},
    "outs": [{"path": "models/s1/magnitude-50", "hash": "md5", "md5": "1e5"}],
}
WORDS = {"a": "yes", "b": "1e5", "c": "", "d": "two\nlines\n\n\nand a last", "e": "# none", "f": "é: 'x'", "g": "0123"}


def written(stages: dict) -> str:
    """A dvc.lock by DVC's own writer."""
    from dvc.utils.serialize import _yaml

    stream = io.StringIO()
    _yaml._dump({"schema": "2.0", "stages": stages}, stream)
    return stream.getvalue()


def changed(**more) -> dict:
    return copy.deepcopy(ENTRY) | more


@pytest.fixture
def dvc_as_it_is():
    """DVC without our reader and writer, also afterwards."""
    from dvc.dvcfile import Lockfile

    def restore():
        if hasattr(Lockfile, "dump_whole"):
            Lockfile.dump_stages = Lockfile.dump_whole
            del Lockfile._load_yaml, Lockfile.load_whole, Lockfile.dump_whole

    restore()
    yield
    restore()


def test_every_entry_is_read_as_dvc_reads_it():
    stages = {"device": {"cmd": "true"}, "prune@magnitude-50-s1": changed(), "words": changed(params={"p": WORDS})}
    entries = lockfile.Entries(written(stages))
    assert dict(entries) == stages and list(entries) == list(stages) and len(entries) == 3
    assert "prune@magnitude-50-s1" in entries and "prune@magnitude-50" not in entries
    assert entries.get("train@s1", {}) == {}


def test_a_changed_entry_takes_the_place_of_the_old_one_and_a_new_one_stands_last_byte_for_byte_as_dvc_writes_them():
    stages = {name: changed() for name in ("fetch", "train@s1", "prune@magnitude-50-s1")}
    entries = lockfile.Entries(written(stages))
    for name, entry in (("train@s1", changed(cmd="x " * 80)), ("quality@a-s2", changed(params={"p": WORDS}))):
        stages[name], text = entry, entries.replaced(name, copy.deepcopy(entry))
        assert text == written(stages)
        entries = lockfile.Entries(text)
    assert dict(entries) == stages


def test_a_line_in_a_text_that_looks_like_another_entry_is_none():
    stages = {"fetch": {"cmd": ["cat <<E\n  train:\n    cmd: rm\nE\n", "a\n\n  b:\n"]}, "train": {"cmd": "true"}}
    entries = lockfile.Entries(written(stages))
    assert dict(entries) == stages
    assert entries.replaced("train", {"cmd": "false"}) == written(stages | {"train": {"cmd": "false"}})


HEAD = "schema: '2.0'\nstages:\n"
A = "  a:\n    cmd: x\n"


@pytest.mark.parametrize(
    "text",
    [
        "", f"stages:\n{A}", "schema: '2.0'\nstages: {}\n", f"{HEAD}  'a b':\n    cmd: x\n", f"{HEAD}  # mine\n{A}",
        f"{HEAD}  a: {{cmd: x}}\n", f"{HEAD}{A}datasets: []\n", f"<<<<<<< ours\n{HEAD}{A}", f"{HEAD}{A}<<<<<<< ours\n",
        f"{HEAD}{A}{A}", f"{HEAD}{A}"[:-3],
    ],
)  # fmt: skip
def test_what_dvc_has_not_written_so_is_left_to_dvc(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)
    assert lockfile.read(tmp_path / "dvc.lock") is None
    assert lockfile.read(tmp_path / "none.lock") is None


def test_a_name_that_must_be_quoted_is_left_to_dvc():
    with pytest.raises(ValueError):
        lockfile.Entries(written({"a": {"cmd": "x"}})).replaced("12", {"cmd": "x"})


def test_what_yaml_writes_once_and_refers_to_is_left_to_dvc_because_such_names_hold_for_the_whole_file():
    twice = {"a": 1}
    entry = {"cmd": "x", "params": {"params.yaml": {"one": twice, "two": twice}}}
    assert "&id001" in written({"b": entry}) and " *id001" in written({"b": entry})
    with pytest.raises(ValueError):
        lockfile.Entries(written({"b": entry}))
    with pytest.raises(ValueError):
        lockfile.Entries(written({"a": {"cmd": "x"}})).replaced("b", entry)


@pytest.mark.parametrize("broken", ["    cmd: [x\n", "    cnd: x\n"])
def test_a_broken_entry_is_told_by_dvc_when_it_is_asked_for(broken):
    from dvc.exceptions import DvcException

    entries = lockfile.Entries(written({"a": {"cmd": "x"}}) + "  b:\n" + broken)
    assert entries["a"] == {"cmd": "x"}
    with pytest.raises(DvcException):
        entries["b"]


PIPELINE = """\
stages:
  first:
    cmd: echo 1 > one
    params: [a, b]
    outs: [one]
  second:
    matrix: {x: [p, q], y: [1, 2]}
    cmd: cat one > ${item.x}-${item.y}
    deps: [one]
    outs: ["${item.x}-${item.y}"]
"""


def test_dvc_itself_with_it_runs_the_same_stages_and_leaves_the_same_file(tmp_path, monkeypatch, dvc_as_it_is):
    from dvc.repo import Repo

    def study(name: str) -> list:
        """What each repro ran, and the dvc.lock that it left."""
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "dvc.yaml").write_text(PIPELINE)
        Repo.init(no_scm=True).close()
        seen = []
        for settings, force in (("a: 1\nb: 'no'\n", False), ("a: 1\nb: 'no'\n", False), ("a: 1e-5\nb: null\n", True)):
            (folder / "params.yaml").write_text(settings)
            with Repo() as repo:
                ran = [stage.name for stage in repo.reproduce(["second"], force=force)]
                status = repo.status()
            seen += [ran, status, (folder / "dvc.lock").read_text()]
        return seen

    own = study("own")
    lockfile.install()
    lockfile.install()  # a second time changes nothing
    ours = study("ours")
    assert ours == own and own[0] == ["first", "second@p-1", "second@p-2", "second@q-1", "second@q-2"] and own[3] == []
    assert [path.name for path in (tmp_path / "ours").glob(".dvc.lock*")] == []
