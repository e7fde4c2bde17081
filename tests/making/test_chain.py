"""Recipes made from the dense model: a chain equals its steps, work is done once, and nothing half-written stays."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.making import chain, kept, masking, precision, steps
from prunelab.models import checkpoint, packed
from prunelab.models.tensors import identity
from prunelab.recipes import variants
from stages import further as stage
from tests.helpers import recipes
from tests.helpers.recipes import placed  # noqa: F401  (a fixture)


@pytest.fixture
def study(placed, tmp_path, monkeypatch):  # noqa: F811
    """A copy of the dense model and its data in a current folder of its own; what steps are done is listed."""
    shutil.copytree(placed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return recipes.count_steps(monkeypatch)


def made(identifier: str, given) -> Path:
    out = Path("models") / identifier
    chain.make(given, variants.parse(identifier), out)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}: {name}": value
        for path in folder.glob("*.safetensors")
        for name, value in load_file(path).items()
    }


def same(first: Path, second: Path) -> None:
    """Both folders hold the same files, with the same tensors to the bit."""
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys() and len(one) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}


def left_behind() -> list[str]:
    """Names in models/ and among the kept beginnings that are no whole results."""
    names = [path.name for path in (*Path("models").iterdir(), *kept.FOLDER.glob("*"))]
    return [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("beginning", ["magnitude-50", "depth-50", "mlp-width-norms-50"])
def test_a_chain_equals_its_steps_done_one_by_one(study, beginning):
    recovered, quantised = f"{beginning}-recovered", f"{beginning}-recovered-int8"
    given = recipes.given(quantised)
    out = made(quantised, given)
    assert study == [beginning, recovered, quantised]
    first = masking.mask if beginning == "magnitude-50" else steps.remove
    first(given, variants.parse(beginning), Path("by-hand/1"))
    steps.recover(given, variants.parse(recovered), Path("by-hand/1"), Path("by-hand/2"))
    precision.quantise(given, variants.parse(quantised), Path("by-hand/2"), Path("by-hand/3"))
    same(out, Path("by-hand/3"))
    assert read_json(out / "quantised.json") == read_json("by-hand/3/quantised.json")
    one, other = read_json(out / "sparsity.json"), read_json("by-hand/3/sparsity.json")
    assert one["recovery"].pop("seconds") > 0 < other["recovery"].pop("seconds")
    assert one == other and one["recovery"]["from"] == beginning


def test_the_best_checkpoint_by_magnitude_ranks_and_keeps_its_weights_whatever_the_study_prunes(study):
    best, last = (dict(packed.unpacked(made(name, recipes.given("best-magnitude-50")))) for name in
                  ("best-magnitude-50", "magnitude-50"))  # fmt: skip
    assert read_json("models/best-magnitude-50/sparsity.json")["checkpoint"] == "best"
    for name, weight in last.items():  # the best are three quarters of the last
        assert torch.allclose(best[name], 0.75 * weight), name


@pytest.mark.parametrize("identifier", ["magnitude-50-retrained", "dense-retrained"])
def test_retraining_goes_on_with_the_training_and_says_which_of_its_moments_it_kept(study, identifier):
    given = recipes.given(identifier)
    out = made(identifier, given)
    assert study[-1] == identifier
    facts, train = chain.facts_of(out)["recovery"], given.settings.train
    assert facts["steps"] == 6 and facts["source"] == "data" and facts["from"] == identifier.removesuffix("-retrained")
    assert (facts["batch_size"], facts["weight_decay"], facts["beta2"]) == (4, train.weight_decay, train.beta2)
    told = {row["step"]: row["validation_loss"] for row in facts["validation_curve"]}
    assert [*told] == [0, 2, 4, 6] and told[0] == facts["validation_loss_before"]
    assert facts["validation_loss_after"] == min(told.values()) == told[facts["kept_step"]]
    if identifier == "dense-retrained":
        assert read_json(out / "control.json")["dense_sha256"] == identity(Path("models/dense"))
    else:
        mask = {name: weight != 0 for name, weight in packed.unpacked(out)}
        made("magnitude-50", given)
        assert all(not mask[name][~keep].any() for name, keep in packed.masks_of(Path("models/magnitude-50")))


@pytest.mark.parametrize(("identifier", "factor"), [("dense-average", 0.5), ("dense-best", 0.75)])
def test_a_control_is_a_plain_folder_with_the_controls_weights(study, identifier, factor):
    out = made(identifier, recipes.given(identifier))
    dense = dict(AutoModelForCausalLM.from_pretrained("models/dense").named_parameters())
    for name, parameter in AutoModelForCausalLM.from_pretrained(out).named_parameters():
        torch.testing.assert_close(parameter, dense[name] * factor)
    assert AutoTokenizer.from_pretrained(out).decode([3]) == AutoTokenizer.from_pretrained("models/dense").decode([3])
    assert chain.facts_of(out) == {
        "variant": identifier,
        "dense_sha256": identity("models/dense"),
        "weights": {"average": "history/average.safetensors", "best": "best/model.safetensors"}[identifier[6:]],
    }


def test_dense_small_gets_the_size_of_the_first_removed_structure_and_the_tokens_of_recovery(study):
    given = recipes.given("magnitude-60-recovered", "depth-50", "mlp-width-norms-50", "dense-small")
    small, like = made("dense-small", given), made("depth-50", given)
    assert study == ["depth-50", "dense-small"]
    sizes = [sum(p.numel() for p in checkpoint.load(folder).parameters()) for folder in (small, like)]
    assert sizes[0] == sizes[1] < sum(p.numel() for p in checkpoint.load("models/dense").parameters())
    assert checkpoint.load(small).config.n_layer == 2
    with open(small / "history" / "curve.csv", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["epoch"]) == 2 + 2  # 256 tokens of recovery are two epochs of 8 windows x 16 tokens


def test_work_that_rows_and_chains_have_in_common_is_done_once_in_whatever_order(study):
    rows = ["depth-50-recovered", "depth-50", "depth-50-recovered-int8"]
    given = recipes.given(*rows)
    folders = {row: made(row, given) for row in (*rows[2:], *rows[:2])}
    assert sorted(study) == sorted(rows)
    assert read_json(folders["depth-50"] / "sparsity.json")["variant"] == "depth-50"
    assert read_json(folders["depth-50-recovered"] / "sparsity.json")["recovery"]["from"] == "depth-50"
    shutil.rmtree(kept.FOLDER)
    one_by_one = made("depth-50-recovered", recipes.given("depth-50-recovered"))
    study.clear()
    steps.recover(given, variants.parse("depth-50-recovered"), folders["depth-50"], Path("again"))
    same(one_by_one, Path("again"))


def test_a_chain_that_is_added_later_begins_with_the_row_that_is_there(study):
    made("depth-50-recovered", recipes.given("depth-50-recovered"))
    assert study == ["depth-50", "depth-50-recovered"]
    study.clear()
    out = made("depth-50-recovered-int8", recipes.given("depth-50-recovered", "depth-50-recovered-int8"))
    assert study == ["depth-50-recovered-int8"]
    assert read_json(out / "sparsity.json")["recovery"]["from"] == "depth-50"


def test_a_step_that_fails_leaves_nothing_half_written_and_what_was_before_it_is_not_done_again(study):
    texts = Path("data/text/train.txt")
    texts.rename("data/text/gone.txt")
    given = recipes.given("depth-50-recovered-int8")
    with pytest.raises(InputError, match=r"data/text/train\.txt: no such file"):
        made("depth-50-recovered-int8", given)
    assert sorted(path.name for path in Path("models").iterdir()) == ["calibration", "dense"] and left_behind() == []
    Path("data/text/gone.txt").rename(texts)
    made("depth-50-recovered-int8", given)
    assert study == ["depth-50", "depth-50-recovered", "depth-50-recovered", "depth-50-recovered-int8"]
    assert left_behind() == []
    assert not [path for path in kept.FOLDER.iterdir() if path.is_dir()], "no other row begins so: it went"


def test_what_a_recipe_needs_and_does_not_have_is_told_in_one_line(study):
    given = recipes.given("depth-50", "dense-average")
    with pytest.raises(InputError, match="depth-50: ranks by influence, which needs calibration text"):
        made("depth-50", given._replace(calibration=None))
    Path("models/dense/history/average.safetensors").unlink()
    with pytest.raises(InputError, match="no such file, so there is no dense-average; take it out of prune.further"):
        made("dense-average", given)
    assert sorted(path.name for path in Path("models").iterdir()) == ["calibration", "dense"]


@pytest.mark.parametrize(
    ("identifier", "line"),
    [
        ("depth-50", "depth-50: 50.00% of the prunable parameters are zero or gone; "),
        ("magnitude-60-recovered", "magnitude-60-recovered: validation loss "),
        ("dense-int8", "dense-int8: 17 layers in int8, "),
        ("dense-bf16", "dense-bf16: bf16, "),
        ("dense-best", "dense-best: the dense model with best/model.safetensors\n"),
        ("dense-small", "dense-small: trained from scratch\n"),
    ],
)
def test_the_stage_says_in_a_line_what_it_made_and_books_what_it_used(study, monkeypatch, capsys, identifier, line):
    further = {"depth-50", "magnitude-60-recovered", identifier}
    monkeypatch.setattr(stage.given.params, "load", lambda: recipes.settings(*further))
    folders = ["--dense", "models/dense", "--calibration", "models/calibration", "--data", "data"]
    stage.main([identifier, *folders, "--out", f"models/{identifier}", "--energy", "energy.json"])
    assert capsys.readouterr().out.splitlines(keepends=True)[-1].startswith(line)
    assert json.loads(Path("energy.json").read_text())["name"] == f"further-{identifier}"
