"""Settings: what is wrong is named in one line, with what is allowed and the nearest match."""

from pathlib import Path

import pytest

from prunelab import params
from prunelab.errors import InputError

ROOT = Path(__file__).parent.parent
RATES = "rates: [20, 40, 50, 60, 80]"


@pytest.fixture
def text():
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "studies").glob("*.yaml"))], ids=lambda p: p.name
)
def test_every_study_that_is_shipped_is_valid(path):
    assert params.load(path).variants()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 20", "epoch: 20", ["train.epoch:", "did you mean 'epochs'"]),
        ("  scope: blocks", "  scoop: blocks", ["prune.scoop:", "did you mean 'scope'"]),
        (RATES, "rates: [20, 0]", ["prune.rates.1:", "0 is not a rate", "1 to 99"]),
        (RATES, "rates: [100]", ["prune.rates.0:", "100 is not a rate"]),
        (RATES, "rates: [-5]", ["-5 is not a rate"]),
        (RATES, "rates: [fifty]", ["'fifty' is not a rate", "whole number of percent"]),
        (RATES, "rates: [0.5]", ["0.5 is not a rate"]),
        (RATES, "rates: [50, 40, 50]", ["prune.rates:", "50 stands there twice"]),
        (RATES, "rates: ['2:4']", ["written 2of4"]),
        (RATES, "rates: [sigma112]", ["sigma112", "allowed: sigma"]),
        ("- magnitude  ", "- magnitud  ", ["prune.methods.1:", "did you mean 'magnitude'", "allowed: random"]),
        ("start: random", "start: fetchd", ["train.start:", "'random' or 'fetched'", "'fetchd'"]),
        ("epochs: 20 ", "epochs: many ", ["train.epochs:", "'many'"]),
        ("epochs: 20 ", "epochs: 0 ", ["train", "epochs: 0"]),
    ],
)
def test_a_mistake_is_named_in_one_line(text, tmp_path, old, new, words):
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_misspelt_key_is_told_once_not_as_missing_too(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  scope: blocks", "  scoop: blocks"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert "missing" not in str(caught.value)


def test_a_missing_key_is_named(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  scope: blocks", "  #"), encoding="utf-8")
    with pytest.raises(InputError, match=r"prune\.scope: missing"):
        params.load(path)


def test_numbers_are_read_as_yaml_1_2_like_dvc_does(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("1.0e-3", "1e-3"), encoding="utf-8")
    assert params.load(path).train.learning_rate == 1e-3


def test_no_file_and_no_sections_are_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        params.load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="expected sections"):
        params.load(tmp_path / "list.yaml")


def test_replicas_repeat_every_variant_and_reference(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("replicas: []", "replicas: [s2]"), encoding="utf-8")
    settings = params.load(path)
    ids = [variant.id for variant in settings.variants()]
    assert len(ids) == len(set(ids)) == 2 * 4 * 5
    assert "systematic-50-s2" in ids and "dense-average-s2" not in ids
    assert "dense-s2" in settings.references()
    assert settings.seed_of("s2") == 2 and settings.seed_of(None) == settings.seed
