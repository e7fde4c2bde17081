"""Further texts and files of questions in a folder of their own, with what they are."""

import hashlib
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from prunelab.data import probes
from prunelab.errors import InputError
from prunelab.study import params
from stages import inputs
from stages import probes as stage
from tests.helpers import studies

ROW = {"query": "one and one is", "choices": ["two", "three"], "gold": 0}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a text, a file of questions beside its licence, and a study that asks both."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/more.txt").write_bytes("café\r\nau lait\n".encode())
    Path("sets").mkdir()
    Path("sets/sums.jsonl").write_text(json.dumps(ROW) + "\n")
    Path("sets/LICENCE").write_text("CC0-1.0\n\nall of it\n")
    write(texts=["more", "arithmetic"], names=["sets/sums.jsonl", "arc_easy"])
    return tmp_path


def write(texts=(), names=()) -> None:
    raw = studies.raw("default")
    raw["fetch"]["texts"]["more"] = {"kind": "path", "name": "mine/more.txt", "licence": "MIT"}
    raw["quality"] |= {"texts": list(texts)}
    raw["quality"]["questions"]["names"] = list(names)
    YAML(typ="safe", pure=True).dump(raw, Path("params.yaml"))


def test_the_stage_leaves_texts_and_questions_and_says_what_they_are(place, capsys):
    stage.main(["--out", "data/probes", "--energy", "results/energy/probes.json"])
    manifest = json.loads(Path("data/probes/manifest.json").read_text())
    more, sums = manifest["texts"]["more"], manifest["texts"]["arithmetic"]
    assert (more["source"]["name"], more["source"]["licence"], more["source"]["kind"]) == (
        "mine/more.txt",
        "MIT",
        "path",
    )
    assert more["text"]["bytes"] == len("café\nau lait\n".encode())
    assert sums["source"]["kind"] == "drawn" and sums["text"]["bytes"] >= 60_000
    asked = manifest["questions"]["sets/sums.jsonl"]
    assert asked["sha256"] == hashlib.sha256(Path("sets/sums.jsonl").read_bytes()).hexdigest()
    assert asked["licence"] == "CC0-1.0" and asked["bytes"] == Path("sets/sums.jsonl").stat().st_size
    assert set(manifest["questions"]) == {"sets/sums.jsonl"}, "lm-eval brings its own data"
    assert probes.text_of("data/probes", "more") == "café\nau lait\n"
    assert probes.tasks("data/probes", ["sets/sums.jsonl", "arc_easy"]) == [
        "data/probes/questions/sums.jsonl", "arc_easy",
    ]  # fmt: skip
    assert json.loads(Path("results/energy/probes.json").read_text())["name"] == "probes"
    assert "more: path mine/more.txt, 14 bytes" in capsys.readouterr().out


def test_another_text_makes_nothing_of_the_others_new(place):
    write(texts=["arithmetic"])
    stage.main(["--out", "data/probes"])
    before = probes.hashes("data/probes", ["arithmetic"], [])
    write(texts=["arithmetic", "more"])
    stage.main(["--out", "data/probes"])
    after = probes.hashes("data/probes", ["arithmetic", "more"], [])
    assert after["arithmetic"] == before["arithmetic"] and set(after) == {"arithmetic", "more"}


def test_a_study_that_asks_nothing_more_has_an_empty_manifest_and_needs_no_folder(place, capsys):
    write()
    stage.main(["--out", "data/probes"])
    assert json.loads(Path("data/probes/manifest.json").read_text()) == {"texts": {}, "questions": {}}
    assert "nothing is asked" in capsys.readouterr().out
    assert probes.hashes("nowhere", [], ["arc_easy"]) == {}


def test_what_is_not_in_the_folder_is_told_with_the_stage_that_brings_it(place):
    with pytest.raises(InputError, match=r"nowhere/manifest\.json: no such file; run the stage probes first"):
        probes.hashes("nowhere", ["more"], [])
    write(texts=["more"])
    stage.main(["--out", "data/probes"])
    with pytest.raises(InputError, match=r"data/probes: expected sets/sums\.jsonl of quality\.questions, found none"):
        probes.hashes("data/probes", ["more"], ["sets/sums.jsonl"])
    with pytest.raises(InputError, match=r"data/probes: expected code of quality\.texts, found more; run the stage pr"):
        probes.hashes("data/probes", ["code"], [])


def test_a_failed_stage_leaves_what_was_there(place):
    stage.main(["--out", "data/probes"])
    before = Path("data/probes/manifest.json").read_bytes()
    Path("sets/sums.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"sets/sums\.jsonl, line 1: expected \{query, choices, gold\}"):
        stage.main(["--out", "data/probes"])
    assert Path("data/probes/manifest.json").read_bytes() == before
    assert [path.name for path in Path("data").iterdir()] == ["probes"]


def test_a_folder_of_texts_that_would_hold_its_own_copy_is_refused(place):
    raw = studies.raw("default")
    raw["fetch"]["texts"]["more"] = {"kind": "path", "name": "."}
    raw["quality"]["texts"] = ["more"]
    YAML(typ="safe", pure=True).dump(raw, Path("params.yaml"))
    with pytest.raises(InputError, match=r"\.: expected a folder of texts, found that data/probes"):
        stage.main(["--out", "data/probes"])


def test_the_stage_inputs_writes_down_what_the_stage_probes_takes_from_this_disk(place):
    inputs.main(["--out", "data/inputs"])
    known = json.loads(Path("data/inputs/probes.json").read_text())
    assert set(known["texts"]) == {"more"} and set(known["questions"]) == {"sets/sums.jsonl"}
    sources = Path("data/inputs/sources.json").read_bytes()
    Path("mine/more.txt").write_text("another")
    inputs.main(["--out", "data/inputs"])
    assert json.loads(Path("data/inputs/probes.json").read_text())["texts"] != known["texts"]
    assert Path("data/inputs/sources.json").read_bytes() == sources, "the stage fetch must not run for it"


def test_the_default_s_texts_can_be_brought_and_say_their_licence():
    settings = params.of_raw(studies.raw("default"), "p")
    assert settings.quality.texts == [] and set(settings.fetch.texts) == {
        "plays", "code", "dialogue", "romance", "arithmetic",
    }  # fmt: skip
