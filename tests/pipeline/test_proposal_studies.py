"""studies/proposal.yaml and studies/llama-1b.yaml: valid, and judged with both lengths of window, on small random
models of both families."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch.nn import functional

from prunelab.study import params
from stages import probes, quality, reference
from tests.helpers import decoders, studies, tiny
from tests.pipeline.test_opt_study import WORDS

CONTEXT, OTHER = 24, 12


def test_the_proposal_s_rows_are_in_its_study():
    study = params.of_raw(studies.raw("proposal"), "p")
    rows = {variant.id for variant in study.variants()}
    rates = range(10, 70, 10)
    assert {f"{method}-{rate}" for method in ("magnitude", "wanda") for rate in rates} <= rows
    assert study.quality.context == 2048 and study.quality.also_contexts == [128]
    assert study.quality.max_windows is None and len(study.quality.samples.prompts) == 8
    assert study.fetch.model.name == "facebook/opt-350m" and "c4" in study.fetch.calibration.name


def test_neurons_by_all_three_importances_are_in_the_study_of_llama():
    study = params.of_raw(studies.raw("llama-1b"), "p")
    rows = {variant.id for variant in study.variants()}
    importances, rates = ("norms", "variance", "maxabs"), range(10, 50, 10)
    assert {f"mlp-width-{one}-{rate}" for one in importances for rate in rates} <= rows
    assert {"magnitude-50", "wanda-50"} <= rows and study.fetch.model.name == "meta-llama/Llama-3.2-1B"


def published(folder: Path, architecture: str, seed: int) -> None:
    """A random model as the stages leave one, with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny.dense_folder(folder, decoders.random_model(architecture, seed))
    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def settings(name: str) -> None:
    raw = studies.raw(name)
    raw["quality"] |= {"context": CONTEXT, "also_contexts": [OTHER], "kl_windows": 2, "batch_tokens": 96}
    raw["quality"] |= {"bootstrap_draws": 200, "texts": ["arithmetic"], "texts_windows": 3}
    raw["quality"]["robustness"]["texts"] = 0
    raw["quality"]["samples"] |= {"prompts": raw["quality"]["samples"]["prompts"][:2], "tokens": 3, "chat": True}
    raw["quality"]["questions"]["names"] = []
    YAML(typ="safe", pure=True).dump(raw, Path("params.yaml"))


def plain_loss(folder: str, ids: list[int], context: int) -> float:
    """Mean nats a token over whole windows, by transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    windows = torch.tensor(ids[: len(ids) // context * context]).view(-1, context)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


@pytest.mark.parametrize(("name", "architecture"), [("proposal", "opt"), ("llama-1b", "llama")])
def test_a_model_is_judged_in_the_proposal_s_windows_and_in_the_field_s(tmp_path, monkeypatch, name, architecture):
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("models/dense", 0), ("models/other", 1)):
        published(Path(folder), architecture, seed)
    numbers = np.random.default_rng(0).integers(len(WORDS), size=250).tolist()
    Path("data/fetched/text").mkdir(parents=True)
    Path("data/fetched/text/test.txt").write_text(" ".join(WORDS[number] for number in numbers))
    ids = [number + 1 for number in numbers]  # 0 is the unknown word
    settings(name)
    probes.main(["--out", "data/probes"])
    reference.main(["--dense", "models/dense", "--data", "data/fetched", "--out", "results/dense"])
    quality.main(["wanda-50", "--model", "models/other", "--reference", "results/dense", "--out", "results/wanda-50"])
    for variant, folder in (("dense", "models/dense"), ("wanda-50", "models/other")):
        found = json.loads(Path(f"results/{variant}/quality.json").read_text())
        (other,) = found["also_contexts"]
        assert found["windows"] == 250 // CONTEXT and other["windows"] == 250 // OTHER
        assert found["loss"] == pytest.approx(plain_loss(folder, ids, CONTEXT), abs=1e-4)
        assert other["loss"] == pytest.approx(plain_loss(folder, ids, OTHER), abs=1e-4)
        assert other["perplexity"] == pytest.approx(np.exp(other["loss"]))
        assert [one["text"] for one in found["texts"]] == ["arithmetic"] and len(found["samples"]) == 2
