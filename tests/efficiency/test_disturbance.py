import subprocess
import sys

import pytest

from prunelab.efficiency import disturbance


@pytest.mark.parametrize(
    ("taken_off_s", "waited_s", "steal_s", "switches", "block_s", "dropped"),
    [
        (0.0, 0.0, 0.0, 99, 0.1, False),  # switches count only where the waiting is unknown
        (0.019, 0.019, 0.0, 0, 0.1, False),
        (0.021, 0.021, 0.0, 0, 0.1, True),
        (0.010, 0.0119, 0.0, 0, 0.1, False),
        (0.010, 0.0121, 0.0, 0, 0.1, True),  # a helper thread waited
        (0.0, None, 0.0, 4, 0.01, False),  # housekeeping of the kernel
        (0.0, None, 0.0, 5, 0.1, True),
        (0.0, None, 0.0, 30, 1.0, False),
        (0.0, None, None, 41, 1.0, True),
        (0.0, 0.0, 0.01, 0, 0.05, False),  # one tick of that clock
        (0.0, 0.0, 0.02, 0, 0.1, True),
        (0.0, 0.0, 0.03, 0, 1.0, False),
        (0.0, 0.0, 0.05, 0, 1.0, True),
        (0.0, 0.0, None, 0, 1.0, False),
    ],
)
def test_the_rule_for_disturbed_blocks_is_the_documented_one(
    monkeypatch, taken_off_s, waited_s, steal_s, switches, block_s, dropped
):
    monkeypatch.setattr(disturbance.device, "usable_cores", lambda: 2)
    assert disturbance.disturbed(taken_off_s, waited_s, steal_s, switches, block_s) is dropped


def blocks(*counted):
    """Rows of blocks of 2 s, four passes each: (waited_s, steal_s, others_s, dropped) a block."""
    names = ("waited_s", "steal_s", "others_s", "dropped")
    return [dict(zip(names, values, strict=True)) | {"block_s": 2.0} for values in counted for _ in range(4)]


def test_the_shares_are_those_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(disturbance.device, "usable_cores", lambda: 2)
    found = disturbance.shares(blocks((0.2, 0.4, 2.0, False), (0.6, 0.0, 3.0, True)))
    assert found == {
        "waited_share": pytest.approx(0.2),  # 0.8 of 4 s
        "steal_share": pytest.approx(0.05),  # 0.4 of 8 core seconds
        "others_cores": pytest.approx(1.25),  # 5 core seconds in 4 s
        "dropped_share": 0.5,
    }
    assert disturbance.told(found) == (
        "other processes kept 1.2 cores busy, this one waited 20% of the time for a core, "
        "the host took 5% of the cores' time, 50% of the blocks were disturbed"
    )


def test_what_the_system_does_not_tell_is_not_told():
    found = disturbance.shares(blocks((None, None, None, False)))
    assert found == {"waited_share": None, "steal_share": None, "others_cores": None, "dropped_share": 0.0}
    assert disturbance.told(found).startswith("nothing that this machine counts disturbed it")


def test_another_process_at_work_is_counted_and_ones_own_is_not():
    before = disturbance.counters()
    spin = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)  # its time is a child's, not this process's
    seen = disturbance.since(before)
    assert seen["others_s"] is None or seen["others_s"] > 0.4
    assert seen["block_s"] > 0.4
