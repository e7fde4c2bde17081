"""Everything that decides a result is in its key: what could change makes it run again, or is refused in one line.

docs/keys.md is the list; each row names the test here (or elsewhere) that holds it.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunelab.calibration.calibration import Calibration
from prunelab.data import inputs
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.pruning import pruning
from prunelab.pruning.decisions import Plan
from prunelab.recipes import variants
from prunelab.recovery import recovery
from prunelab.study import params, sections
from prunelab.tasks import language
from prunelab.tasks.language import lessons
from prunelab.training import training
from stages import probes
from tests.helpers import imports, recipes, tiny
from tests.pipeline.test_pipeline import graph
from tests.quality.test_reference import (  # noqa: F401 (a fixture)
    ROOT,
    run_control,
    run_quality,
    run_reference,
    settings,
    study,
)
from tests.training.test_training import place, write_settings  # noqa: F401 (a fixture)


def source(**known):
    return params.Text(**{"kind": "path"} | known)


def fetch(**parts):
    return {"text": None, "calibration": None, "model": None} | parts


def test_a_local_text_is_known_by_its_content_and_not_by_its_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the king")
    wanted = fetch(text=source(name="texts"), calibration=source(name="texts/a.txt"))
    before = inputs.of_sources(wanted)
    (tmp_path / "texts" / "a.txt").touch()
    (tmp_path / "texts" / ".hidden.txt").write_text("not read, so not known")
    assert inputs.of_sources(wanted) == before and before["model"] is None
    (tmp_path / "texts" / "a.txt").write_text("the Xing")  # of the same length
    changed = inputs.of_sources(wanted)
    assert changed["text"] != before["text"] and changed["calibration"] != before["calibration"]
    (tmp_path / "texts" / "b.txt").write_text("one more")
    assert inputs.of_sources(wanted)["text"] != changed["text"]


def test_a_local_model_is_known_by_the_files_that_are_taken_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.published(tmp_path / "model")
    wanted = fetch(model=params.Source(kind="path", name="model"))
    before = inputs.of_sources(wanted)["model"]
    (tmp_path / "model" / "README.md").write_text("not taken")
    assert inputs.of_sources(wanted)["model"] == before
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"a"', '"ä"'))
    assert inputs.of_sources(wanted)["model"] != before


def test_a_local_file_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mine.txt: expected a file or folder, found nothing there"):
        inputs.of_sources(fetch(text=source(name="mine.txt")))
    with pytest.raises(InputError, match="questions/x.jsonl: expected a file or folder, found nothing there"):
        inputs.of_questions(["questions/x.jsonl", "arc_easy"])


def test_what_is_no_question_and_no_glob_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"query": "the king", "choices": ["a"], "gold": 0}\n')
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: expected `choices` to be a list of at least two"):
        inputs.of_questions(["x.jsonl"])
    with pytest.raises(InputError, match="files: expected a glob inside ."):
        inputs.of_sources(fetch(text=source(name=".", files="/texts/*.txt")))


def test_what_a_recipe_leaves_open_is_known_to_the_stage_that_makes_it(tmp_path, monkeypatch):
    from stages import inputs as stage

    monkeypatch.chdir(tmp_path)
    known = []
    for further in (
        ["dense-small", "depth-25"],
        ["dense-small", "depth-25", "mlp-width-50", "dense-best"],  # behind the first
        ["dense-small", "mlp-width-50", "depth-25"],
        ["dense-small", "mlp-width-50", "depth-25-recovered"],
        ["mlp-width-50", "depth-25-recovered"],
    ):
        monkeypatch.setattr(stage.params, "load", lambda further=further: recipes.settings(*further))
        stage.main(["--out", "data/inputs"])
        known.append(Path("data/inputs/recipes.json").read_text())
    assert known[0] == known[1] and len(set(known)) == 4
    assert "data/inputs/recipes.json" in graph()["further"]["deps"]


def test_whose_times_a_quantised_row_takes_over_is_known_to_the_stage_that_measures(tmp_path, monkeypatch):
    """A file a row, so that another row in the study has nothing measured again but what it decides."""
    from stages import inputs as stage

    monkeypatch.chdir(tmp_path)
    known = []
    for further in (["magnitude-50-int8", "depth-25"], ["magnitude-50-int8", "depth-25", "dense-int8"]):
        monkeypatch.setattr(stage.params, "load", lambda further=further: recipes.settings(*further))
        stage.main(["--out", "data/inputs"])
        known.append({path.stem: read_json(path)["timed_as"] for path in Path("data/inputs/timed").glob("*.json")})
    assert known[0] == dict.fromkeys(("dense", "magnitude-50", "depth-25", "magnitude-50-int8"))
    assert known[1] == known[0] | {"dense-int8": None, "magnitude-50-int8": "dense-int8"}
    assert "data/inputs/timed/${item.variant}.json" in graph()["efficiency-further"]["deps"]


def test_an_edited_file_of_questions_is_refused_until_dense_is_asked_again(study):  # noqa: F811
    rows = [{"query": "ab", "choices": ["c d", "e f"], "gold": 0} for _ in range(4)]
    Path("questions").mkdir()
    Path("questions/x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings(questions={"names": ["questions/x.jsonl"], "limit": None, "shots": None, "chat": False})
    probes.main(["--out", "data/probes"])
    run_reference()
    Path("questions/x.jsonl").write_text("".join(json.dumps(row | {"gold": 1}) + "\n" for row in rows))
    run_quality("x-50", "variant")  # asked what dense was asked, until the stage probes brings the other file
    probes.main(["--out", "data/probes"])
    with pytest.raises(InputError, match="questions/x.jsonl is not the file that dense was asked; run the reference"):
        run_quality("x-50", "variant")
    run_reference()
    run_quality("x-50", "variant")


def test_an_edited_text_is_refused_until_dense_reads_it_again(study):  # noqa: F811
    Path("more.txt").write_text("a bc. " * 200)
    settings(texts=["more"], further_texts={"more": {"kind": "path", "name": "more.txt"}})
    probes.main(["--out", "data/probes"])
    run_reference()
    Path("more.txt").write_text("cb a. " * 200)
    probes.main(["--out", "data/probes"])
    with pytest.raises(InputError, match=r"quality\.texts: more is not the file that dense was asked; run the refer"):
        run_quality("x-50", "variant")
    run_reference()
    run_quality("x-50", "variant")


def test_what_is_asked_hangs_on_the_stage_probes_and_decides_judging_alone():
    stages = graph()
    assert {name for name, stage in stages.items() if "data/probes" in stage["deps"]} == {
        "reference", "quality", "quality-further", "cells",
    }  # fmt: skip
    for name, stage in stages.items():
        told = [one for one in imports.settings_of(stage) if one.split(".")[0] in ("quality", "fetch")]
        if name in ("train", "calibrate", "prune", "further", "efficiency", "efficiency-dense", "efficiency-further"):
            assert not told, name
        if name == "fetch":  # sources of further texts are no part of it
            assert told == ["fetch.text", "fetch.split", "fetch.calibration", "fetch.model"]
    assert stages["probes"]["deps"][0] == "data/inputs/probes.json" and stages["inputs"]["always_changed"]


def test_a_local_text_and_a_file_of_questions_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("the king")
    further = {"more": params.FurtherText(kind="path", name="more.txt")}
    further["sums"] = params.FurtherText(kind="drawn", name="arithmetic", seed=1)
    before = inputs.of_texts(further)
    (tmp_path / "more.txt").write_text("the Xing")
    after = inputs.of_texts(further)
    assert set(before) == set(after) == {"more"} and before != after


def test_a_variant_of_another_dense_model_is_refused(study):  # noqa: F811
    run_reference()
    for folder, known in (("variant", "0" * 64),):
        Path(f"models/{folder}/sparsity.json").write_text(json.dumps({"dense_sha256": known}))
    with pytest.raises(InputError, match="x-50: was made of another dense model than the one it would be compared"):
        run_quality("x-50", "variant")
    weights = load_file("models/dense/model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, "models/dense/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="dense-best: was made of another dense model"):
        run_control("dense-best")


def test_figures_of_another_version_of_the_libraries_do_not_compare(study, monkeypatch):  # noqa: F811
    from prunelab.quality import reference

    run_reference()
    monkeypatch.setattr(reference, "libraries", lambda: {"torch": "9.9.9"})
    with pytest.raises(InputError, match="torch is 9.9.9, but the reference was made with 2"):
        run_quality("x-50", "variant")


def test_statistics_of_another_model_or_checkpoint_are_refused(tmp_path):
    one = tiny.dense_folder(tmp_path / "one", tiny.gpt2(0))
    other = tiny.dense_folder(tmp_path / "other", tiny.gpt2(1))
    from prunelab.models.tensors import identity

    (tmp_path / "calibration").mkdir()
    facts = {"hash": "x", "dense_sha256": identity(one), "checkpoint": "last"}
    (tmp_path / "calibration" / "calibration.json").write_text(json.dumps(facts))
    seen = Calibration(tmp_path / "calibration")
    seen.require_same_model(one, "wanda-50", "last")
    plan = Plan(variants.parse("wanda-50"), "uniform", "blocks", "last", 0)
    with pytest.raises(InputError, match="wanda-50: .*calibration was calibrated on another model than .*other"):
        pruning.prune(other, tmp_path / "out", plan, seen)
    with pytest.raises(InputError, match="best checkpoint.; calibrate again"):
        pruning.prune(one, tmp_path / "out", plan._replace(checkpoint="best"), seen)


def test_a_variant_says_of_which_dense_model_it_is_also_when_it_was_recovered(tmp_path):
    from prunelab.models.tensors import identity

    dense = tiny.dense_folder(tmp_path / "dense", tiny.gpt2())
    plan = Plan(variants.parse("magnitude-50"), "uniform", "blocks", "last", 0)
    assert pruning.prune(dense, tmp_path / "magnitude-50", plan)["dense_sha256"] == identity(dense)
    text = torch.randint(40, (2000,), generator=torch.Generator().manual_seed(0))
    wanted = recovery.Plan(64, "data", "full", 8, 1e-3, 0.1, 2, 16, 0)
    recovery.recover(
        tmp_path / "magnitude-50",
        dense,
        tmp_path / "again",
        "magnitude-50-recovered",
        wanted,
        lessons.of_tokens(text, text[:32].view(2, 16), 64, 2, 16, 0),
    )
    assert json.loads((tmp_path / "again" / "sparsity.json").read_text())["dense_sha256"] == identity(dense)


def fingerprint(place, **train):  # noqa: F811
    settings = write_settings(place, **train)
    return training._fingerprint(settings, 1, language.files(settings, place / "data"), ())


def test_the_name_of_a_training_changes_with_every_text_and_setting(place):  # noqa: F811
    names = [fingerprint(place), fingerprint(place, learning_rate=2e-3), fingerprint(place, precision="bf16")]
    for part in ("train", "validation", "test"):  # the letters of the test text are in the alphabet
        text = place / "data" / "text" / f"{part}.txt"
        text.write_text(text.read_text() + "?")
        names.append(fingerprint(place))
    assert len(set(names)) == len(names)


def test_how_often_checkpoints_are_shared_is_no_part_of_a_trainings_name(place):  # noqa: F811
    assert fingerprint(place, share_minutes=3) == fingerprint(place, share_minutes=None)


def test_the_stages_that_read_settings_of_training_name_all_of_them_but_how_often_checkpoints_are_shared():
    decisive = {f"train.{key}" for key in sections.Train.model_fields} - {"train.share_minutes"}
    for name in ("train", "prune", "further"):
        (named,) = [set(one["params.yaml"]) for one in graph()[name]["params"] if isinstance(one, dict)]
        assert named == decisive and "train" not in graph()[name]["params"]


def test_the_name_of_a_fine_tuning_changes_with_the_base_model_and_its_tokenizer(place):  # noqa: F811
    fetched = {"start": "fetched", "tokenizer": "fetched", "architecture": None, "config": {}}
    model = tiny.published(place / "data" / "model")
    (model / "manifest.json").write_text("{}")
    before = fingerprint(place, **fetched)
    (model / "manifest.json").write_text('{"fetched": "on another day"}')
    assert fingerprint(place, **fetched) == before
    weights = load_file(model / "model.safetensors")
    save_file({name: value * 0.25 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    other = fingerprint(place, **fetched)
    tokenizer = model / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"a"', '"ä"'))
    assert len({before, other, fingerprint(place, **fetched)}) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_model_is_fine_tuned_with_fp32_weights_and_stored_as_it_came(place, dtype):  # noqa: F811
    """With 16-bit weights nearly every update of this size would be rounded away."""
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    same = {"start": "fetched", "tokenizer": "fetched", "architecture": None, "config": {}, "precision": "fp32"}
    same |= {"learning_rate": 1e-5, "min_learning_rate": 1e-6, "epochs": 2}
    trained = {}
    for kind in (dtype, torch.float32):
        shutil.rmtree(place / "data" / "model", ignore_errors=True)
        model = tiny.published(place / "data" / "model", dtype=dtype, **settings, num_key_value_heads=2)
        if kind == torch.float32:  # the same values, stored wider
            weights = {name: value.float() for name, value in load_file(model / "model.safetensors").items()}
            save_file(weights, model / "model.safetensors", {"format": "pt"})
        (out := place / f"dense-{kind}").mkdir()
        training.run(write_settings(place, **same), language, place / "data", out, seed=1)
        trained[kind] = load_file(out / "model.safetensors")
        assert checkpoint.load(out).dtype == kind
        assert load_file(out / "best" / "model.safetensors")[NAME].dtype == kind
        averages = load_file(out / "history" / "average.safetensors")
        assert averages[NAME].dtype == torch.float32
    for name, value in trained[torch.float32].items():
        assert torch.equal(value.to(dtype), trained[dtype][name]), name


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral"])
def test_average_and_best_are_whole_where_files_name_tensors_otherwise(place, architecture):  # noqa: F811
    """GPT-NeoX stores its head as embed_out, Mixtral one tensor for every expert."""
    config = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"mixtral": {"num_local_experts": 4, "num_key_value_heads": 2}}.get(architecture, {})
    settings = write_settings(
        place, architecture=architecture, config={**config, **more, "max_position_embeddings": 16}, epochs=2
    )
    (dense := place / "dense").mkdir()
    training.run(settings, language, place / "data", dense, seed=1)
    final = dict(checkpoint.load(dense).named_parameters())
    averages, best = (load_file(dense / name) for name in ("history/average.safetensors", "best/model.safetensors"))
    assert set(averages) == set(best) == set(final)
    plan = Plan(variants.parse("average-magnitude-50"), "uniform", "blocks", "last", 0)
    pruning.prune(dense, place / "pruned", plan)
    prunable = {entry["name"] for entry in json.loads((dense / "prunable.json").read_text())}
    for name, parameter in checkpoint.load(place / "pruned").named_parameters():
        if name in prunable:
            assert bool(((parameter == averages[name]) | (parameter == 0)).all()), name
        else:
            assert torch.equal(parameter, averages[name]) and not torch.equal(parameter, final[name]), name
    from prunelab.making import steps
    from prunelab.making.given import Given
    from prunelab.structure import removal

    steps.unpruned(Given(settings, "s1", dense), variants.parse("dense-best"), place / "dense-best")
    put = checkpoint.load(place / "dense-best")
    loaded = removal._load(dense, "best")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, best[name]) and torch.equal(dict(put.named_parameters())[name], best[name])
