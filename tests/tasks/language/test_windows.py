"""Windows of a text: the same for a seed, and all of it where the settings say so."""

import itertools

import torch

from prunelab.tasks.language.windows import TrainingWindows


def test_windows_are_numbered_and_the_same_for_a_seed():
    tokens = torch.arange(1000)
    one = TrainingWindows(tokens, 10, 3, 20, 8, seed=1)
    two = TrainingWindows(tokens, 10, 3, 20, 8, seed=1)
    assert one.per_epoch == 24 and one.steps_per_epoch == 3 and len(one) == 72
    assert all(torch.equal(one[i]["input_ids"], two[i]["input_ids"]) for i in range(72))
    assert not torch.equal(one[0]["input_ids"], one[24]["input_ids"])


def test_without_a_count_an_epoch_covers_the_text_once_but_for_the_seeded_phase():
    windows = TrainingWindows(torch.arange(1005), 10, 2, None, 1, seed=1)
    starts = sorted(int(windows[i]["input_ids"][0]) for i in range(windows.per_epoch))
    assert len(set(starts)) == len(starts) == 99
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert steps.count(10) >= 97 and set(steps) <= {10, 20}
