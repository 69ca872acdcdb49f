"""lazycache.cache.reading.reader: rows of sites as tensors, and what is counted."""

import copy
import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.files.gather import words_of
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


def in_inference_mode(tensor: torch.Tensor) -> None:
    with torch.inference_mode():
        tensor.fill_(-1)


WRITES = {
    "fill_": lambda t: t.fill_(-1),
    "in inference mode": in_inference_mode,
    "apply_": lambda t: t[:1].apply_(lambda _: -1),
    "data": lambda t: t.data.zero_(),
    "storage": lambda t: t.untyped_storage().fill_(0),
    "numpy": lambda t: t.numpy().fill(-1),
    "dlpack": lambda t: torch.from_dlpack(t).add_(1),
    "as bytes": lambda t: t.view(torch.uint8).add_(1),
    "in shared memory": lambda t: t.share_memory_().add_(1),
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


WIDE = 1 << 14
"""Units of a row of 64 KiB: four of them are as large as the least load that is not copied."""


def lines_of(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]


def test_a_slice_of_one_chunk_is_the_file_itself(tmp_path) -> None:
    """From 256 KiB on nothing is copied: the tensor's memory is pages of the file, just its own."""
    dataset = local(tmp_path)
    values = counting(20, WIDE)
    dataset.commit([(0, 20)], {"s": values}, chunk_rows=20, shard_rows=20)
    path = dataset.store.local_path(dataset.snapshot.shards("s")[0].ref.path)
    reader = dataset.reader()
    held = reader.slice("s", 3, 9)
    (line,) = lines_of(path)
    low, high = (int(end, 16) for end in line.split()[0].split("-"))
    assert low <= held.data_ptr() < held.data_ptr() + held.nbytes <= high
    assert high - low < held.nbytes + 2 * 4096
    assert "p " in line  # private
    assert held.untyped_storage().nbytes() == held.nbytes == 6 * 4 * WIDE
    assert same_bits(held, values[3:9])
    small, narrow = reader.slice("s", 3, 6), reader.slice("s", 0, 20, units=(slice(0, 1000),))
    for copied in (small, narrow):
        assert copied.is_contiguous()
        assert not low <= copied.data_ptr() < high
        assert copied.untyped_storage().nbytes() == copied.nbytes
    half = reader.slice("s", 0, 20, units=(slice(0, WIDE, 2),))
    assert not half.is_contiguous()
    assert same_bits(half.contiguous(), values[:, ::2].contiguous())


@pytest.mark.parametrize("rows", [4, 20])
@pytest.mark.parametrize("way", WRITES)
def test_writing_reaches_neither_the_file_nor_other_reads(tmp_path, way: str, rows: int) -> None:
    """However a caller writes to what was loaded, copied or not, it stays with that caller."""
    dataset = local(tmp_path)
    values = counting(20, WIDE // 4)
    dataset.commit([(0, 20)], {"s": values}, chunk_rows=20, shard_rows=20)
    path = dataset.store.local_path(dataset.snapshot.shards("s")[0].ref.path)
    before = path.read_bytes()
    reader = dataset.reader()
    other, mine = reader.slice("s", 0, rows), reader.slice("s", 0, rows)
    WRITES[way](mine)
    assert not torch.equal(mine, values[:rows])
    assert path.read_bytes() == before
    for found in (other, reader.slice("s", 0, rows), reader.take("s", np.arange(rows))):
        assert same_bits(found, values[:rows])
    blocks = [block.clone() for block in reader.scan("s", range(rows), block_rows=2)]
    assert same_bits(torch.cat(blocks), values[:rows])
    assert same_bits(dataset.reader(check=True).slice("s", 0, rows), values[:rows])


@pytest.mark.parametrize("rows", [1, 20])
def test_pickling_writes_the_rows_alone(tmp_path, rows: int) -> None:
    """What is saved or copied of a load is its rows, not the shard."""
    dataset = local(tmp_path)
    values = counting(200, WIDE // 4)
    dataset.commit([(0, 200)], {"s": values}, chunk_rows=200, shard_rows=200)
    held = dataset.reader().slice("s", 50, 50 + rows)
    saved = io.BytesIO()
    torch.save(held, saved)
    assert len(pickle.dumps(held)) < held.nbytes + 2000
    assert saved.tell() < held.nbytes + 4000
    for copied in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held)):
        assert same_bits(copied, values[50 : 50 + rows])
        assert copied.untyped_storage().nbytes() == held.nbytes


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
    monkeypatch.setattr("lazycache.cache.files.parallel.PARALLEL_BYTES", 1)
    monkeypatch.setattr("lazycache.cache.reading.reader.BLOCK_BYTES", 256)
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
