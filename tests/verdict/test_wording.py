"""The sentences: they say what was planted, no more, and what is missing."""

import pytest

from prunelab.errors import InputError
from prunelab.verdict import findings, wording
from prunelab.verdict.cells import PAST_BEST
from tests.helpers import cells as planted


def better(name: str) -> float:
    """History saves 0.015 nats wherever it ranks, averaged weights cost 0.05."""
    return planted.alike(name) - 0.015 * name.startswith("systematic") + 0.05 * ("average" in name)


def over_fitted(name: str) -> float:
    """Pruning saves up to 0.3 nats at 60 %, but stopping in time saves 0.5, and so does the best checkpoint pruned."""
    if name == "dense-best" or name.startswith("best"):
        return -0.5 + planted.alike(name)
    if "-" not in name or name.startswith("dense"):
        return 0.0
    rate = next(int(word) for word in name.split("-") if word.isdigit())
    return -0.005 * min(rate, 60) + 0.04 * max(0, rate - 62)


def found(tmp_path, early=planted.alike, late=planted.alike, **changes):
    planted.write(tmp_path, "verdict", early, **changes)
    planted.write(tmp_path, "verdict-past-best", late, **changes)
    return findings.find("verdict", tmp_path)


def by_question(found) -> dict:
    names = ("falls", "reason", "sharp", "ranks", "averages", "threshold", "retrains")
    return dict(zip(names, wording.claims(found), strict=True))


def test_where_nothing_differs_nothing_is_claimed(tmp_path):
    claims = by_question(found(tmp_path))
    for name in ("falls", "reason", "ranks", "averages", "threshold", "retrains"):
        assert claims[name].status == "does not hold", name
    assert "P1 no difference; P2 no difference; P4 no difference" in claims["ranks"].answer
    assert "Stopped in time, `systematic`: above its dense model at 30 to 60 %" in claims["falls"].answer
    assert wording.headline(findings.find("verdict", tmp_path)) == (
        "Weight history ranks weights no better than their final magnitude does; pruning does not lower the loss."
    )


def test_a_better_criterion_is_told_as_one_and_costly_averages_as_such(tmp_path):
    claims = by_question(found(tmp_path, better, better))
    assert claims["ranks"].status == "holds"
    assert "P1 lower loss; P2 lower loss; P4 lower loss" in claims["ranks"].answer
    assert "final weights kept: lower loss at 30 to 80 %" in claims["ranks"].answer
    assert claims["averages"].status == "does not hold" and "P3 higher loss" in claims["averages"].answer
    assert "Averaging alone, nothing pruned: +0.0" in claims["averages"].answer
    assert claims["threshold"].status == "does not hold"


def test_better_in_one_regime_and_worse_in_the_other_is_no_advantage(tmp_path):
    def worse(name: str) -> float:
        return planted.alike(name) + 0.015 * name.startswith("systematic")

    told = found(tmp_path, better, worse)
    assert by_question(told)["ranks"].status == "does not hold"
    assert wording.headline(told).startswith(
        "Ranked by weight history instead of final magnitude, a pruned model has the lower loss in 2 of 3 comparisons "
        "named beforehand, the higher one in 1; "
    )


def test_an_interval_without_zero_that_the_adjusted_test_does_not_bear_out_says_so(tmp_path):
    """Seeds that differ by 0.05 nats: one test of six finds p < 0.05, which six tests at once do not bear out."""

    def wavers(name: str) -> float:
        return 0.035 if name == "systematic-60" else planted.alike(name)

    told = found(tmp_path, planted.alike, wavers, wobble=0.05)
    assert told.answer("P5").effect.lo > 0 and told.answer("P5").p > 0.05
    answer = by_question(told)["reason"].answer
    assert "is not shown to change the loss against that dense model (+" in answer and ", P5, adjusted p 0." in answer


def test_seeds_beyond_all_counting_are_told_as_so_many_or_more(tmp_path):
    assert "would need 10,000 or more seeds instead of 3 for that" in wording.precise(
        found(tmp_path, wobble=3.0, seeds=("s1", "s2", "s3"))
    )


def test_past_its_best_both_things_are_said(tmp_path):
    claims = by_question(found(tmp_path, planted.alike, over_fitted))
    assert claims["falls"].status == "holds in part"  # in one regime and not in the other
    assert "Past its best, `systematic`: below its dense model at 30 to 60 %" in claims["falls"].answer
    assert "against that dense model at 60 %" in claims["falls"].answer
    reason = claims["reason"]
    assert reason.status == "does not hold"
    assert "lowers the loss against that dense model (−0.29" in reason.answer
    assert "it ends above the checkpoint of the same training that simply stopped in time (+0.2" in reason.answer
    assert "which stopping gives for nothing" in reason.answer and "at 60 %, stands +0.2" in reason.answer


def test_where_it_breaks_is_told_beside_the_paper_s_seventy_percent(tmp_path):
    sharp = by_question(found(tmp_path))["sharp"]
    assert sharp.status == "holds in part" and "`systematic` breaks away at 61.9 [" in sharp.answer
    assert "earlier than that" in sharp.answer and "Plain magnitude does at 6" in sharp.answer


def test_a_curve_breaks_where_it_does_wherever_it_begins(tmp_path):
    """Of the best checkpoint the loss lies half a nat below dense at every rate, and breaks at 62 % all the same."""
    told = found(tmp_path, planted.alike, over_fitted)
    for level in ("history", "magnitude, best checkpoint"):
        broken = told.breaks[PAST_BEST, level]
        assert broken.found and broken.at[0] == pytest.approx(62, abs=1), level


def test_retraining_is_held_beside_retraining_without_pruning(tmp_path):
    def retrained(name: str) -> float:
        return planted.alike(name) - 0.3 * name.endswith("retrained")

    claim = by_question(found(tmp_path, retrained, retrained))["retrains"]
    assert "by history: below dense at 50 and 60 %; above dense at 80 %" in claim.answer
    assert "above `dense-retrained` at 50, 60" in claim.answer and claim.status == "does not hold"


def test_a_missing_study_is_told_and_the_other_one_speaks(tmp_path):
    planted.write(tmp_path, "verdict", better)
    told = findings.find("verdict", tmp_path)
    assert told.missing == {PAST_BEST: "`verdict-past-best` is not finished (make study STUDY=verdict-past-best)."}
    claims = by_question(told)
    assert claims["reason"].status == "open" and "verdict-past-best" in claims["reason"].answer
    assert claims["ranks"].status == "holds" and "P2" not in claims["ranks"].answer


def test_one_seed_leaves_everything_open(tmp_path):
    told = found(tmp_path, better, better, seeds=("s1",))
    assert {claim.status for claim in wording.claims(told)} == {"open"}
    assert wording.precise(told) == "One seed has no interval: two or more would have."


def test_wide_intervals_say_how_many_seeds_would_do(tmp_path):
    told = found(tmp_path, wobble=0.03, seeds=("s1", "s2", "s3"))
    sentence = wording.precise(told)
    assert "main effects at 50 % are known to ± 0.01 nats" in sentence and "seeds instead of 3" in sentence
    assert "or better" in wording.precise(found(tmp_path / "narrow", wobble=0.0001))


def test_studies_that_do_not_compare_or_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither verdict nor verdict-past-best is kept there; run them: make verdict"):
        findings.find("verdict", tmp_path)
    planted.write(tmp_path, "verdict", planted.alike)
    planted.write(tmp_path, "verdict-past-best", planted.alike, text="ef" * 32)
    with pytest.raises(InputError, match="verdict was judged on the text cdcd.* give both studies the same held-out"):
        findings.find("verdict", tmp_path)
