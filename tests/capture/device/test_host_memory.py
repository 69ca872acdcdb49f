"""Memory for what the sink keeps: given out again, never more than was in use at once."""

import gc
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.device.host_memory import HostMemory
from lazycache.codec.dtypes import as_bytes

MB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(0, 3), (5,), (), (1024, 1025), (3, 700, 1024)])
def test_a_tensor_is_contiguous_and_writable(shape, dtype):
    """Small ones come from the heap, large ones from a map: nobody sees a difference."""
    x = HostMemory().empty(shape, dtype)
    assert (tuple(x.shape), x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert x.fill_(1).sum() == x.numel()


def test_memory_is_given_out_again():
    """A run of equal forward passes maps its memory once."""
    memory, places = HostMemory(), set()
    for n in range(50):
        batch = [memory.empty([256, 1024], torch.float32).fill_(n) for _ in range(4)]
        places |= {x.data_ptr() for x in batch}
        del batch
    assert len(places) == 4
    assert memory.nbytes == 4 * MB


VIEWS = [lambda x: x[7:9], as_bytes, lambda x: x.numpy(), lambda x: x.view(torch.uint8)]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_its_memory(view):
    """Rows, bytes and arrays of a tensor keep what it was in, when the tensor itself is gone."""
    memory = HostMemory()
    x = memory.empty([1024, 256], torch.float32).fill_(3)
    part = view(x)
    before = bytes(np.asarray(part))
    del x
    others = [memory.empty([1024, 256], torch.float32).fill_(4) for _ in range(3)]
    assert bytes(np.asarray(part)) == before
    assert len(others) == 3


def test_what_is_in_use_outlives_the_memory():
    """The writer may hold the last batch when the capture has ended."""
    memory = HostMemory()
    x = memory.empty([MB], torch.float32).fill_(5)
    del memory
    gc.collect()
    assert bool(x.eq(5).all())


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9 * MB)), max_size=40))
def test_no_more_is_mapped_than_was_in_use_at_once(steps):
    """Whatever sizes come and go; a block is at most an eighth larger than what it is for."""
    memory, alive, most = HostMemory(), [], 0
    for drop, nbytes in steps:
        if drop and alive:
            alive.pop(random.Random(nbytes).randrange(len(alive)))
        alive.append(memory.empty([nbytes], torch.uint8))
        most = max(most, sum(x.nbytes for x in alive if x.nbytes >= MB))
        assert memory.nbytes <= most * 9 / 8


def test_threads_do_not_get_the_same_memory():
    """Each finds what it wrote, while others allocate and free."""
    memory, wrong = HostMemory(), []

    def work(n):
        for i in range(200):
            x = memory.empty([MB], torch.uint8).fill_(n)
            y = memory.empty([MB + i], torch.uint8).fill_(100 + n)
            if not (x.eq(n).all() and y.eq(100 + n).all()):
                wrong.append((n, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_it_can_be_used_in_inference_mode():
    """What is made there is read by the writer outside of it."""
    with torch.inference_mode():
        x = HostMemory().empty([MB], torch.float32).fill_(2)
    assert as_bytes(x)[:4].tobytes() == torch.tensor(2.0).numpy().tobytes()
