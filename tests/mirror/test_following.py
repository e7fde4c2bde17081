"""What of a running study is told when, with a store that only notes it: no MLflow here."""

import json
import time
from types import SimpleNamespace

import pytest

from prunelab.errors import InputError
from prunelab.mirror.entries import STUDY
from prunelab.mirror.following import Following
from prunelab.training.points import Points
from tests.helpers import synthetic

TRAIN, REFERENCE = "train@s1", "reference@s1"


class Noted:
    """Stands for runs.Runs: notes what it is told."""

    def __init__(self):
        self.begun, self.figures, self.points, self.ended = [], {}, {}, {}

    def begin(self, entry, handed=None):
        identifier = handed or f"id of {entry.name}"
        run = SimpleNamespace(name=entry.name, handed=handed, entry=entry, info=SimpleNamespace(run_id=identifier))
        self.begun.append(run)
        return run

    def add_figures(self, run, metrics):
        self.figures.setdefault(run.name, {}).update(metrics)

    def add_points(self, run, points):
        self.points.setdefault(run.name, []).extend(points)

    def end(self, identifier, status):
        self.ended[identifier] = status

    def names(self) -> list[str]:
        return [run.name for run in self.begun]


@pytest.fixture
def study(tmp_path, monkeypatch):
    changes = {
        "prune": synthetic.TWO_METHODS | {"further": ["dense-average"]},
        "efficiency": {"methods": ["magnitude"]},
    }
    settings = synthetic.settings(tmp_path, **changes)
    synthetic.write(tmp_path, settings)
    monkeypatch.chdir(tmp_path)
    return settings


def followed(study, *handed) -> Following:
    following = Following(study, *handed)
    following.store = Noted()
    return following


def send_all(following: Following) -> Noted:
    while following.is_due():
        following.send()
    return following.store


def run(following: Following, stage: str, outcome: str = "ran", at: float = 100.0) -> None:
    following.began(stage, at)
    following.ended(stage, outcome)


def test_a_row_is_told_when_a_stage_has_found_figures_and_again_when_the_next_has(study):
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    run(following, "prune@magnitude-50-s1", at=50.0)
    told = send_all(following)
    assert told.names() == [study.study, "magnitude-50"]
    assert told.figures["magnitude-50"]["rate"] == 50 and "loss" not in told.figures["magnitude-50"]
    run(following, "quality@magnitude-50-s1", at=60.0)
    told = send_all(following)
    assert told.figures["magnitude-50"]["loss"] > 0 and told.names() == [study.study, "magnitude-50"]
    assert [one.entry.began_ms for one in told.begun] == [50_000, 50_000]
    assert told.begun[1].entry.params["method"] == "magnitude" and told.begun[1].entry.params["path"]


@pytest.mark.parametrize("outcome", ["restored", "unchanged", "failed"])
def test_of_a_stage_that_found_nothing_anew_no_run_is_begun(study, outcome):
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    run(following, "quality@magnitude-50-s1", outcome)
    run(following, TRAIN, outcome)
    assert not following.is_due() and send_all(following).names() == []


def test_rows_that_take_a_row_s_times_over_get_them_with_it_where_their_run_was_begun(study):
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    for method in ("magnitude", "systematic"):
        run(following, f"prune@{method}-50-s1")
    run(following, "efficiency@magnitude-50-s1")
    told = send_all(following)
    assert told.figures["systematic-50"]["decode_ms_per_token"] == told.figures["magnitude-50"]["decode_ms_per_token"]
    assert told.names() == [study.study, "magnitude-50", "systematic-50"]


def test_a_run_begins_with_the_first_of_its_stages_also_one_of_an_earlier_run_of_the_program(study, tmp_path):
    for name, began in (("prune-magnitude-50", 30.0), ("quality-magnitude-50", 20.0)):
        (tmp_path / "results" / "energy" / "s1").mkdir(parents=True, exist_ok=True)
        booking = {"began_unix_s": began, "seconds": 1.0}
        (tmp_path / "results" / "energy" / "s1" / f"{name}.json").write_text(json.dumps(booking))
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE, "prune@magnitude-50-s1"])  # the quality there is that of other settings
    run(following, "efficiency@magnitude-50-s1", at=90.0)
    begun = {one.name: one.entry.began_ms for one in send_all(following).begun}
    assert begun == {study.study: 30_000, "magnitude-50": 30_000}


def test_the_points_of_a_training_are_told_as_they_come_of_the_dense_run_and_the_study_s(study, tmp_path):
    following = followed(study)
    live = tmp_path / ".prunelab" / "training" / "s1.jsonl"
    stale = Points(live, "others", 64)
    stale.evaluated({"step": 7, "validation_loss": 9.0})
    time.sleep(0.002)  # the file says milliseconds
    following.began(TRAIN, time.time())
    told = send_all(following)
    assert told.names() == [] and told.points == {}  # those of another training are not its own
    training = Points(live, "a", 64)
    assert send_all(following).names() == [study.study, "dense"]
    training.evaluated({"step": 1, "validation_loss": 3.0})
    told = send_all(following)
    training.evaluated({"step": 2, "validation_loss": 2.0})
    told = send_all(following)
    assert [(one.step, one.value) for one in told.points["dense"]] == [(1, 3.0), (2, 2.0)]
    training.evaluated({"step": 3, "validation_loss": 1.0})
    live.rename(tmp_path / "gone")  # it has ended, and its points are a result now
    out = tmp_path / "results" / "s1" / "dense" / "training.jsonl"
    out.write_text("".join((tmp_path / "gone").read_text().splitlines(keepends=True)[1:]))
    following.ended(TRAIN, "ran")
    told = send_all(following)
    assert [one.step for one in told.points["dense"]] == [1, 2, 3] and told.points[study.study] == told.points["dense"]


def test_what_a_store_did_not_take_stays_due_and_is_sent_again(study, monkeypatch):
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    run(following, "prune@magnitude-50-s1")

    def down(*_arguments):
        raise ConnectionError("gone")

    with monkeypatch.context() as away:
        away.setattr(following.store, "add_figures", down)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                following.send()
    assert following.is_due()
    assert send_all(following).names() == [study.study, "magnitude-50"]


def test_a_row_that_can_t_be_read_is_named_and_given_up_and_the_others_are_told(study, tmp_path):
    (tmp_path / "results" / "s1" / "magnitude-50" / "quality.json").write_text("{")
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    for rate in (50, 80):
        run(following, f"quality@magnitude-{rate}-s1")
    with pytest.raises(InputError, match="magnitude-50"):
        following.send()
    assert send_all(following).names() == [study.study, "magnitude-80"]


def test_runs_that_were_handed_out_are_taken_and_no_others_begun(study):
    following = followed(study, {STUDY: "id-0", "s1/magnitude-50": "id-1"})
    following.unchanged([TRAIN, REFERENCE])
    for rate in (50, 80):
        run(following, f"prune@magnitude-{rate}-s1")
    told = send_all(following)
    assert [(one.name, one.handed) for one in told.begun] == [(study.study, "id-0"), ("magnitude-50", "id-1")]
    assert told.figures.keys() == {"magnitude-50"}


def test_the_end_of_a_study_that_was_stopped_is_told_of_every_run_that_was_begun(study):
    following = followed(study)
    following.unchanged([TRAIN, REFERENCE])
    run(following, "prune@magnitude-50-s1")
    send_all(following)
    following.end("KILLED")
    assert following.store.ended == {f"id of {study.study}": "KILLED", "id of magnitude-50": "KILLED"}


def test_who_handed_runs_out_ends_them_all_and_who_took_some_only_those(study):
    handed = {STUDY: "id-0", "s1/magnitude-50": "id-1", "s1/magnitude-80": "id-2"}
    owner, part = followed(study, handed, True), followed(study, handed)
    assert owner.has_begun_any() and not part.has_begun_any() and not followed(study, {}, True).has_begun_any()
    part.unchanged([TRAIN, REFERENCE])
    run(part, "prune@magnitude-50-s1")
    send_all(part)
    for one in (owner, part):
        one.end("FAILED")
    assert part.has_begun_any() is False and part.store.ended.keys() == {"id-0", "id-1"}
    assert owner.store.ended == dict.fromkeys(["id-0", "id-1", "id-2"], "FAILED")
