"""studies/opt-125m.yaml from fetch to the reproduction table, on a small random OPT that is published as OPT is."""

import gzip
import json

import pytest
import torch
from ruamel.yaml import YAML

from stages import (
    calibrate,
    device,
    efficiency,
    export,
    fetch,
    probes,
    prune,
    quality,
    recommend,
    reference,
    report,
    train,
)
from tests.helpers import decoders, studies

WORDS = "the of and to in that is was with for his her their from which had not but all one were this they"
WORDS = WORDS.split()


def published_model(folder):
    """A random OPT with a vocabulary of words, half precision, pickled."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    model = decoders.random_model("opt").half()
    model.config.dtype = "float16"
    model.config.save_pretrained(folder)
    torch.save(
        {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"},
        folder / "pytorch_model.bin",
    )


def texts(folder):
    """WikiText's three Parquet files, and C4's gzipped JSON lines."""
    import pyarrow
    from pyarrow import parquet

    generator = torch.Generator().manual_seed(0)

    def line(length=60):
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist())

    (folder / "wikitext").mkdir(parents=True)
    for part in ("train", "validation", "test"):
        rows = ["", *(line() for _ in range(12))]
        parquet.write_table(pyarrow.table({"text": rows}), folder / "wikitext" / f"{part}-00000-of-00001.parquet")
    with gzip.open(folder / "c4.json.gz", "wt") as file:
        file.writelines(json.dumps({"text": line()}) + "\n" for _ in range(20))


def settings(folder) -> None:
    """The study with its sources on this disk, and everything a model of 48 positions cannot have made smaller."""
    yaml = YAML(typ="safe", pure=True)
    study = studies.raw("opt-125m")
    study["fetch"]["text"] = {"kind": "path", "name": str(folder / "wikitext"), "files": "*.parquet"}
    study["fetch"]["calibration"] = {"kind": "path", "name": str(folder / "c4.json.gz"), "max_documents": 15}
    study["fetch"]["model"] = {"kind": "path", "name": str(folder / "facebook" / "opt-125m")}
    study["train"]["context"] = 24
    study["calibrate"] |= {"samples": 6, "length": 32, "batch_tokens": 64}
    study["prune"]["rates"] = [50]
    study["quality"] |= {"context": 24, "kl_windows": 4, "batch_tokens": 96, "bootstrap_draws": 200}
    study["quality"]["robustness"]["texts"] = 0
    study["quality"]["samples"]["prompts"] = []
    study["quality"]["questions"]["names"] = []  # its tokenizer knows twenty words
    study["efficiency"] |= {"seconds": 0.05, "prompt_tokens": [8], "output_tokens": 3}
    study["energy"] |= {"seconds": 0.05, "window_seconds": 0.01, "idle_seconds": 0.01}
    study["prune"]["further"] = []
    study["export"]["onnx"] = False
    yaml.dump(study, folder / "params.yaml")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of the study after its stages, called one after the other as dvc.yaml does."""
    folder = tmp_path_factory.mktemp("opt")
    published_model(folder / "facebook" / "opt-125m")
    texts(folder)
    settings(folder)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)

    def run(stage, *words):
        stage.main([word for part in words for word in part.split()])

    try:
        run(device, "--out results/device.json")
        run(fetch, "--out data/fetched")
        run(probes, "--out data/probes")
        run(train, "--data data/fetched --out models/s1/dense")
        run(reference, "--dense models/s1/dense --data data/fetched --out results/s1/dense")
        run(calibrate, "--dense models/s1/dense --data data/fetched --out models/s1/calibration")
        ids = ("magnitude-50", "wanda-50", "sparsegpt-50")
        for name in ids:
            run(prune, f"{name} --dense models/s1/dense --calibration models/s1/calibration --out models/s1/{name}")
            run(quality, f"{name} --model models/s1/{name} --reference results/s1/dense --out results/s1/{name}")
        for name in ("dense", "magnitude-50"):  # the other masks do the same work
            session = "" if name == "dense" else "--session results/s1/dense/efficiency.json"
            common = f"--model models/s1/{name} --dense models/s1/dense --device results/device.json"
            common += f" --out results/s1/{name}"
            run(efficiency, name, common, session)
        run(recommend, "--results results --models models --out report")
        common = "--results results --models models --recommendation report/recommendation.json"
        run(export, f"{common} --out models/best")
        run(report, f"{common} --out report")
    finally:
        patch.undo()
    return folder


@pytest.mark.slow
def test_the_reproduction_table_stands_beside_the_published_figures(study):
    page = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert "Published figures beside ours" in page
    for figure in ("27.66", "193.4", "36.7–36.9", "39.3"):  # dense, magnitude, SparseGPT, Wanda at 50 %
        assert figure in page
    assert "Not comparable as they stand" in page  # our windows are short, and the text is no WikiText


@pytest.mark.slow
def test_every_figure_tells_the_calibration_it_was_made_with(study):
    drawn = json.loads((study / "models" / "s1" / "calibration" / "calibration.json").read_text())
    assert drawn["source"] == "calibration" and drawn["propagate"] == "pruned" and drawn["samples"] == 6
    for name in ("wanda-50", "sparsegpt-50"):
        record = json.loads((study / "models" / "s1" / name / "sparsity.json").read_text())
        assert record["calibration"]["hash"] == drawn["hash"]
        assert record["sparsity_pruned"] == pytest.approx(0.5, abs=1e-3)
    assert json.loads((study / "models" / "s1" / "magnitude-50" / "sparsity.json").read_text())["calibration"] is None


@pytest.mark.slow
def test_the_model_stays_in_the_precision_it_was_published_in(study):
    from prunelab.models import checkpoint

    assert checkpoint.load(study / "models" / "s1" / "sparsegpt-50").dtype == torch.float16
    assert checkpoint.load(study / "models" / "best").dtype == torch.float16
