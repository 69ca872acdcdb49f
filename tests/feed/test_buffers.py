"""Memory of batches: used again when nobody holds it, and never before."""

import pickle

import numpy as np
import torch

from lazycache.feed.buffers import Buffers

SIZE = 1 << 20


def test_memory_is_used_again_when_the_last_view_of_it_is_gone():
    """A slice of a view of a tensor of it holds it; then the same bytes come back."""
    buffers = Buffers(2)
    raw = buffers.take(SIZE)
    raw[...] = 7
    address, kept = raw.ctypes.data, torch.from_numpy(raw).view(torch.int16)[5:9].numpy()[1:]
    del raw
    other = buffers.take(SIZE)
    other[...] = 1
    assert other.ctypes.data != address
    assert kept.tolist() == [0x0707] * 3
    del kept
    assert buffers.take(SIZE).ctypes.data == address


def test_no_more_is_kept_than_was_said():
    """Two of four pieces; a piece of another size is another one; unpickled, there is none."""
    buffers = Buffers(2)
    pieces = [buffers.take(SIZE) for _ in range(4)]
    addresses = [piece.ctypes.data for piece in pieces]
    while pieces:
        pieces.pop(0)
    other = buffers.take(SIZE + 1)
    assert other.shape == (SIZE + 1,)
    assert sorted(raw.ctypes.data for raw in buffers._free) == sorted(addresses[2:])
    assert not pickle.loads(pickle.dumps(buffers))._free


def test_batches_that_are_kept_are_not_written_over(tmp_path):
    """An epoch whose batches are all held is the epoch whose batches are dropped."""
    from benchmarks.bench_loader import SITE, write_ours
    from benchmarks.loader_peers import Rows, write_rows
    from lazycache import open as open_dataset

    rows = Rows(tmp_path / "raw", 4096, 512, 128, 1024, 1024)
    write_rows(rows)
    write_ours(rows)
    with open_dataset(str(tmp_path / "acts")) as cache:
        loader = cache[SITE].loader(1024, block_bytes=8192, window_bytes=2 << 20)
        held = list(loader)
        loader.epoch = 0
        for batch, before in zip(loader, held, strict=True):
            assert torch.equal(batch.view(torch.int16), before.view(torch.int16))
            batch.zero_()
            del batch
        order = loader._feed.order.of_epoch(0).positions(0, 4096)
    found = torch.cat(held).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(found, np.array(rows.words())[order])
