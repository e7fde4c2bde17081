"""Settings of smaller models: what is wrong is named, and recovered variants are rows of their own."""

from pathlib import Path

import pytest

from prunelab.errors import InputError
from prunelab.study import params

TEXT = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
STRUCTURE = TEXT.index("\nstructure:")
RECOVER = TEXT.index("\nrecover:")
RUNTIMES = TEXT.index("\nruntimes:")


def load(tmp_path, structured="", recovered="", floor="", measured="", exported="null", replicas="[]"):
    """params.yaml with these lists in place of the empty ones."""
    text = TEXT[:STRUCTURE] + TEXT[STRUCTURE:RECOVER].replace("variants: []", f"variants: [{structured}]").replace(
        "floor: []", f"floor: [{floor}]"
    )
    text += TEXT[RECOVER:RUNTIMES].replace("variants: []", f"variants: [{recovered}]")
    text += (
        TEXT[RUNTIMES:]
        .replace("variants: []", f"variants: [{measured}]")
        .replace("variant: null", f"variant: {exported}")
    )
    text = text.replace("replicas: []", f"replicas: {replicas}", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return params.load(tmp_path / "params.yaml")


def test_structured_and_recovered_variants_follow_the_others(tmp_path):
    found = load(tmp_path, "mlp-width-norms-50, mlp-width-history-30", "mlp-width-norms-50, magnitude-50")
    assert [variant.id for variant in found.variants()][-4:] == [
        "mlp-width-norms-50",
        "mlp-width-history-30",
        "mlp-width-norms-50-recovered",
        "magnitude-50-recovered",
    ]
    last = found.variants()[-2]
    assert (last.method, last.rate, last.dense) == ("mlp-width-norms-recovered", "50", "dense")


def test_the_floor_is_a_reference(tmp_path):
    found = load(tmp_path, "mlp-width-norms-50", floor="mlp-width-norms-50", measured="dense, dense-small")
    assert "dense-small" in found.references()


def test_further_seeds_repeat_only_what_the_graph_repeats(tmp_path):
    with pytest.raises(InputError, match="replicas: repeat prune.methods only, and mlp-width-norms-50 stands beside"):
        load(tmp_path, "mlp-width-norms-50", replicas="[s2]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"structured": "mlp-widht-30"},
            ["structure.variants.0", "no structure 'mlp-widht'", "did you mean 'mlp-width'"],
        ),
        ({"structured": "mlp-width"}, ["'mlp-width' is not a variant"]),
        ({"structured": "depth-random-sigma50"}, ["expected <structure>-<percent>"]),
        ({"structured": "mlp-width-30"}, ["calibrate: mlp-width-30 looks at calibration text"]),
        ({"recovered": "magnitud-50"}, ["recover.variants: 'magnitud-50' is not in this study", "'magnitude-50'"]),
        ({"floor": "depth-random-50"}, ["structure.floor: 'depth-random-50' is not in this study"]),
        ({"measured": "dence"}, ["runtimes.variants: 'dence' is not in this study (did you mean 'dense'?)"]),
        ({"exported": "magnitude-51"}, ["export.variant: 'magnitude-51' is not in this study"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, words):
    with pytest.raises(InputError) as error:
        load(tmp_path, **changes)
    for word in words:
        assert word in str(error.value)


def test_a_structure_among_the_methods_is_sent_to_its_own_section(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT.replace("    - random  ", "    - depth  ", 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"depth makes the model smaller and belongs into structure\.variants"):
        params.load(tmp_path / "params.yaml")
