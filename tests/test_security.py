"""What no code of the project does, read from the code itself; and what becomes of files that would run code."""

import ast
import pickle
from pathlib import Path

import pytest

from prunelab.data import documents, questions, sources
from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.study.params import Text

ROOT = Path(__file__).parents[1]
CODE = sorted(path for package in ("prunelab", "stages", "flows") for path in (ROOT / package).rglob("*.py"))
# Readers that run what a file says, and ways to a shell. (`import pickle` alone reads nothing: its error is caught.)
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "dill.loads", "cloudpickle.load",
    "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle", "pd.read_pickle", "yaml.unsafe_load",
    "yaml.full_load",
}  # fmt: skip


def calls(path: Path):
    """(name as written, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> str | None:
    """An option of a call as it is written."""
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def test_no_code_reads_what_could_run_or_goes_through_a_shell():
    for path in CODE:
        for name, call in calls(path):
            where = f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
            assert name not in FORBIDDEN, where
            assert option(call, "shell") in (None, "False"), where
            assert option(call, "allow_pickle") in (None, "False"), where
            if name == "torch.load":
                assert option(call, "weights_only") == "True", where
            if name == "yaml.load" and len(call.args) > 1:  # PyYAML's; ruamel's has no second argument
                assert "Safe" in ast.unparse(call.args[1]), where
            if name == "YAML":
                assert option(call, "typ") in (None, "'safe'", "'base'"), where


def test_the_code_of_a_model_is_trusted_only_where_the_settings_grant_it():
    """tests/models/test_owncode.py runs it; here: nobody says True, or leaves it to a user's environment."""
    found = {
        (path.relative_to(ROOT).as_posix(), option(call, "trust_remote_code"))
        for path in CODE
        for _, call in calls(path)
        if option(call, "trust_remote_code") is not None
    }
    assert found and {said for _, said in found} <= {"granted", "owncode.granted(folder)"}


class Planted:
    """Would create `marker` when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def read_text(path: Path):
    place = sources.Brought(path.parent, [path], {"name": path.name})
    return documents.read(place, "none", None, None)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("text.txt", read_text), ("text.npy", read_text), ("table.jsonl", read_text), ("table.parquet", read_text),
        ("table.csv", read_text), ("text.txt.gz", read_text), ("figures.json", files.read_json),
        ("quiz.jsonl", questions.read_questions),
    ],
)  # fmt: skip
def test_a_planted_pickle_in_the_place_of_data_is_refused_in_a_line_and_does_not_run(tmp_path, name, read):
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value) and not marker.exists()


def test_of_a_folder_or_archive_nothing_is_taken_that_is_no_text(tmp_path):
    for name in ("a.txt", "b.pkl", "c.npy", "d.pt", "e.joblib", "f.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")) if name != "a.txt" else b"words")
    brought = sources.bring(Text(kind="path", name=str(tmp_path)), tmp_path, documents.DEFAULT_FILES, "dataset")
    assert [path.name for path in brought.files] == ["a.txt"]
