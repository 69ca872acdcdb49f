"""lazycache.cache.files.maps: memory maps that are bounded, private and free of descriptors."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits

from lazycache.cache.files.maps import MapCache
from lazycache.errors import CorruptShardError
from lazycache.storage.open_store import open_store

ROWS = 60
WIDTH = 1 << 16
"""Units of a row: in float32 one row is as large as the least load that is not copied."""


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """One shard for each of 60 rows."""
    dataset = Dataset(open_store(str(tmp_path), create=True, storage_options=None))
    dataset.commit([(0, ROWS)], {"s": counting(ROWS, WIDTH)}, chunk_rows=1, shard_rows=1)
    return dataset


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("/data/s/" in line for line in lines)


def test_maps_hold_no_descriptors(dataset: Dataset) -> None:
    """Thousands of tensors that a caller holds on to need no open file each."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
    try:
        reader = dataset.reader()
        held = [reader.slice("s", i % ROWS, i % ROWS + 1) for i in range(3000)]
        gathered = reader.take("s", np.arange(ROWS)[::-1].copy())
        assert descriptors() == before
        assert mapped() >= 3000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert same_bits(torch.cat(held[:ROWS]), counting(ROWS, WIDTH))
    assert same_bits(torch.cat(held[-ROWS:]), counting(ROWS, WIDTH))
    assert same_bits(gathered, counting(ROWS, WIDTH).flip(0))


def test_where_there_is_no_room_for_maps_loads_are_copied(dataset: Dataset, monkeypatch) -> None:
    """A process may have so many maps only: beyond that nothing fails, it is copied."""
    monkeypatch.setattr("lazycache.cache.files.maps.MOST_LENT", 0)
    reader, before = dataset.reader(), mapped()
    held = reader.slice("s", 7, 8)
    reader.close()
    assert same_bits(held, counting(ROWS, WIDTH)[7:8])
    assert mapped() == before


@pytest.mark.parametrize("bound", [{"max_maps": 5, "max_bytes": 1 << 40}, {"max_maps": 99}])
def test_the_least_recently_used_goes_first(dataset: Dataset, bound: dict) -> None:
    """Number and bytes of the maps are bounded; what was used last stays."""
    refs = [placed.ref for placed in dataset.snapshot.shards("s")]
    bound.setdefault("max_bytes", 5 * refs[0].length)
    maps = MapCache(dataset.store, **bound)
    first = maps.get(refs[0], torch.float32)
    for ref in refs[1:20]:
        maps.get(ref, torch.float32)
        assert maps.get(refs[0], torch.float32) is first
    assert len(maps) == 5
    assert maps.get(refs[19], torch.float32) is maps.get(refs[19], torch.float32)


def test_maps_end_with_their_last_reader(dataset: Dataset) -> None:
    """A closed cache whose tensors are gone leaves no map behind."""
    reader = dataset.reader()
    held = [reader.slice("s", i, i + 1) for i in range(10)]
    reader.take("s", np.arange(20, 0, -1))
    assert mapped() > 20
    reader.close()
    assert mapped() == 10
    del held
    assert mapped() == 0


def test_one_path_under_other_measures_is_another_map(dataset: Dataset) -> None:
    """A log that names one file twice cannot make one site read with the other's length."""
    ref = dataset.snapshot.shards("s")[0].ref
    maps = MapCache(dataset.store, max_maps=9, max_bytes=1 << 40)
    known = maps.get(ref, torch.float32)
    assert maps.get(ref, torch.int16).values.dtype == torch.int16
    assert known.values.dtype == torch.float32
    with pytest.raises(CorruptShardError, match="the log recorded 1,099,511,627,776"):
        maps.get(replace(ref, length=1 << 40), torch.float32)


@pytest.mark.parametrize("how", ["truncated", "gone", "pipe"])
def test_a_file_that_changed_since_is_an_error(dataset: Dataset, how: str) -> None:
    """A map that is known is not used once its file is not what the log says: no crash."""
    ref = dataset.snapshot.shards("s")[3].ref
    path = dataset.store.local_path(ref.path)
    reader = dataset.reader()
    reader.take("s", np.array([3, 2]))
    if how == "truncated":
        os.truncate(path, 100)
    else:
        path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    for read in (lambda: reader.take("s", np.array([3, 2])), lambda: reader.slice("s", 3, 4)):
        with pytest.raises(CorruptShardError, match=ref.path):
            read()
    assert same_bits(reader.slice("s", 4, 5), counting(ROWS, WIDTH)[4:5])


def test_a_file_that_was_restored_is_mapped_anew(dataset: Dataset) -> None:
    """A shard that was replaced by its copy is read from the copy."""
    ref = dataset.snapshot.shards("s")[3].ref
    path = dataset.store.local_path(ref.path)
    reader, data = dataset.reader(), bytearray(path.read_bytes())
    reader.take("s", np.array([3]))
    at = ref.chunks[0].value_offset
    data[at : at + 4] = np.float32(77).tobytes()
    path.unlink()
    path.write_bytes(data)
    assert reader.take("s", np.array([3]))[0, 0].item() == 77


def test_a_file_that_became_a_link_out_of_the_dataset_is_refused(dataset, tmp_path) -> None:
    """What was swapped for a link to another file of the same size is not read, once known too."""
    ref = dataset.snapshot.shards("s")[3].ref
    path = dataset.store.local_path(ref.path)
    reader = dataset.reader()
    reader.slice("s", 3, 4)
    reader.take("s", np.array([3]))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"A" * ref.length)
    path.unlink()
    path.symlink_to(outside)
    for read in (lambda: reader.take("s", np.array([3])), lambda: reader.slice("s", 3, 4)):
        with pytest.raises(CorruptShardError, match=ref.path):
            read()
