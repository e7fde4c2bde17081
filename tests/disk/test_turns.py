"""Turns on a machine: who measures is alone, and is not passed by all that come after."""

import contextlib
import subprocess
import sys
import threading

from prunelab.disk import turns


def waits(turn, folder) -> tuple[threading.Thread, threading.Event]:
    """A thread that takes `turn`, and whether it has it."""
    entered = threading.Event()

    def take():
        with turn(folder):
            entered.set()

    thread = threading.Thread(target=take)
    thread.start()
    return thread, entered


def test_a_second_measurement_waits_for_the_first(tmp_path, capfd):
    with turns.measuring(tmp_path):
        thread, entered = waits(turns.measuring, tmp_path)
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert "waiting for their end to measure" in capfd.readouterr().err


def test_stages_that_compute_share_a_machine_and_wait_for_one_that_measures(tmp_path, capfd):
    with turns.computing(tmp_path):
        thread, entered = waits(turns.computing, tmp_path)
        assert entered.wait(10)
        thread.join()
    assert capfd.readouterr().err == ""
    with turns.measuring(tmp_path):
        thread, entered = waits(turns.computing, tmp_path)
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert "another process is measuring" in capfd.readouterr().err


def test_who_waits_to_measure_is_not_passed_by_those_who_come_to_compute(tmp_path):
    with contextlib.ExitStack() as first:
        first.enter_context(turns.computing(tmp_path))
        measuring, measures = waits(turns.measuring, tmp_path)
        assert not measures.wait(0.3)
        later, computes = waits(turns.computing, tmp_path)
        assert not computes.wait(0.3)
    assert measures.wait(10) and computes.wait(10)
    measuring.join()
    later.join()


def test_a_killed_measurement_leaves_no_lock_behind(tmp_path):
    code = (
        "import sys, time; from prunelab.disk import turns\n"
        "with turns.measuring(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "in\n"
    first.kill()
    first.wait()
    first.stdout.close()
    with turns.measuring(tmp_path):  # would hang here
        pass
