"""Lanes: processes of dvc that stay."""

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from flows import dvc_lane, process
from flows.lanes import Lanes
from tests.helpers.toy import toy  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@pytest.fixture
def lanes(toy):  # noqa: F811
    process.allow()
    yield Lanes(own_session=True)
    process.stop()
    process.allow()


def lane_processes() -> list[psutil.Process]:
    """Those that run: what an earlier test of this process killed may be a zombie still, which has no command line."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one] * ("flows.dvc_lane" in one.cmdline()[1:3])
    return found


def test_a_lane_does_one_stage_after_the_other_and_ends_when_closed(lanes, toy):  # noqa: F811
    lines = []
    graph, changed = lanes.look(lambda names: None, lines.append)
    assert graph.last == {"mirror"} and changed == graph.needs.keys() - {"device"}
    assert lanes.repro(["device", "fetch"], lines.append) == 0
    assert "this is device" in lines and "this is fetch" in lines
    first = lane_processes()
    assert lanes.repro(["train"], lines.append) == 0
    assert lane_processes() == first and len(first) == 1
    lanes.close()
    assert lane_processes() == []


def test_what_is_to_do_is_asked_again_where_a_probe_found_something_else(lanes, toy):  # noqa: F811
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)

    def probe(names: list[str]) -> None:
        assert lanes.repro(names, print) == 0

    assert lanes.look(probe, print)[1] == set()
    script = toy / "stage.sh"
    script.write_text(script.read_text() + '[ "$1" != device ] || echo another machine > device.json\n')
    assert lanes.look(probe, print)[1] == {
        "efficiency@random-50", "efficiency@random-80", "efficiency@magnitude-50", "efficiency@magnitude-80", "report",
        "mirror",
    }  # fmt: skip


def test_a_stage_that_fails_leaves_the_lane_to_the_next(lanes, toy):  # noqa: F811
    (toy / "fail-fetch").touch()
    lines = []
    assert lanes.repro(["fetch"], lines.append) != 0
    assert "broken on purpose" in lines
    (toy / "fail-fetch").unlink()
    assert lanes.repro(["fetch"], lines.append) == 0 and len(lane_processes()) == 1


def test_a_lane_that_is_killed_fails_its_stage_and_another_takes_over(lanes, toy):  # noqa: F811
    def kill(line: str) -> None:
        if line == "this is fetch":
            lane_processes()[0].kill()

    assert lanes.repro(["fetch"], kill) == 128 + 9
    (toy / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)  # as flows.workspace does at the next start
    assert lanes.repro(["fetch"], lambda line: None) == 0


def test_a_stage_reads_nothing_of_what_is_asked(lanes, toy):  # noqa: F811
    script = toy / "stage.sh"
    script.write_text("cat\n" + script.read_text())  # would wait for ever, or eat the next request
    assert lanes.repro(["fetch"], lambda line: None) == 0
    assert lanes.repro(["train"], lambda line: None) == 0


def test_a_lane_writes_the_lock_file_that_dvc_itself_writes(lanes, toy):  # noqa: F811
    everything = [*lanes.look(lambda names: None, print)[0].needs]
    assert lanes.repro(["device", "fetch", "train"], print) == 0
    assert lanes.repro([name for name in everything if name.startswith("prune")], print) == 0
    ours = (toy / "dvc.lock").read_bytes()
    (toy / "dvc.lock").unlink()
    for names in (["device", "fetch", "train"], [name for name in everything if name.startswith("prune")]):
        command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", *names]
        subprocess.run(command, check=True)
    assert (toy / "dvc.lock").read_bytes() == ours and b"prune@magnitude-80" in ours


@pytest.mark.parametrize("before", [None, "7"])
def test_an_environment_is_said_for_one_request_and_taken_back(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with dvc_lane.environment({"OMP_NUM_THREADS": "3"}):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ.get("OMP_NUM_THREADS") == before
    with dvc_lane.environment({}):
        assert os.environ.get("OMP_NUM_THREADS") == before
