"""torch on the thread that asks for it alone."""

import threading

import pytest
import torch

from lazycache.one_thread import one_thread


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch without OpenMP")
def test_only_the_calling_thread_is_held_and_only_for_the_block():
    """Another thread keeps its two threads, before, within and after."""
    seen: list[int] = []

    def count() -> None:
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread() as worked:
            count()
            other = threading.Thread(target=count)
            other.start()
            other.join()
        count()
    finally:
        torch.set_num_threads(before)
    assert seen == ([1, 2, 2] if worked else [2, 2, 2])
