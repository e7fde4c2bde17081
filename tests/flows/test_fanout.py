"""Who does what when a study is shared out: pure bookkeeping, and what becomes of a part that is lost."""

import contextlib
import uuid
from types import SimpleNamespace

import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from flows import artifacts, fanout
from flows.running import StageFailed
from prunelab.errors import InputError

LACKING = [
    "train@s1", "train@s2", "calibrate@s2", "prune@magnitude-50-s1", "quality@magnitude-50-s1", "prune@random-50-s2",
    "quality@random-50-s2", "further@depth-25-s1", "efficiency-dense@s1", "efficiency@magnitude-50-s1",
    "efficiency-further@depth-25-s2",
]  # fmt: skip


@pytest.fixture
def settings():
    return SimpleNamespace(study="small", efficiency=SimpleNamespace(device="bench"))


@pytest.mark.parametrize(
    ("variants", "workers", "each"),
    [(12, 2, 3), (12, 1, 4), (1, 2, 1), (5, 2, 3), (100, 4, 4), (9, 0, 3), (2, 30, 1)],
)
def test_every_worker_gets_as_many_parts_as_the_others_of_a_handful_of_variants(variants, workers, each):
    assert fanout.variants_a_part(variants, workers) == each


def test_what_belongs_to_a_seed_is_a_part_a_seed_and_what_is_measured_goes_to_the_machine_of_that_name(settings):
    assert fanout.of_seeds(settings, LACKING) == [
        ("small: s1", ["train@s1"], None), ("small: s2", ["train@s2", "calibrate@s2"], None),
    ]  # fmt: skip
    assert fanout.of_a_machine(settings, LACKING) == [
        ("small: s1 on bench", ["efficiency-dense@s1", "efficiency@magnitude-50-s1"], "bench"),
        ("small: s2 on bench", ["efficiency-further@depth-25-s2"], "bench"),
    ]


class Server:
    """Runs that end as they were told to; `submitted` holds their names, `cancelled` those that were given up."""

    def __init__(self, *fates):
        self.fates, self.submitted, self.cancelled, self.states = list(fates), [], [], {}
        self.pool = [SimpleNamespace(status=fanout.WorkerStatus.ONLINE)] * 2

    def run_deployment(self, deployment, *, parameters, flow_run_name, timeout, work_queue_name):
        assert deployment == "part/part" and timeout == 0 and parameters["revision"] == "abc"
        self.submitted.append((flow_run_name, parameters["targets"], work_queue_name))
        identifier = uuid.uuid4()
        self.states[identifier] = self.fates.pop(0)
        return SimpleNamespace(id=identifier)

    def read_flow_run(self, identifier):
        if isinstance(state := self.states[identifier], BaseException):
            raise state
        return SimpleNamespace(state=state)

    def set_flow_run_state(self, identifier, state):
        assert state.is_cancelling()
        self.cancelled.append(identifier)

    def read_deployment_by_name(self, name):
        return SimpleNamespace(work_pool_name="gpu")

    def read_workers_for_work_pool(self, name):
        return self.pool


@pytest.fixture
def serve(monkeypatch):
    def install(*fates) -> Server:
        server = Server(*fates)
        monkeypatch.setattr(fanout, "run_deployment", server.run_deployment)
        monkeypatch.setattr(fanout, "get_client", lambda sync_client: contextlib.nullcontext(server))
        monkeypatch.setattr(fanout, "get_run_logger", lambda: SimpleNamespace(info=print, warning=print))
        monkeypatch.setattr(fanout, "POLL_SECONDS", 0)
        return server

    return install


def test_variants_are_dealt_to_the_workers_that_are_there_with_all_their_stages(serve, settings):
    serve()
    parts = fanout.of_variants(settings, LACKING)
    assert [one.targets for one in parts] == [
        ["prune@magnitude-50-s1", "quality@magnitude-50-s1", "prune@random-50-s2", "quality@random-50-s2"],
        ["further@depth-25-s1"],
    ]
    assert parts[0].name == "small: magnitude-50 s1, random-50 s2"
    assert fanout.of_variants(settings, ["train@s1"]) == []


def test_where_nothing_is_deployed_a_line_says_so_and_without_a_worker_the_wait_is_told(serve, capsys):
    server = serve(Completed(), Completed())
    server.pool = []
    fanout.carry_out(PARTS, {"revision": "abc"})
    assert "no worker is online that takes runs of %s" in capsys.readouterr().out

    def missing(name):
        raise fanout.ObjectNotFound(Exception("404"))

    server.read_deployment_by_name = missing
    with pytest.raises(InputError, match="has no deployment part/part; set PREFECT_API_URL"):
        fanout.carry_out(PARTS, {"revision": "abc"})


PARTS = [fanout.Part("one", ["train@s1"]), fanout.Part("two", ["efficiency@x-50-s1"], "bench")]


def test_a_lost_part_is_submitted_again_once(serve):
    server = serve(Crashed(), Completed(), Completed())
    fanout.carry_out(PARTS, {"revision": "abc"})
    assert server.submitted == [
        ("one", ["train@s1"], None), ("two", ["efficiency@x-50-s1"], "bench"), ("one", ["train@s1"], None),
    ]  # fmt: skip
    server = serve(Crashed(), Completed(), Crashed(message="no sign of life"))
    with pytest.raises(StageFailed, match="part one: Crashed: no sign of life"):
        fanout.carry_out(PARTS, {"revision": "abc"})
    assert len(server.submitted) == 3


@pytest.mark.parametrize("fate", [Failed(message="stage x failed"), Cancelled(message="by somebody")])
def test_a_part_that_failed_or_was_cancelled_is_not_tried_again_and_the_others_come_to_their_end(serve, fate):
    server = serve(fate, Completed())
    with pytest.raises(StageFailed, match=f"part one: {fate.name}: {fate.message}"):
        fanout.carry_out(PARTS, {"revision": "abc"})
    assert len(server.submitted) == 2 and server.cancelled == []


def test_parts_that_still_run_are_cancelled_when_the_coordinator_is(serve, monkeypatch):
    server = serve(Running(), Completed())

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fanout.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fanout.carry_out(PARTS, {"revision": "abc"})
    assert server.cancelled == list(server.states)


def test_the_progress_of_a_study_that_is_shared_out_is_that_of_all_its_stages(serve, monkeypatch):
    """Four stages of which one is unchanged: what the coordinator restores and what a part has done both count."""
    told, made = [], []

    def create(share, *, key, description):
        made.append(key)

    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda _, share, words: told.append((share, words)))
    left = fanout.Left(
        "small", {"fetch", "train@s1", "prune@x-50-s1", "report"}, {"fetch", "train@s1", "prune@x-50-s1"}
    )
    left.ended(["fetch"])
    serve(Completed(), Failed(message="stage x failed"))
    parts = [fanout.Part("one", ["train@s1"]), fanout.Part("two", ["prune@x-50-s1"])]
    with pytest.raises(StageFailed):
        fanout.carry_out(parts, {"revision": "abc"}, lambda one: left.ended(one.targets))
    assert made == ["progress-small"] and left.left == {"prune@x-50-s1"}
    assert [share for share, _ in told] == [25, 50, 75]
    assert told[0][1].endswith("no estimate yet") and told[-1][1].startswith("study small: 3 of 4 stages done, 0:00")


def test_what_was_restored_does_not_pass_for_speed_and_probes_alone_are_all_done(monkeypatch):
    told = []
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda share, *, key, description: None)
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda _, share, words: told.append((share, words)))
    left = fanout.Left("small", {"train@s1", "prune@x-50-s1"}, {"train@s1", "prune@x-50-s1"})
    left.restored(["train@s1"])
    assert told[-1][0] == 50 and told[-1][1].endswith("no estimate yet")
    fanout.Left("small", set(), set())
    assert told[-1][0] == 100


def test_what_one_worker_has_to_do_of_a_study_has_an_artifact_of_its_own(monkeypatch):
    made = []
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda share, *, key, description: made.append(key))
    artifacts.Progress("small", 3, "part")
    assert made == ["progress-small-part"]
