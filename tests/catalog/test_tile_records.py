"""What the log says of tiled shards: round trips through a record, and what it cannot say."""

import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog import records
from lazycache.errors import CorruptShardError
from lazycache.types import ChunkRef, Commit, ShardRef

OFFSETS = st.integers(0, 1 << 40).map(lambda n: n * 64)
CRCS = st.integers(0, (1 << 32) - 1)


@st.composite
def tiled_shards(draw):
    """A shard of some chunks of as many tiles each, and its tile."""
    tiles = draw(st.integers(2, 5))
    chunks = draw(
        st.lists(
            st.builds(
                ChunkRef,
                rows=st.integers(1, 1 << 40),
                value_offset=OFFSETS,
                value_crc=CRCS,
                index_offsets=st.tuples(OFFSETS, OFFSETS),
                tile_offsets=st.tuples(*[OFFSETS] * tiles),
                tile_crcs=st.tuples(*[CRCS] * tiles),
            ),
            max_size=4,
        )
    )
    rows = sum(chunk.rows for chunk in chunks)
    tile = draw(st.integers(1, 1 << 30))
    return ShardRef("a", "data/a/x", 1 << 62, rows, 0, None, tuple(chunks), tile=tile)


def commit_of(shard):
    """A commit of one shard."""
    return Commit(version=1, txn="t", writer="w", time="now", run="main", shards=(shard,))


@given(shard=tiled_shards())
def test_every_tiled_shard_comes_back(shard):
    """Tiles, their places and checksums; a shard of rows has no word of them."""
    assert records.decode(records.encode(commit_of(shard)), version=1).shards == (shard,)
    chunks = tuple(replace(chunk, tile_offsets=(), tile_crcs=()) for chunk in shard.chunks)
    plain = records.encode(commit_of(replace(shard, chunks=chunks, tile=None)))
    assert b"tile" not in plain
    assert all(len(entry) == 4 for entry in json.loads(plain[:-10])["ops"][0]["chunks"])


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param([1, 64, 0, [0], [64], "x"], id="a text"),
        pytest.param([1, 64, 0, [0], [64], [-1]], id="a negative checksum"),
        pytest.param([1, 64, 0, [0], [1.5], [0]], id="half a byte"),
        pytest.param([1, 64, 0, [0], [True], [0]], id="a bool"),
        pytest.param([1, 64, 0, [0], [1 << 63], [0]], id="beyond int64"),
        pytest.param([1, 64, 0, [0], {"0": 64}, [0]], id="an object"),
        pytest.param([1, 64, 0, [0], [64], [0], 3], id="seven fields"),
        pytest.param([1, 64, 0, [0], [[64]], [0]], id="nested"),
    ],
)
def test_what_is_no_tile_is_refused(entry):
    """A record of anybody: the error is ours, whatever stands in the place of tiles."""
    op = {"op": "shard", "site": "a", "path": "data/a/x", "length": 999, "rows": 1}
    op |= {"row_start": 0, "covers": None, "tile": 4, "chunks": [entry]}
    record = {"version": 1, "txn": "t", "writer": "w", "time": "", "run": "r", "min_reader": 1}
    body = json.dumps({**record, "ops": [op]}).encode()
    with pytest.raises(CorruptShardError):
        records.decode(b"%s\n%08x\n" % (body, zlib.crc32(body)), version=1)
