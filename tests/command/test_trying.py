"""`prunelab try`: which models are taken, and the study that is written of one (the run itself: tests/pipeline)."""

import json
import os

import pytest

from prunelab import quantised
from prunelab.command import estimate, line, trying
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.study import params, studies
from prunelab.study.sources import Model
from tests.helpers import tiny, workspace
from tests.helpers.imports import ROOT

FAST = estimate.Timed(0.1, 1e-6, 1e-4, 1e-3, 1e-6, 0.1, 0.1, 2)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the default study and a small Llama of 3 blocks and 64 positions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "default.yaml").write_bytes((ROOT / "studies" / "default.yaml").read_bytes())
    tiny.published(tmp_path / "Tiny_Llama.v1")
    return tmp_path


@pytest.fixture
def fast(monkeypatch):
    """A machine that is known beforehand."""
    knows(monkeypatch, FAST)


def knows(monkeypatch, timed: estimate.Timed) -> None:
    monkeypatch.setattr(trying, "_time", lambda folder, name: (timed, checkpoint.load(folder)))


def test_a_study_of_what_fits_is_written_and_told(project, fast, capsys):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (project / "Tiny_Llama.v1").iterdir())
    assert trying.write("Tiny_Llama.v1", 40, 10) == "try-tiny-llama-v1"
    settings = studies.merge("try-tiny-llama-v1").settings
    assert settings.fetch.model == Model(kind="path", name="Tiny_Llama.v1")
    assert settings.train.start == "fetched" and settings.train.epochs == 0
    assert settings.prune.methods == ["magnitude", "wanda", "sparsegpt"] and settings.prune.rates == [40]
    assert settings.prune.further == ["dense-int8", "dense-int4", "depth-40"] and settings.efficiency.methods == [
        "magnitude"
    ]
    # The model has 64 positions, and the machine is fast: the most of everything.
    assert settings.quality.context == settings.calibrate.length == 64
    assert (
        settings.quality.max_windows == 256 and settings.calibrate.samples == 128 and settings.efficiency.seconds == 32
    )
    assert settings.efficiency.prompt_tokens == [32] and settings.efficiency.output_tokens == 8
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("llama, ") and "3 blocks" in told[1]
    assert (
        told[2].startswith("plan for 10 minutes: about ")
        and told[3] == "  magnitude-40, wanda-40, sparsegpt-40, depth-40, dense-int8, dense-int4 beside dense"
    )
    assert told[-1].startswith("studies/try-tiny-llama-v1.yaml ") and len(told) == 6
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (project / "Tiny_Llama.v1").iterdir()) == before


def test_the_study_says_how_it_came_and_is_written_anew_but_never_over_somebody_s(project, fast):
    path = project / "studies" / "try-tiny-llama-v1.yaml"
    trying.write("Tiny_Llama.v1", 50, 10)
    assert path.read_text().startswith("# Written by `prunelab try Tiny_Llama.v1 --rate 50 --minutes 10`")
    trying.write("Tiny_Llama.v1", 30, 10)
    assert studies.merge("try-tiny-llama-v1").settings.prune.rates == [30]
    path.write_text("# mine\n")
    with pytest.raises(InputError, match=r"try-tiny-llama-v1\.yaml: a study of that name is there.*rename it"):
        trying.write("Tiny_Llama.v1", 30, 10)
    assert path.read_text() == "# mine\n"


def test_what_does_not_fit_the_model_is_left_out_and_told(project, fast, capsys):
    trying.write("Tiny_Llama.v1", 10, 10)  # of 3 blocks none
    assert studies.merge("try-tiny-llama-v1").settings.prune.further == ["dense-int8", "dense-int4"]
    assert "  left out: depth-10 (10 % of the blocks are no whole block, or all of them)" in capsys.readouterr().out


def test_a_model_that_cannot_be_quantised_has_no_such_rows_and_is_told_why(project, fast, capsys, monkeypatch):
    monkeypatch.setattr(quantised, "quantise", refusing)
    trying.write("Tiny_Llama.v1", 40, 10)
    assert studies.merge("try-tiny-llama-v1").settings.prune.further == ["depth-40"]
    assert "  left out: dense-int8, dense-int4 (Odd cannot be quantised: it is odd)\n" in capsys.readouterr().out


def refusing(model, precision):
    raise InputError(f"{precision}: Odd cannot be quantised: it is odd; take {precision} out of prune.further")


def test_a_model_is_really_timed(project):
    looked = trying.look(trying.source_of("Tiny_Llama.v1"))
    assert looked.context == 64 and looked.blocks == 3 and looked.kind == "llama"
    assert all(value > 0 for value in looked.timed)
    assert 1 <= looked.timed.side_by_side <= os.cpu_count()
    assert looked.timed.token_s < looked.timed.step_s < looked.timed.start_s


def test_too_few_minutes_write_nothing(project, monkeypatch):
    knows(monkeypatch, FAST._replace(start_s=60))
    with pytest.raises(InputError, match=r"--minutes 5: .* take about 13\.1 minutes \(11\.0 of them to start stages\)"):
        trying.write("Tiny_Llama.v1", 50, 5)
    assert [path.name for path in (project / "studies").iterdir()] == ["default.yaml"]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("no/such/folder", "found no such folder"),
        ("nothing", "found no such folder"),
        ("studies/default.yaml", "found a file"),
        ("studies", "expected files that match model*.safetensors"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(project, capsys, model, told):
    with pytest.raises(SystemExit):
        line.main(["try", model])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {model}: ") and told in error and error.count("\n") == 1


def test_what_is_no_causal_model_is_refused_as_the_stage_fetch_does(project):
    config = json.loads((project / "Tiny_Llama.v1" / "config.json").read_text())
    (project / "Tiny_Llama.v1" / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(InputError, match="expected a causal language model, found 't5'"):
        trying.write("Tiny_Llama.v1", 50, 10)


def test_outside_a_project_it_says_where_to_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"has no studies/default\.yaml; try a model in the project's folder"):
        trying.write("x", 50, 10)


def test_a_model_of_the_hub_is_known_by_its_id():
    assert trying.source_of("HuggingFaceTB/SmolLM2-135M") == params.Source(
        kind="hub", name="HuggingFaceTB/SmolLM2-135M"
    )
    assert trying.name_of("HuggingFaceTB/SmolLM2-135M") == "try-smollm2-135m"


@pytest.mark.slow
def test_a_trial_runs_to_its_report_and_says_what_to_deploy(tmp_path):
    folder = workspace.make(tmp_path / "clone")
    tiny.published(folder / "tiny")
    (folder / "text.txt").write_text("the king is dead, long live the king. " * 4000, encoding="utf-8")
    default = folder / "studies" / "default.yaml"
    own = studies._parsed(default.read_text(encoding="utf-8"), default)
    own["fetch"]["text"] = {"kind": "path", "name": "text.txt"}
    own["fetch"]["split"]["by"] = "position"
    default.write_text(studies._dumped(own), encoding="utf-8")
    workspace.run(folder, "git", "add", "--all")
    workspace.run(folder, "git", "commit", "--quiet", "-m", "a text of ours")
    workspace.run(folder, "python", "-m", "prunelab", "try", "tiny", "--minutes", "30", "--plan")
    short = (folder / "studies" / "try-tiny.yaml").read_text(encoding="utf-8")
    for planned, quick in (
        ("  seconds: 32.0", "  seconds: 0.2"),
        ("  seconds: 8.0", "  seconds: 0.2"),
        (" wanda,", ""),
    ):
        assert planned in short
        short = short.replace(planned, quick)
    (folder / "studies" / "try-tiny.yaml").write_text(short, encoding="utf-8")
    told = workspace.run(folder, "python", "-m", "prunelab", "study", "try-tiny")
    assert "magnitude-50" in told and "sparsegpt-50" in told and "depth-50" in told
    assert (folder / "report" / "index.html").exists() and (folder / "models" / "best" / "README.md").exists()
