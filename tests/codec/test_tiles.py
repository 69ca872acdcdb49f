"""The tiled shard: groups of units in columns of their own, valid Parquet for everybody."""

import json
import zlib
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from codec_helpers import READERS, index_columns, random_tensor, write_shard
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.dtypes import DTYPES, as_bytes
from lazycache.codec.shard import ShardEncoder
from lazycache.codec.spec import spec_of
from lazycache.codec.tiles import cut_rows, fitting_tile, join_tiles, tile_of
from lazycache.errors import CaptureError
from lazycache.types import SiteSpec

CASES = {  # rows, shape of a row, dtype, units of a tile, rows of a chunk
    "no rows": (0, (8,), torch.float32, 4, 5),
    "one row": (1, (8,), torch.bfloat16, 4, 5),
    "tiles of one unit": (9, (3,), torch.float64, 1, 4),
    "a narrower last tile": (300, (150,), torch.float32, 64, 128),
    "heads": (300, (12, 64), torch.bfloat16, 64, 300),
    "bytes": (65, (7, 3), torch.int8, 5, 64),
    "many columns": (3, (10_500,), torch.float16, 256, 2),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", CASES)
def test_parquet_readers_read_the_same_rows(tmp_path, reader, case):
    """The readers pyarrow (CRC on), DuckDB, Polars, fastparquet: columns in order are the rows."""
    rows, shape, dtype, tile, chunk_rows = CASES[case]
    values = random_tensor(rows, shape, dtype)
    write_shard(tmp_path / "s.parquet", values, chunk_rows=chunk_rows, tile=tile)
    table = READERS[reader](tmp_path / "s.parquet")
    names = [name for name in table.column_names if name.startswith("value_")]
    assert names == sorted(names)
    assert len(names) == -(-values[:1].reshape(-1).numel() // tile) if rows else names
    columns = [table[name].to_pylist() for name in names]
    assert b"".join(map(b"".join, zip(*columns, strict=True))) == bytes(as_bytes(values))
    for name, column in index_columns(rows).items():
        assert table[name].to_pylist() == column.tolist()


@given(
    dtype=st.sampled_from([dtype.torch for dtype in DTYPES]),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).filter(lambda s: np.prod(s) > 1),
    rows=st.integers(1, 70),
    chunk_rows=st.integers(1, 70),
    data=st.data(),
)
def test_tiles_lie_where_the_log_says(tmp_path_factory, dtype, shape, rows, chunk_rows, data):
    """Any rows: each tile is a matrix of its units at its offset, with its CRC.

    The CRC of the chunk is the one that the same rows have when they are not cut.
    """
    tile = data.draw(st.integers(1, int(np.prod(shape)) - 1))
    values = random_tensor(rows, tuple(shape), dtype)
    folder = tmp_path_factory.mktemp("tiles")
    tiled = write_shard(folder / "t.parquet", values, chunk_rows=chunk_rows, tile=tile)
    whole = write_shard(folder / "w.parquet", values, chunk_rows=chunk_rows)
    file, size = (folder / "t.parquet").read_bytes(), values.dtype.itemsize
    units = values.reshape(rows, -1).view(torch.uint8).reshape(rows, -1)
    for number, chunk in enumerate(tiled):
        first = number * chunk_rows
        part = units[first : first + chunk_rows]
        tiles = []
        for at, offset in enumerate(chunk.tile_offsets):
            expected = part[:, at * tile * size : (at + 1) * tile * size].numpy().tobytes()
            tiles.append(memoryview(file)[offset : offset + len(expected)])
            assert offset % 64 == 0
            assert tiles[-1] == expected
            assert zlib.crc32(expected) == chunk.tile_crcs[at]
        assert sum(map(len, tiles)) == part.numel()
        assert bytes(join_tiles(tiles, rows=len(part))) == part.numpy().tobytes()
    assert [c.value_crc for c in tiled] == [c.value_crc for c in whole]
    assert [c.value_offset for c in tiled] == [c.tile_offsets[0] for c in tiled]
    assert [c.rows for c in tiled] == [c.rows for c in whole]


@given(cuts=st.lists(st.integers(0, 60), max_size=4))
def test_pieces_may_end_anywhere(cuts):
    """Rows in pieces that end within a row are cut as if they were one."""
    rows = bytes(range(60))
    bounds = sorted({0, 60, *cuts})
    pieces = [memoryview(rows)[a:b] for a, b in pairwise(bounds)]
    first, second = cut_rows(pieces, row_bytes=10, sizes=[7, 3])
    matrix = np.frombuffer(rows, np.uint8).reshape(6, 10)
    assert bytes(first) == matrix[:, :7].tobytes()
    assert bytes(second) == matrix[:, 7:].tobytes()


def test_the_file_says_what_it_is(tmp_path):
    """Layout and shape are in the metadata; a tile is a column of its bytes."""
    write_shard(tmp_path / "s.parquet", torch.zeros(3, 2, 5), chunk_rows=2, tile=4)
    schema = pq.ParquetFile(tmp_path / "s.parquet").schema_arrow
    assert schema.metadata[b"lazycache.layout"] == b"tile:4"
    assert json.loads(schema.metadata[b"lazycache.shape"]) == [2, 5]
    widths = {name: schema.field(name).type.byte_width for name in schema.names if "value" in name}
    assert widths == {"value_0000": 16, "value_0004": 16, "value_0008": 8}


@pytest.mark.parametrize("layout", ["tile", "tile:0", "tile:-4", "tile:4 ", "rows", "", None, 64])
def test_what_is_no_layout_is_refused(layout):
    """The error says which there are."""
    with pytest.raises(CaptureError, match="'row', or tiles of some units of a row: 'tile:64'"):
        tile_of(layout)


def test_rows_that_cannot_be_cut_stay_whole():
    """Ragged rows, and rows no wider than a tile; of too many tiles the error says a good width."""
    wide = SiteSpec("logits", "tokens", "float32", (8193,), 4 * 8193)
    assert fitting_tile(SiteSpec("p", "tokens", "float32", (2, -1), 8, "ragged"), 1) is None
    assert fitting_tile(SiteSpec("a", "tokens", "float32", (64,), 256), 64) is None
    assert fitting_tile(wide, 3) == 3
    with pytest.raises(CaptureError, match=r"8,193 units would be 8,193 tiles.*'tile:3' or more"):
        fitting_tile(wide, 1)


def test_an_encoder_of_tiles_holds_no_values_back():
    """All of a chunk is written when `add_chunk` returns: what follows is the footer."""
    file, values = bytearray(), torch.arange(24.0).reshape(3, 8)
    spec = spec_of("site", "examples", values)
    encoder = ShardEncoder(spec, write=lambda pieces: file.extend(b"".join(pieces)), tile=3)
    chunk = encoder.add_chunk([as_bytes(values)], {"example": np.arange(3)})
    assert len(file) == chunk.tile_offsets[-1] + 3 * 2 * 4
