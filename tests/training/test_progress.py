"""What a training says of how far it is."""

import pytest

from prunelab.training import progress
from prunelab.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock[0]` is now."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_tells_the_study_s_own_epoch_the_loss_the_speed_and_the_time_left(clock, capsys):
    # 2,000 steps of 768 tokens, 100 an epoch; after 14 s of work 200 are done: 10971 tokens/s, 126 s for the others.
    training = Progress(2000, 768, 100)
    for step in range(1, 200):
        training.step(step, 3.0)
    clock[0] += 14
    training.step(200, 2.0)
    mean = (199 * 3.0 + 2.0) / 200
    assert capsys.readouterr().out == f"epoch 2/20 · loss {mean:.3f} · 11 k tokens/s · 2:06 left\n"
    clock[0] += 14
    training.step(201, 1.5)
    assert capsys.readouterr().out.startswith("epoch 3/20 · loss 1.500 · 5.5 k tokens/s")


def test_a_recovery_has_steps_and_a_name(clock, capsys):
    recovering = Progress(40, 10, name="depth-25-recovered")
    clock[0] += 60
    recovering.step(1, 0.25)
    assert capsys.readouterr().out == "depth-25-recovered: step 1/40 · loss 0.250 · 0 tokens/s · 39:00 left\n"


def test_between_two_lines_lie_some_seconds_and_in_a_long_run_a_200th_of_it(clock, capsys):
    training = Progress(100_000, 64, 1000)
    for step in range(1, 20_001):
        clock[0] += 1
        training.step(step, 1.0)
    # the first second says that the run takes 100,000 s: a line every 500
    assert len(capsys.readouterr().out.splitlines()) == 40
    short = Progress(100, 64, 10)
    for step in range(1, 101):
        clock[0] += 0.4
        short.step(step, 1.0)
    assert len(capsys.readouterr().out.splitlines()) == 8  # 40 s


def test_a_continued_run_counts_its_speed_from_where_it_continues(clock, capsys):
    training = Progress(2000, 100, 100)
    clock[0] += 10
    training.step(1901, 1.0)  # one step in 10 s, 99 to go
    assert capsys.readouterr().out == "epoch 20/20 · loss 1.000 · 10 tokens/s · 16:30 left\n"


def test_the_last_step_is_always_told_and_an_early_end_too(clock, capsys):
    training = Progress(2, 10, 1)
    training.step(1, 1.0)
    training.step(2, 3.0)
    training.close()
    assert capsys.readouterr().out.startswith("epoch 2/2 · loss 2.000")
    stopped = Progress(50, 10, 1)
    stopped.step(1, 1.0)
    stopped.close()
    assert capsys.readouterr().out.startswith("epoch 1/50 · loss 1.000")


def test_on_a_terminal_it_is_a_bar_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    training = Progress(4, 10, 2)
    for step in range(1, 5):
        clock[0] += 2
        training.step(step, 1.0)
    training.close()
    told = capsys.readouterr()
    assert told.out == "" and "epoch 2/2 · loss 1.000" in told.err
