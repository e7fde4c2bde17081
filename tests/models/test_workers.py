"""Work on batches side by side: every batch once, in order, and the number of threads is given back."""

import pytest
import torch

from prunelab.models import workers


def test_the_number_of_threads_holds_within_and_is_given_back_whatever_happens():
    before = torch.get_num_threads()
    with workers.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with workers.threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), workers.threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_every_batch_is_worked_on_once_and_answers_come_in_the_order_of_the_workers():
    before = torch.get_num_threads()
    assert workers.share(lambda worker, numbers: (worker, list(numbers)), 5, 2) == [(0, [0, 2, 4]), (1, [1, 3])]
    assert torch.get_num_threads() == before


def test_workers_record_gradients_only_where_their_caller_does():
    with torch.no_grad():
        assert workers.share(lambda worker, numbers: torch.is_grad_enabled(), 4, 2) == [False, False]
    assert workers.share(lambda worker, numbers: torch.is_grad_enabled(), 4, 2) == [True, True]
