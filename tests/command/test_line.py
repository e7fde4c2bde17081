"""The command line: its verbs, how mistakes end, what has moved."""

import subprocess
import sys
import tomllib

import pytest

from prunelab.command import line
from prunelab.study import studies
from tests.helpers import workspace

VERBS = ["study", "try", "check", "results", "inspect", "predict", "export", "publish", "verdict", "mirror"]


def run(*words: str, cwd=workspace.ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "prunelab", *words], cwd=cwd, env=workspace.environment(), capture_output=True, text=True
    )


def refused(capsys, *words: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        line.main(list(words))
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.startswith("error: ") and told.count("\n") == 1
    return told


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_verb_it_says_which_there_are(words):
    done = run(*words)
    listed = done.stdout.partition("Commands:")[2].splitlines()
    assert [entry.split()[0] for entry in listed if entry.strip()] == VERBS
    assert done.returncode == 0 and "..." not in "".join(listed) and not done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_loading_what_it_needs(verb):
    code = (
        "import sys; from prunelab.command import line\n"
        f"try: line.main([{verb!r}, '--help'])\n"
        "finally: assert not {'torch', 'transformers', 'mlflow', 'pandas', 'pydantic', 'prefect'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=workspace.ROOT)
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: prunelab {verb} "), done.stderr


def test_the_command_prunelab_is_this_one():
    project = tomllib.loads((workspace.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"prunelab": f"{line.__name__}:{line.main.__name__}"}


def test_an_unknown_verb_is_told_with_the_nearest(capsys):
    assert "there is no verb 'studdy' (did you mean 'study'?); there are: study, try, check" in refused(
        capsys, "studdy"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["results", "--markdow"], "prunelab results: No such option '--markdow'. Did you mean '--markdown'?"),
        (["study", "--workers", "0"], "prunelab study: Invalid value for '--workers': 0 is not in the range x>=1."),
        (["export", "models/a"], "prunelab export: Missing argument 'OUT'. (see prunelab export --help)"),
        (["try", "x", "--rate", "100"], "prunelab try: Invalid value for '--rate': 100 is not in the range 1<=x<=99."),
        (["--version"], "prunelab: No such option '--version'"),
    ],
)
def test_a_mistake_in_a_verb_s_words_is_one_line(capsys, words, told):
    assert told in refused(capsys, *words)


def test_mistakes_in_settings_and_folders_end_as_in_any_stage(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no-such.yaml: no such file" in refused(capsys, "check", "no-such.yaml")
    assert "report/results.csv: no such file" in refused(capsys, "results")
    assert "there is no study 'x'" in refused(capsys, "study", "x", "--print")
    assert "no-model: expected a model's folder, found nothing there" in refused(capsys, "inspect", "no-model")


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("params", "prunelab check"), ("results", "prunelab results"), ("tracking", "prunelab mirror"),
        ("export", "prunelab export"), ("hub", "prunelab publish"), ("memory", "python -m prunelab.efficiency.memory"),
    ],
)  # fmt: skip
def test_the_modules_that_documents_named_before_say_what_is_typed_now(old, now):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"prunelab.{old}", "--markdown"],
        cwd=workspace.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == f"error: python -m prunelab.{old} is now: {now}\n"


def test_a_study_is_printed_whole_and_nothing_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "default.yaml").write_bytes((workspace.ROOT / "params.yaml").read_bytes())
    (tmp_path / "studies" / "x.yaml").write_text("train: {epochs: 3}\n", encoding="utf-8")
    line.main(["study", "x", "--print"])
    assert capsys.readouterr().out == studies.merge("x").text
    (tmp_path / "params.yaml").write_bytes((workspace.ROOT / "params.yaml").read_bytes())
    line.main(["study", "--print"])
    assert capsys.readouterr().out == (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "studies"]


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (["study"], []),
        (["study", "smoke"], ["--study", "smoke"]),
        (["study", "smoke", "--workers", "3"], ["--study", "smoke", "--workers", "3"]),
    ],
)
def test_a_study_is_handed_to_the_runner_with_this_python(monkeypatch, words, handed):
    called = []
    monkeypatch.setattr(
        line.os, "execv", lambda *command: called.append(command) or (_ for _ in ()).throw(SystemExit(0))
    )
    with pytest.raises(SystemExit):
        line.main(words)
    assert called == [(sys.executable, [sys.executable, "-m", "flows.local", *handed])]
