"""Order of stages, without processes."""

import pytest

from flows.schedule import Schedule, remaining_seconds

NEEDS = {
    "train": set(),
    "prune@a": {"train"},
    "prune@b": {"train"},
    "efficiency-dense": {"train"},
    "efficiency@a": {"prune@a"},
    "efficiency@b": {"prune@b"},
    "report": {"efficiency-dense", "efficiency@a", "efficiency@b"},
}


def run(plan: Schedule, fail: tuple[str, ...] = ()) -> list[set[str]]:
    """The sets of stages that ran at the same time, one finishing after the other in the order of their start."""
    together, order = [], []
    while not plan.over:
        for name in plan.ready():
            plan.started(name)
            order.append(name)
        together.append(set(plan.running))
        first = next(name for name in order if name in plan.running)
        plan.finished(first, first not in fail)
    return together


def test_independent_stages_run_side_by_side_and_measurements_alone_after_them():
    assert run(Schedule(NEEDS, workers=2)) == [
        {"train"}, {"prune@a", "prune@b"}, {"prune@b"}, {"efficiency-dense"}, {"efficiency@a"}, {"efficiency@b"},
        {"report"},
    ]  # fmt: skip


def test_no_more_stages_run_at_once_than_there_are_workers():
    assert run(Schedule(NEEDS, workers=1))[1:3] == [{"prune@a"}, {"prune@b"}]
    wide = {f"prune@{i}": set() for i in range(9)}
    assert max(len(names) for names in run(Schedule(wide, workers=4))) == 4


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_nothing_ever_runs_beside_a_measurement(workers):
    for names in run(Schedule(NEEDS, workers)):
        assert len(names) == 1 or not any(name.startswith("efficiency") for name in names)


def test_a_failed_stage_stops_what_needs_it_and_nothing_else():
    plan = Schedule(NEEDS, workers=2)
    run(plan, fail=("prune@a",))
    assert plan.failed == {"prune@a"}
    assert plan.done == {"train", "prune@b", "efficiency-dense", "efficiency@b"}
    assert list(plan.pending) == ["efficiency@a", "report"]


def test_remaining_time_counts_a_stage_as_the_mean_of_its_kind_and_shares_what_runs_side_by_side():
    seconds = {"prune@a": 4.0, "prune@b": 6.0, "train": 20.0}
    # prune: 5 s shared by 2 workers; efficiency, not seen yet: the mean of all, 10 s, and alone
    assert remaining_seconds(["prune@c", "prune@d", "efficiency@c"], seconds, workers=2) == 5.0 + 10.0


def test_there_is_no_estimate_before_a_stage_has_finished():
    assert remaining_seconds(["train"], {}, workers=2) is None
