"""Sites of which some shards are cut into tiles: the same values, fewer bytes for few units."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits
from codec_helpers import random_tensor
from counting_store import CountingStore
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.files import fetched_shards
from lazycache.cache.selecting.plan import build
from lazycache.catalog.placing import check_shard
from lazycache.errors import CorruptShardError
from lazycache.storage.local_store import LocalStore
from lazycache.storage.open_store import open_store

ROWS, SHAPE = 120, (4, 10)
LAYOUTS = (None, 16, 7, 16, 40 - 1)
"""Units of a tile in each commit; None: rows."""


@cache
def values() -> torch.Tensor:
    """All rows of the site: random bits."""
    torch.manual_seed(6)
    return random_tensor(ROWS, SHAPE, torch.bfloat16)


def filled(store, layouts=LAYOUTS, **options) -> Dataset:
    """A dataset whose commits have their rows in these layouts."""
    dataset, each = Dataset(store), ROWS // len(layouts)
    for number, tile in enumerate(layouts):
        rows = values()[number * each : (number + 1) * each]
        dataset.commit([(number, each)], {"a": rows}, tile=tile, **options)
    return dataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A function that gives the dataset on a disk, or far away."""
    disk = filled(LocalStore(tmp_path_factory.mktemp("tiles"), create=True))
    far = filled(open_store("memory://tiled-shards", create=True, storage_options=None))
    return lambda place: far if place == "far" else disk


index = st.one_of(
    st.just(()),
    st.integers(0, 3).map(lambda i: (i,)),
    st.tuples(st.slices(4), st.slices(10)),
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=1, max_size=12)),
    st.lists(st.integers(0, 3), min_size=1, max_size=6).map(lambda i: (i,)),
)
"""Units of a row: a head, a window, some in any order and twice."""


@pytest.mark.parametrize("place", ["disk", "far"])
@given(
    units=index,
    rows=st.one_of(
        st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(lambda ab: range(*sorted(ab))),
        st.lists(st.integers(0, ROWS - 1), max_size=40).map(lambda r: np.array(r, dtype=np.int64)),
    ),
    check=st.booleans(),
    max_gap=st.sampled_from([0, 200, 1 << 20]),
    block_rows=st.sampled_from([None, 1, 7, 500]),
)
def test_any_layouts_read_as_rows(mixed, place, units, rows, check, max_gap, block_rows):
    """Rows and units of mixed layouts are those that were stored, bit for bit, read or scanned.

    They cost what `cost` said before.
    """
    reader = mixed(place).reader(check=check, max_gap=max_gap)
    words = values().view(torch.int16).numpy()[np.array(rows, dtype=np.int64)]
    # by numpy, which has slices that go backwards
    chosen = words[(slice(None), *units)].copy()
    expected = torch.from_numpy(chosen).view(torch.bfloat16)
    cost = reader.cost("a", rows, units=units, block_rows=block_rows).total()
    if block_rows is None:
        found = reader.read("a", rows, units=units)
    else:
        blocks = list(reader.scan("a", rows, units=units, block_rows=block_rows))
        found = torch.cat(blocks) if blocks else expected[:0]
    assert same_bits(found, expected)
    told = (cost.requests, cost.rows, cost.nbytes)
    assert told == (reader.io.requests, reader.io.rows, reader.io.bytes)


def test_scattered_rows_of_tiles_are_held_within_the_bound(tmp_path, monkeypatch):
    """What is fetched between rows of a tile counts too: large shards are read one by one."""
    monkeypatch.setattr(fetched_shards, "FETCHED_BYTES", 100_000)
    rows = torch.arange(4000 * 768).to(torch.int16).view(4000, 768)
    dataset = Dataset(CountingStore(LocalStore(tmp_path, create=True), latency=0.03))
    dataset.commit([(0, 4000)], {"a": rows}, tile=64, chunk_rows=1000, shard_rows=1000)
    for step, at_once in [(500, 1), (1000, 4)]:  # 64,000 bytes of each of 4 shards, and 2
        dataset.store.reset()
        few = np.arange(0, 4000, step)
        assert same_bits(dataset.reader().take("a", few, units=(130,)), rows[few, 130])
        assert (dataset.store.requests, dataset.store.in_flight_max) == (4, at_once)


def test_a_unit_takes_a_tile_of_each_chunk(tmp_path):
    """Of 768 units in tiles of 64, one unit of all rows reads a twelfth of the bytes far away.

    That is one range for each chunk. On this machine it reads the unit.
    """
    rows = torch.arange(4000 * 768).to(torch.int16).view(4000, 768)
    dataset = Dataset(CountingStore(LocalStore(tmp_path, create=True)))
    dataset.commit([(0, 4000)], {"a": rows}, tile=64, chunk_rows=1000, shard_rows=4000)
    dataset.store.reset()
    far = dataset.reader(max_gap=64 << 10)
    assert same_bits(far.read("a", range(4000), units=(130,)), rows[:, 130])
    one_tile = 4 * (999 * 64 + 1) * 2
    assert (dataset.store.requests, dataset.store.bytes) == (4, one_tile)
    assert (far.io.requests, far.io.rows, far.io.bytes) == (4, 4000, one_tile)
    assert 12 * one_tile <= rows.nbytes
    dataset.store = dataset.store.inner
    near = dataset.reader()
    assert same_bits(near.read("a", range(4000), units=(130,)), rows[:, 130])
    assert (near.io.requests, near.io.rows, near.io.bytes) == (4, 4000, 8000)


def test_whole_rows_are_one_request(tmp_path):
    """Tiles of a chunk lie side by side: all of it is one range, with the headers between them.

    One row of it is a range for each tile, not the chunk.
    """
    rows = torch.arange(2000 * 256).to(torch.int16).view(2000, 256)
    dataset = Dataset(CountingStore(LocalStore(tmp_path, create=True)))
    dataset.commit([(0, 2000)], {"a": rows}, tile=64, chunk_rows=2000, shard_rows=2000)
    reader, store = dataset.reader(), dataset.store
    store.reset()
    assert same_bits(reader.read("a", range(2000)), rows)
    assert store.requests == 1
    assert rows.nbytes < store.bytes <= rows.nbytes + 3 * 128
    store.reset()
    reader = dataset.reader(max_gap=512 << 10)
    assert same_bits(reader.read("a", range(7, 8)), rows[7:8])
    assert (store.requests, store.bytes) == (4, 4 * 128)


def test_units_of_one_tile_are_lent(tmp_path):
    """A slice of one tile is a map of the file: writable, its own, and nothing is copied."""
    rows = torch.arange(4096 * 128).to(torch.int32).view(4096, 128)
    dataset = Dataset(LocalStore(tmp_path, create=True))
    dataset.commit([(0, 4096)], {"a": rows}, tile=64, chunk_rows=4096, shard_rows=4096)
    reader = dataset.reader()
    lent = reader.slice("a", 0, 4096, units=(slice(64, 128),))
    assert lent.stride() == (64, 1)
    lent[:] = -1
    assert same_bits(reader.slice("a", 0, 4096, units=(slice(64, 128),)), rows[:, 64:])
    reader.close()
    assert int(lent.sum()) == -lent.numel()


class Cold:
    """A system with nothing in its page cache, which says what it was asked to read."""

    def __init__(self):
        self.asked = []

    def is_resident(self, _):
        return False

    def advise(self, address, size, _):
        self.asked.append((address, size))


def test_a_cold_disk_reads_tiles_ahead(tmp_path, monkeypatch):
    """Before the first copy the tile of every chunk is asked for, and nothing between them."""
    rows = torch.arange(4000 * 128).to(torch.int32).view(4000, 128)
    dataset = Dataset(LocalStore(tmp_path, create=True))
    dataset.commit([(0, 4000)], {"a": rows}, tile=64, chunk_rows=1000, shard_rows=4000)
    reader, system = dataset.reader(), Cold()
    monkeypatch.setattr("lazycache.cache.files.readahead.LIBC", system)
    assert same_bits(reader.slice("a", 0, 4000, units=(70,)), rows[:, 70])
    (placed,) = dataset.snapshot.shards("a")
    places = [chunk.tile_offsets[1] for chunk in placed.ref.chunks]
    base = system.asked[0][0] - places[0]
    assert system.asked == [(base + place, 1000 * 64 * 4) for place in places]


@pytest.mark.parametrize("place", ["disk", "far"])
def test_a_changed_tile_is_named(tmp_path, place):
    """One flipped bit is an error that names site, units and rows, of reads that touch the tile.

    Others read on. Far away it is noticed unasked where the whole tile was read.
    """
    dataset = filled(LocalStore(tmp_path, create=True), layouts=(16,), chunk_rows=50)
    shards = dataset.snapshot.shards("a")
    at = shards[1].ref.chunks[0].tile_offsets[2] + 5
    path = tmp_path / shards[1].ref.path
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    if place == "far":
        dataset.store = CountingStore(dataset.store)
    reader = dataset.reader(check=True)
    first = shards[1].row_start
    good = reader.read("a", range(ROWS), units=(slice(0, 3),))  # units 0 to 30: tiles 0 and 1
    assert same_bits(good, values()[:, :3])
    with pytest.raises(CorruptShardError, match=r"'a, units 32 to 40'.*rows 10 to 20"):
        reader.read("a", range(first, first + 1), units=(3,))
    with pytest.raises(CorruptShardError, match=r"'a, units 32 to 40'"):
        reader.take("a", np.array([3, first + 2, 9]))
    if place == "far":
        with pytest.raises(CorruptShardError, match=r"'a, units 32 to 40'"):
            dataset.reader().read("a", range(ROWS))


def spoiled(ref, **changes):
    """A shard with other numbers of its first chunk, or of its own."""
    chunk = replace(ref.chunks[0], **{k: v for k, v in changes.items() if k != "tile"})
    return replace(ref, chunks=(chunk, *ref.chunks[1:]), tile=changes.get("tile", ref.tile))


WRONG = {
    "a tile of nothing": {"tile": 0},
    "a tile as wide as a row": {"tile": 40, "tile_offsets": (64,), "tile_crcs": (0,)},
    "tiles of another width": {"tile": 8},
    "rows that have tiles": {"tile": None},
    "tiles without checksums": {"tile_crcs": ()},
    "tiles that are missing": {"tile_offsets": (), "tile_crcs": ()},
    "one tile too few": {"tile_offsets": (64, 128), "tile_crcs": (0, 0)},
    "tiles that overlap": {"tile_offsets": (64, 64, 128)},
    "tiles backwards": {"tile_offsets": (640, 320, 64), "value_offset": 640},
    "a tile that is not aligned": {"tile_offsets": (64, 321, 640), "value_offset": 64},
    "a tile behind the file": {"tile_offsets": (64, 640, 1 << 40), "value_offset": 64},
    "a tile beyond all numbers": {"tile_offsets": (64, 640, (1 << 63) - 64), "value_offset": 64},
    "a first tile elsewhere": {"value_offset": 0},
}


@pytest.mark.parametrize("what", WRONG)
def test_tiles_that_cannot_be_are_refused(mixed, what):
    """A log from anybody: wrong numbers of tiles are refused when it is replayed, and by a plan."""
    snapshot = mixed("disk").snapshot
    placed = next(p for p in snapshot.shards("a") if p.ref.tile == 16)
    site, wrong = snapshot.sites["a"], spoiled(placed.ref, **WRONG[what])
    check_shard(placed.ref, site)
    with pytest.raises(CorruptShardError):
        check_shard(wrong, site)
    if (
        what != "rows that have tiles"
    ):  # a plan reads them as rows: wrong values, but no wrong place
        with pytest.raises(CorruptShardError):
            build(site, [replace(placed, ref=wrong)])


def test_no_more_tiles_than_columns_may_be(mixed):
    """A row of a gigabyte in tiles of one unit is refused before anything as long is made."""
    snapshot = mixed("disk").snapshot
    placed = next(p for p in snapshot.shards("a") if p.ref.tile == 16)
    site = replace(snapshot.sites["a"], shape=(1 << 29,), row_bytes=1 << 30)
    wrong = replace(placed.ref, tile=1, length=1 << 50)
    for refuse in (check_shard, lambda ref, spec: build(spec, [replace(placed, ref=ref)])):
        with pytest.raises(CorruptShardError):
            refuse(wrong, site)
