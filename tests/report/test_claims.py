"""The verdict in words says what the numbers say, and no more."""

import pytest

from prunelab.report import claims, results, verdict
from tests.helpers import synthetic


def told(folder, cost: dict | None = None, monkeypatch=None, **changes):
    if cost:
        monkeypatch.setattr(synthetic, "COST", cost)
    settings = synthetic.settings(folder, prune=synthetic.TWO_METHODS, **changes)
    study = results.read(settings, *synthetic.write(folder, settings))
    found = verdict.groups(study)
    return claims.claims(study, found)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (["20"], "20 %"),
        (["20", "40"], "20 and 40 %"),
        (["20", "40", "50", "60"], "20 to 60 %"),
        (["20", "50", "80"], "20, 50 and 80 %"),
        (["60", "80", "2of4"], "60, 80 % and 2:4"),
        (["sigma112"], "PruneRate 1.12"),
    ],
)
def test_rates_read_as_a_person_writes_them(rates, words):
    assert claims.rate_names(rates, ["20", "40", "50", "60", "80", "2of4"]) == words


def test_figures_are_thinned_evenly_and_keep_the_last():
    assert claims.thinned(list(range(24))) == (2, 5, 8, 11, 14, 17, 20, 23)
    assert claims.thinned([1, 2, 3]) == (1, 2, 3)


def test_history_that_helps_is_said_with_rates_intervals_and_scope(tmp_path):
    history, fall, rise = told(tmp_path)
    assert history.status == "holds"
    assert "`systematic` against `magnitude`: lower loss at 50, 60 and 80 %" in history.answer
    assert "400 windows of text of one trained model: another seed may differ" in history.answer
    assert [rate for rate, _, sign in history.figures if sign < 0] == ["50 %", "60 %", "80 %"]
    assert all("[" in text for _, text, _ in history.figures)
    assert fall.status == "does not hold" and "above dense at 50 and 60 %" in fall.answer
    assert rise.status == "does not hold" and "within 10 % of dense up to 80 %" in rise.answer


def test_history_that_changes_nothing_is_said_so(tmp_path, monkeypatch):
    history, *_ = told(tmp_path, {"magnitude": 1.0, "systematic": 1.0}, monkeypatch)
    assert history.status == "does not hold"
    assert "no difference at" in history.answer and "lower" not in history.answer


def test_history_that_hurts_is_said_so(tmp_path, monkeypatch):
    history, *_ = told(tmp_path, {"magnitude": 0.5, "systematic": 2.0}, monkeypatch)
    assert history.status == "does not hold" and "higher loss at 50, 60 and 80 %" in history.answer


def test_over_seeds_the_scope_is_the_seeds(tmp_path):
    history, *_ = told(tmp_path, seeds=["s1", "s2", "s3"])
    assert "Intervals over 3 training seeds." in history.answer


def test_sparsegpt_is_held_against_wanda_over_calibration_seeds_where_the_model_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "COST", {"wanda": 1.0, "sparsegpt": 0.6})
    fetched = {"start": "fetched", "epochs": 0, "tokenizer": "fetched", "architecture": None, "config": {}}
    model = {"kind": "path", "name": "somewhere"}
    methods = {"methods": ["wanda", "sparsegpt"], "rates": [50, "2of4"], "further": []}
    settings = synthetic.settings(
        tmp_path,
        prune=methods,
        train=fetched,
        fetch={"model": model},
        seeds=["s1", "s2", "s3"],
        calibrate={
            "samples": 8, "length": 64, "seed": 0, "propagate": "dense", "batch_tokens": 512, "precision": "fp32",
            "hidden_states": "memory", "owl_outlier_multiple": 5, "owl_span": 0.08,
        },
    )  # fmt: skip
    study = results.read(settings, *synthetic.write(tmp_path, settings))
    (claim,) = claims.claims(study, verdict.groups(study))
    assert claim.question.startswith("Does SparseGPT") and claim.status == "holds"
    assert (
        "`sparsegpt` against `wanda`: lower loss at 50 % and 2:4. Intervals over 3 calibration seeds." in claim.answer
    )


def test_a_fall_is_told_with_the_controls_that_fell_too(tmp_path, monkeypatch):
    _, fall, _ = told(tmp_path, {"magnitude": -1.0, "systematic": -1.0}, monkeypatch)
    assert fall.status == "holds"
    assert "`dense-average` has −0.7" in fall.answer and "regularisation" in fall.answer


def test_a_sharp_rise_past_seventy_percent_holds_and_an_earlier_one_in_part(tmp_path, monkeypatch):
    *_, rise = told(tmp_path / "late", {"magnitude": 1, "systematic": 1.0}, monkeypatch)
    assert rise.status == "holds" and "more than 10 % above dense from 80 % on" in rise.answer
    *_, rise = told(tmp_path / "early", {"magnitude": 1, "systematic": 5.0}, monkeypatch)
    assert rise.status == "holds in part" and "earlier" in rise.answer


def test_a_study_without_history_makes_no_claim_about_it(tmp_path):
    settings = synthetic.settings(tmp_path, prune={"methods": ["random"], "rates": [50]})
    study = results.read(settings, *synthetic.write(tmp_path, settings))
    assert claims.claims(study, verdict.groups(study)) == []
