"""lazycache.cache.reader: rows of sites as tensors, and what is counted."""

import threading

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.gather import words_of
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import CorruptShardError, SelectionError, SiteNotFoundError, StorageError
from lazycache.storage.open_store import open_store

ROWS = 57
SHAPES = [(), (1,), (3,), (8,), (2, 3, 4)]
UNITS = {
    1: [(0,), (-1,), (slice(None, None, -1),), (slice(0, 0),)],
    3: [
        (1,),
        (1, 2, 3),
        (slice(None), 1),
        (..., 2),
        ([1, 0],),
        (slice(None), [2, 0, 0], slice(1, 3)),
        (slice(None, None, -1), 0),
    ],
}


@pytest.fixture(params=["local", "memory"])
def dataset(request, tmp_path) -> Dataset:
    url = str(tmp_path / "d") if request.param == "local" else f"memory://{tmp_path}"
    return Dataset(open_store(url, create=True, storage_options=None))


def local(tmp_path) -> Dataset:
    return Dataset(open_store(str(tmp_path / "d"), create=True, storage_options=None))


def commit(dataset: Dataset, values: torch.Tensor, **options) -> None:
    dataset.commit([(0, 20), (1, len(values) - 20)], {"s": values}, **options)


def expected(values: torch.Tensor, rows: list[int], units: tuple) -> torch.Tensor:
    """Index raw words with numpy: what the reader must return, bit for bit."""
    picked = words_of(values)[np.array(rows, dtype=np.int64)][(slice(None), *units)]
    raw = np.ascontiguousarray(picked).reshape(-1).view(np.uint8)
    return torch.from_numpy(raw).view(values.dtype).view(picked.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_any_rows_and_units_of_any_dtype(dataset: Dataset, dtype) -> None:
    """Rows in any order, repeated, over chunks and shards, whole or some units: bit for bit."""
    scattered = [50, 3, 3, 49, 0, 56, 12, 11]
    shapes = {f"s{i}": counting(ROWS, *shape, dtype=dtype.torch) for i, shape in enumerate(SHAPES)}
    dataset.commit([(0, 20), (1, 37)], shapes)
    reader = dataset.reader(max_gap=16)
    for (site, values), shape in zip(shapes.items(), SHAPES, strict=True):
        for rows in ([], [5], [56, 0], list(range(ROWS)), [3, 4, 5, 9], scattered):
            for units in [(), *UNITS.get(len(shape), [])]:
                found = reader.take(site, np.array(rows, dtype=np.int64), units=units)
                assert same_bits(found, expected(values, rows, units)), (site, rows, units)


@pytest.mark.parametrize("units", [(), (3,), (slice(2, 5),), ([6, 1],), (slice(None, None, 2),)])
def test_slices_over_chunks_and_shards(dataset: Dataset, units: tuple) -> None:
    """A range of rows is the same whether it lies in one chunk or in many shards."""
    values = counting(ROWS, 8, dtype=torch.bfloat16)
    commit(dataset, values)
    reader = dataset.reader()
    for start, stop in [(0, 57), (0, 4), (1, 3), (3, 5), (9, 31), (56, 57), (7, 7), (57, 57)]:
        found = reader.slice("s", start, stop, units=units)
        assert same_bits(found, values[start:stop][(slice(None), *units)])


def test_a_slice_of_one_chunk_is_the_file_itself(tmp_path) -> None:
    """Within a chunk of a local shard nothing is copied: both tensors are one memory."""
    dataset = local(tmp_path)
    commit(dataset, counting(ROWS, 8))
    reader = dataset.reader()
    whole, part = reader.slice("s", 4, 8), reader.slice("s", 5, 7)
    assert part.data_ptr() == whole.data_ptr() + 8 * 4
    assert whole.untyped_storage().nbytes() == dataset.snapshot.shards("s")[0].ref.length
    assert whole.data_ptr() % 64 == 0


def test_writing_to_a_view_reaches_neither_the_file_nor_later_reads(tmp_path) -> None:
    """What a caller does in place to a zero-copy tensor stays with that caller."""
    dataset = local(tmp_path)
    values = counting(ROWS, 8)
    commit(dataset, values)
    path = dataset.store.local_path(dataset.snapshot.shards("s")[0].ref.path)
    before = path.read_bytes()
    reader = dataset.reader()
    mine = reader.slice("s", 0, 4)
    gathered = reader.take("s", np.array([0, 2]))
    with torch.inference_mode():
        mine.fill_(-1)
    assert (mine == -1).all()
    assert path.read_bytes() == before
    assert same_bits(reader.slice("s", 0, 4), values[:4])
    assert same_bits(reader.take("s", np.array([0, 2])), gathered)
    assert all((block >= 0).all() for block in reader.scan("s", range(4), block_rows=2))
    assert same_bits(dataset.reader(check=True).slice("s", 0, 4), values[:4])


def test_views_outlive_eviction_and_close(tmp_path) -> None:
    """A tensor keeps its own map: neither an evicted map nor a closed reader takes it away."""
    dataset = local(tmp_path)
    values = counting(ROWS, 8)
    commit(dataset, values)
    reader = dataset.reader(max_maps=1)
    views = [reader.slice("s", at, at + 2) for at in range(0, 50, 10)]
    assert len(reader._maps) == 1
    reader.close()
    assert same_bits(torch.cat(views), torch.cat([values[at : at + 2] for at in range(0, 50, 10)]))
    with pytest.raises(StorageError, match="was closed"):
        reader.slice("s", 0, 1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Dataset:
    """A local dataset that only reads."""
    dataset = local(tmp_path_factory.mktemp("stored"))
    commit(dataset, counting(ROWS, 8))
    return dataset


@given(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=30))
def test_one_contiguous_range_is_one_request(stored: Dataset, rows: list[int]) -> None:
    """Local reads count a request per range of consecutive rows of a chunk, and exact bytes."""
    reader = stored.reader()
    reader.take("s", np.array(rows), units=(slice(0, 2),))
    distinct = sorted(set(rows))
    # shards of 10 rows are chunks of 4, 4 and 2
    chunk = [(row // 10, row % 10 // 4) for row in distinct]
    breaks = sum(
        b - a > 1 or p != q
        for a, b, p, q in zip(distinct, distinct[1:], chunk, chunk[1:], strict=False)
    )
    assert (reader.io.requests, reader.io.rows) == (breaks + 1, len(rows))
    assert reader.io.bytes == len(rows) * 2 * 4


def test_one_remote_row_is_one_request_of_its_bytes() -> None:
    """A row from far away costs one ranged read and no footer."""
    dataset = Dataset(open_store("memory://one-row", create=True, storage_options=None))
    commit(dataset, counting(ROWS, 8))
    reader = dataset.reader()
    reader.take("s", np.array([13]))
    assert (reader.io.requests, reader.io.rows, reader.io.bytes) == (1, 1, 32)


def test_remote_ranges_merge_within_the_gap() -> None:
    """Near rows are one request, far rows are two; what is fetched between is counted."""
    dataset = Dataset(open_store("memory://gaps", create=True, storage_options=None))
    commit(dataset, counting(ROWS, 8), chunk_rows=57, shard_rows=57)
    for gap, requests, nbytes in [(32, 1, 96), (31, 2, 64)]:
        reader = dataset.reader(max_gap=gap)
        reader.take("s", np.array([2, 0]))
        assert (reader.io.requests, reader.io.bytes) == (requests, nbytes)


def test_narrow_units_of_wide_remote_rows_are_read_alone() -> None:
    """One unit of rows wider than the gap costs its bytes, not the rows."""
    dataset = Dataset(open_store("memory://narrow", create=True, storage_options=None))
    values = counting(ROWS, 64)
    commit(dataset, values)
    reader = dataset.reader(max_gap=16)
    assert same_bits(reader.slice("s", 0, 3, units=(5,)), values[0:3, 5])
    assert (reader.io.requests, reader.io.bytes) == (3, 12)


def test_missing_rows_are_an_error_that_names_them(dataset: Dataset) -> None:
    """Rows that the site does not cover are never made up."""
    commit(dataset, counting(ROWS, 8))
    dataset.commit([(2, 5)], {"other": counting(5, 8)})
    reader = dataset.reader()
    assert reader.covered("other", np.array([0, 56, 57, 61, 62])).tolist() == [
        False, False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(SelectionError, match="'s' has no value for row 60 of tokens"):
        reader.take("s", np.array([1, 60, 2]))
    with pytest.raises(SelectionError, match="'s' has no value for row 57 of tokens"):
        reader.slice("s", 50, 60)


def test_an_unknown_site_lists_the_nearest(dataset: Dataset) -> None:
    """A misspelt site is a KeyError that helps."""
    commit(dataset, counting(ROWS, 8))
    with pytest.raises(SiteNotFoundError, match="no site 't'"):
        dataset.reader().take("t", np.array([0]))


@pytest.mark.parametrize("how", ["truncated", "longer", "gone"])
def test_a_shard_of_another_length_is_never_mapped(tmp_path, how: str) -> None:
    """A file that is not as long as the log says is named, instead of a crash of the process."""
    dataset = local(tmp_path)
    commit(dataset, counting(ROWS, 8))
    ref = dataset.snapshot.shards("s")[0].ref
    path = dataset.store.local_path(ref.path)
    data = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(data[:-1] if how == "truncated" else data + b"x")
    for read in (lambda r: r.slice("s", 0, 2), lambda r: r.take("s", np.array([0, 9]))):
        with pytest.raises(CorruptShardError, match=ref.path):
            read(dataset.reader())
    assert len(dataset.reader().slice("s", 10, 20)) == 10


def flip(dataset: Dataset) -> int:
    """Change one bit of the second chunk; return the first row of it."""
    ref = dataset.snapshot.shards("s")[0].ref
    data = bytearray(dataset.store.get(ref.path))
    data[ref.chunks[1].value_offset + 3] ^= 1
    dataset.store.delete(ref.path)
    dataset.store.put(ref.path, bytes(data))
    return ref.chunks[0].rows


def test_check_finds_a_flipped_bit_at_first_touch(dataset: Dataset) -> None:
    """With check=True a chunk that differs from its checksum is never handed out."""
    commit(dataset, counting(ROWS, 8))
    row = flip(dataset)
    reader = dataset.reader(check=True)
    assert len(reader.slice("s", 0, row)) == row
    for read in (
        lambda: reader.slice("s", row, row + 1),
        lambda: reader.slice("s", 0, 57),
        lambda: reader.take("s", np.array([row + 1, 0])),
        lambda: list(reader.scan("s", range(57), block_rows=9)),
    ):
        with pytest.raises(CorruptShardError, match="do not have the checksum"):
            read()


def test_a_whole_remote_chunk_is_always_checked() -> None:
    """Bytes that came over a network as a whole chunk are compared without being asked."""
    dataset = Dataset(open_store("memory://flipped", create=True, storage_options=None))
    commit(dataset, counting(ROWS, 8))
    flip(dataset)
    with pytest.raises(CorruptShardError, match="checksum"):
        dataset.reader().slice("s", 0, 10)


@pytest.mark.parametrize("rows", [range(57), np.array([40, 2, 3, 9, 9])])
def test_scan_yields_every_row_in_bounded_blocks(dataset: Dataset, rows) -> None:
    """A scan is the rows in order, never more than a block at a time."""
    values = counting(ROWS, 8)
    commit(dataset, values)
    blocks = [b.clone() for b in dataset.reader().scan("s", rows, units=(1,), block_rows=3)]
    assert max(map(len, blocks)) <= 3
    assert same_bits(torch.cat(blocks), values[torch.as_tensor(list(rows)), 1])


def test_large_reads_use_several_threads_and_are_the_same(tmp_path, monkeypatch) -> None:
    """Above the threshold copies and gathers run on threads, block by block."""
    monkeypatch.setattr("lazycache.cache.parallel.PARALLEL_BYTES", 1)
    monkeypatch.setattr("lazycache.cache.reader.BLOCK_BYTES", 256)
    dataset = local(tmp_path)
    values = counting(ROWS, 8)
    commit(dataset, values)
    reader = dataset.reader()
    rows = np.random.default_rng(0).integers(0, ROWS, 500)
    assert same_bits(reader.take("s", rows), values[torch.from_numpy(rows)])
    assert same_bits(reader.slice("s", 0, ROWS), values)


def test_threads_read_at_once(tmp_path) -> None:
    """Eight threads that share a reader with one map all read what was stored."""
    dataset = local(tmp_path)
    values = counting(ROWS, 8)
    commit(dataset, values)
    reader = dataset.reader(max_maps=1)
    wrong: list[int] = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            rows = random.integers(0, ROWS, 9)
            at = int(random.integers(0, ROWS - 3))
            same = same_bits(reader.take("s", rows), values[torch.from_numpy(rows)])
            if not same or not same_bits(reader.slice("s", at, at + 3), values[at : at + 3]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
