"""Mapped files do not pile up in memory, and cold rows are read together."""

import gc
import mmap
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from cache_helpers import Dataset

from lazycache.cache.files import readahead, residency
from lazycache.cache.files.private_map import LIBC, give_back, private_map
from lazycache.cache.files.residency import WINDOW_BYTES, Residency, allowed_bytes
from lazycache.storage.open_store import open_store


def test_maps_are_given_back_only_above_what_may_be_resident(monkeypatch):
    """Looked at every 128 MiB that are touched; given back when more than allowed is resident."""
    # at the start, 50 more, 200 more, of which 180 stay (somebody else's), 50 more than these
    seen, given = iter([1000, 1050, 1200, 1180, 1230]), []

    class Maps:
        def give_back(self):
            given.append("back")

    maps = Maps()
    monkeypatch.setattr(residency, "_resident", lambda: next(seen))
    counts = Residency(maps.give_back, most_bytes=100)
    counts.touched(residency.LOOK_BYTES - WINDOW_BYTES - 1)
    assert not given, "not looked at yet: the second value is not used up"
    counts.touched(1)
    assert not given, "50 bytes above the start are allowed"
    counts.touched(residency.LOOK_BYTES)
    assert given == ["back"], "200 are not"
    counts.touched(residency.LOOK_BYTES)
    assert given == ["back"], "what others map is not counted"


def test_memory_that_may_be_used_is_the_least_that_is_said():
    """`RLIMIT_RSS` counts, though the system does not enforce it."""
    script = """
        import resource
        from lazycache.cache.files.residency import allowed_bytes
        resource.setrlimit(resource.RLIMIT_RSS, (1 << 30, resource.RLIM_INFINITY))
        assert allowed_bytes() <= 1 << 30, allowed_bytes()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    assert allowed_bytes() > 0


def test_what_is_given_back_reads_the_same_again(tmp_path):
    """Values of a map are equal before and after its pages were given back, and memory is less."""
    path = tmp_path / "file"
    values = np.arange(4 << 20, dtype=np.uint8)
    path.write_bytes(values.tobytes())
    with path.open("rb") as file:
        raw = private_map(file.fileno(), 0, values.size)
    before = residency._resident()
    assert np.array_equal(raw, values)
    touched = residency._resident()
    give_back(raw)
    assert touched - before >= 3 << 20
    assert touched - residency._resident() >= 3 << 20
    assert np.array_equal(raw, values)


def _drop(path):
    opened = os.open(path, os.O_RDONLY)
    os.fsync(opened)
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(opened)


def _resident_pages(path):
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = private_map(file.fileno(), 0, size)
        step = mmap.PAGESIZE
        return sum(LIBC.is_resident(raw.ctypes.data + at) for at in range(0, size, step))


def test_cold_rows_are_read_without_what_lies_between_them(tmp_path):
    """Rows that are not in the page cache bring their own pages, not megabytes around them."""
    store = open_store(tmp_path / "acts", create=True, storage_options=None)
    dataset = Dataset(store)
    values = torch.arange(8192.0 * 1024).reshape(8192, 1024)  # 32 MB
    for start in range(0, 8192, 1024):
        part = values[start : start + 1024]
        one = [(start, 1024)]
        dataset.commit(one, {"resid_out_0": part}, chunk_rows=1024, shard_rows=1024)
    rows = dataset.cache()["resid_out_0"].rows
    paths = sorted((tmp_path / "acts" / "data").rglob("*.parquet"))
    chosen = np.random.default_rng(0).integers(0, 8192, 60)
    gc.collect()
    for path in paths:
        _drop(path)
    if sum(map(_resident_pages, paths)) > 100:
        pytest.skip("this file system keeps files in memory: nothing is cold")
    assert torch.equal(rows[chosen].load(), values[chosen])
    pages = sum(path.stat().st_size // mmap.PAGESIZE for path in paths)
    assert sum(map(_resident_pages, paths)) < pages // 4


def test_rows_in_the_page_cache_are_not_asked_for(monkeypatch):
    """Warm rows cost a look at a few of them, no call for each."""
    calls = []
    monkeypatch.setattr(readahead.LIBC, "advise", lambda *args: calls.append(args))
    raw = np.ones(1 << 20, np.uint8)
    readahead.read_ahead(raw.ctypes.data + np.arange(0, 1 << 20, 4096), row_bytes=64)
    assert not calls
