"""lazycache.cache.files.parallel: work on a few threads, in order."""

import threading

import pytest
import torch

from lazycache.cache.files.parallel import ordered, threads
from lazycache.one_thread import one_thread


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_of_the_items(workers: int) -> None:
    """The order does not depend on the threads."""
    assert list(ordered(lambda i: i * i, range(50), workers=workers)) == [i * i for i in range(50)]


def test_items_are_taken_only_a_few_ahead() -> None:
    """A slow consumer holds the source back, so memory is bounded."""
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield i

    results = ordered(lambda i: i, source(), workers=2)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()


def test_an_error_comes_out_and_the_threads_end() -> None:
    """The first error is raised where the results are consumed."""
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(ordered(lambda i: 1 // (3 - i), range(10), workers=2))
    assert threading.active_count() == before


def test_small_work_stays_on_the_caller() -> None:
    """Starting threads costs more than a small copy."""
    assert threads(1000) == 1


@pytest.mark.parametrize(("cores", "alone"), [(2, True), (64, False)])
def test_torch_starts_no_threads_beside_ours(monkeypatch, cores, alone) -> None:
    """Where each core has a thread of ours torch has one in each; elsewhere what it had."""
    monkeypatch.setattr("lazycache.cache.files.parallel._cores", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = set(ordered(lambda _: torch.get_num_threads(), range(4), workers=2))
        with one_thread() as works:
            pass
        assert found == {1 if alone and works else 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
