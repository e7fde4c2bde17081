"""Order of stages and their threads, without processes."""

import pytest

from flows.schedule import Schedule, Start, clock, forks, leaves_checkpoints, of_the_machine, remaining_seconds, shares

NEEDS = {
    "train": set(),
    "prune@random-50": {"train"},
    "prune@random-80": {"train"},
    "efficiency-dense": {"train"},
    "efficiency@random-50": {"prune@random-50"},
    "efficiency@random-80": {"prune@random-80"},
    "report": {"efficiency-dense", "efficiency@random-50", "efficiency@random-80"},
}


def run(plan: Schedule, fail: tuple[str, ...] = ()) -> list[set[str]]:
    """The sets of stages that ran at the same time, one finishing after the other in the order of their start."""
    together, order = [], []
    while not plan.over:
        for one in plan.ready():
            plan.started(one)
            order.append(one.name)
        together.append(set(plan.running))
        first = next(name for name in order if name in plan.running)
        plan.finished(first, first not in fail)
    return together


def test_independent_stages_run_side_by_side_and_measurements_alone_after_them():
    assert run(Schedule(NEEDS, workers=2)) == [
        {"train"}, {"prune@random-50", "prune@random-80"}, {"prune@random-80"}, {"efficiency-dense"},
        {"efficiency@random-50"}, {"efficiency@random-80"}, {"report"},
    ]  # fmt: skip


def test_what_hangs_on_the_number_of_threads_runs_alone_with_all_of_them():
    """Else a second seed's training, or whatever runs beside, would decide the last digits of the first one's."""
    needs = {"train@s1": set(), "train@s2": set(), "prune@random-50-s1": {"train@s1"}, "prune@wanda-50-s1": set()}
    plan = Schedule(needs, workers=2)
    assert plan.ready() == [Start("train@s1", None)]
    assert run(plan) == [{"train@s1"}, {"prune@random-50-s1"}, {"train@s2"}, {"prune@wanda-50-s1"}]


@pytest.mark.parametrize(("single", "beside"), [(True, [{"train@s1", "train@s2"}]), (False, [{"train@s1"}])])
def test_trainings_with_one_thread_each_run_side_by_side_and_those_with_more_do_not(single, beside):
    plan = Schedule({"train@s1": set(), "train@s2": set()}, workers=2, cores=2, trains_with_one_thread=single)
    assert {one.threads for one in plan.ready()} == ({1} if single else {None})
    assert run(plan)[:1] == beside


def test_no_core_is_idle_beside_the_last_training_of_an_odd_number():
    """Texts are brought beside it, so that models can be judged that are there already."""
    needs = {f"train@s{seed}": set() for seed in (1, 2, 3)} | {"probes": set()}
    needs |= {"reference@s1": {"train@s1", "probes"}, "cells@s1": {"reference@s1"}}
    together = run(Schedule(needs, workers=2, cores=2, trains_with_one_thread=True))
    assert together[:3] == [{"train@s1", "train@s2"}, {"train@s2", "train@s3"}, {"train@s3", "probes"}]


def test_a_training_with_one_thread_leaves_the_other_cores_to_what_can_use_them():
    needs = {"quality@random-50-s1": set(), "train@s2": set(), "reference@s1": set()}
    plan = Schedule(needs, workers=4, cores=8, trains_with_one_thread=True)
    assert plan.ready() == [Start("train@s2", 1), Start("quality@random-50-s1", 3), Start("reference@s1", 3)]
    alone = Schedule({"train@s1": set()}, workers=4, cores=8, trains_with_one_thread=True)
    assert alone.ready() == [Start("train@s1", 1)]


def test_a_training_that_waits_starts_before_short_stages_which_can_run_beside_it():
    needs = {f"prune@random-{rate}-s1": set() for rate in (20, 50)} | {"cells@s1": set(), "train@s3": set()}
    plan = Schedule(needs, workers=2, cores=2, trains_with_one_thread=True)
    assert [one.name for one in plan.ready()] == ["train@s3", "cells@s1"]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("train@s1", True), ("cells@s2", True), ("further@dense-retrained-s1", True),
        ("further@random-50-retrained-s1", True), ("further@magnitude-50-recovered-int8-s1", True),
        ("prune@gradual-magnitude-50-s1", True), ("quality@wanda-50-s1", True),
        ("further@wanda-50-retrained-s1", False), ("further@depth-25-retrained-s1", False),
        ("further@sparsegpt-50-recovered-s1", False), ("further@magnitude-50-retrained-int4-gptq-s1", False),
        ("further@dense-small-s1", False), ("calibrate@s1", False), ("efficiency-dense@s1", False), ("report", False),
    ],
)  # fmt: skip
def test_where_training_has_one_thread_what_only_trains_runs_beside_others(name, may):
    assert Schedule({}, workers=2, trains_with_one_thread=True).shares(name) is may


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("quality@wanda-50-s1", True), ("quality-further@depth-25-s2", True), ("prune@magnitude-global-50-s1", True),
        ("prune@systematic-average-sigma112", True), ("prune@taylor-50-s1", True),
        ("prune@sparsegpt-2of4-s1", False), ("prune@gradual-magnitude-50-s1", False), ("prune@no-such-50-s1", False),
        ("reference@s1", True), ("further@dense-average-s1", True), ("further@dense-int8-s1", True),
        ("further@dense-bf16-s1", True), ("further@dense-int4-gptq-s1", False), ("further@depth-25-int4-s1", False),
        ("efficiency-further@wanda-50-int8-s1", False),
        ("efficiency-further@dense-average-s1", True), ("efficiency-further@wanda-50-recovered-s1", True),
        ("efficiency-further@depth-25-s1", False), ("efficiency-further@dense-int8-s1", False),
        ("efficiency@wanda-50-s1", False), ("runtimes@dense-s1", False), ("efficiency-dense@s1", False),
        ("further@depth-25-s1", False), ("further@dense-small-s1", False), ("further@wanda-50-recovered-s1", False),
        ("train@s1", False), ("calibrate@s1", False), ("report", False),
    ],
)  # fmt: skip
def test_side_by_side_runs_what_finds_the_same_with_any_number_of_threads(name, may):
    assert shares(name) is may


def test_the_cores_are_shared_among_those_that_start_and_never_given_twice():
    many = {f"quality@random-{rate}": set() for rate in range(10, 16)}
    plan = Schedule(many, workers=3, cores=8)
    first = plan.ready()
    assert [one.threads for one in first] == [2, 2, 2]
    for one in first:
        plan.started(one)
    assert plan.ready() == []
    plan.finished(first[0].name, True)
    assert [one.threads for one in plan.ready()] == [4]  # the two that were left over, too
    alone = Schedule(dict(list(many.items())[:1]), workers=3, cores=8)
    assert [one.threads for one in alone.ready()] == [8]


def test_one_that_has_all_cores_is_not_disturbed_by_another_that_becomes_ready():
    plan = Schedule({"quality@random-50": set(), "quality@random-80": {"report"}, "report": set()}, workers=2, cores=2)
    (start,) = plan.ready()
    plan.started(start)
    assert start.threads == 2
    plan.done.add("report")
    assert plan.ready() == []


def test_more_workers_than_cores_are_given_a_thread_each():
    plan = Schedule({f"quality@random-{rate}": set() for rate in (10, 20, 30, 40)}, workers=3, cores=1)
    assert [one.threads for one in plan.ready()] == [1, 1, 1]


def test_no_more_stages_run_at_once_than_there_are_workers():
    assert run(Schedule(NEEDS, workers=1))[1:3] == [{"prune@random-50"}, {"prune@random-80"}]
    wide = {f"prune@random-{i}": set() for i in range(1, 10)}
    assert max(len(names) for names in run(Schedule(wide, workers=4))) == 4


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_nothing_ever_runs_beside_a_measurement(workers):
    for names in run(Schedule(NEEDS, workers)):
        assert len(names) == 1 or not any(name.startswith("efficiency") for name in names)


def test_a_failed_stage_stops_what_needs_it_and_nothing_else():
    plan = Schedule(NEEDS, workers=2)
    run(plan, fail=("prune@random-50",))
    assert plan.failed == {"prune@random-50"}
    assert plan.done == {"train", "prune@random-80", "efficiency-dense", "efficiency@random-80"}
    assert plan.kept_back() == {"prune@random-50": ["efficiency@random-50", "report"]}
    assert plan.waiting() == []


def test_remaining_time_counts_a_stage_as_the_mean_of_its_kind_and_shares_what_runs_side_by_side():
    seconds = {"prune@random-20": 4.0, "prune@random-50": 6.0, "train": 20.0}
    # prune: 5 s shared by 2 workers; efficiency, not seen yet: the mean of all, 10 s, and alone
    assert remaining_seconds(["prune@random-60", "prune@random-80", "efficiency@c"], seconds, workers=2) == 5.0 + 10.0


def test_there_is_no_estimate_before_a_stage_has_finished():
    assert remaining_seconds(["train"], {}, workers=2) is None


def test_seconds_are_told_as_a_clock_does():
    assert [clock(seconds) for seconds in (7, 75, 3675.4)] == ["0:07", "1:15", "1:01:15"]


def test_what_measures_and_what_needs_no_torch_begins_in_a_process_of_its_own():
    fresh = ["efficiency-dense@s1", "efficiency@magnitude-50-s1", "efficiency-further@depth-25-s1", "runtimes@dense-s1"]
    assert not any(forks(name) for name in [*fresh, "device", "inputs", "report", "mirror"])
    assert all(forks(name) for name in ["quality@wanda-50-s1", "prune@wanda-50-s1", "efficiency-further@dense-best-s1"])


@pytest.mark.parametrize(
    ("name", "long"),
    [
        ("train@s1", True), ("prune@movement-50-s2", True), ("further@gradual-magnitude-30-s1", True),
        ("further@dense-small-s1", True), ("prune@magnitude-50-s1", False), ("quality@movement-50-s1", False),
        ("further@depth-25-recovered-s1", False), ("quality-further@dense-small-s1", False), ("report", False),
    ],
)  # fmt: skip
def test_what_trains_so_long_that_it_leaves_checkpoints(name, long):
    assert leaves_checkpoints(name) is long


def test_what_is_noted_beside_a_measurement_belongs_to_the_machine_too():
    measured = (
        "efficiency-dense@s1",
        "efficiency@magnitude-50-s1",
        "efficiency-further@dense-average-s1",
        "runtimes@x-s1",
    )
    assert all(map(of_the_machine, measured))
    assert not any(map(of_the_machine, ("train@s1", "quality@magnitude-50-s1", "recommend", "device")))
