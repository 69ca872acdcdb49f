"""The file of a shard's statistics: places, checksums, what other readers make of it."""

import numpy as np
import pytest
import torch
from codec_helpers import read_duckdb, read_polars, read_pyarrow

from lazycache.codec.dtypes import as_bytes
from lazycache.codec.statistics import read_blocks, read_top, read_zones
from lazycache.codec.statistics_file import BLOCK, TOP, ZONE, StatisticsEncoder
from lazycache.errors import CorruptShardError
from lazycache.types import ChunkRef, ShardRef, SiteSpec, StatsRef

SPEC = SiteSpec("resid", "tokens", "bfloat16", (2, 3), 12)
UNITS = 6


def matrix(rows, dtype, start=0):
    return torch.arange(start, start + rows * UNITS).reshape(rows, UNITS).to(dtype)


@pytest.fixture
def written(tmp_path):
    """A file with every kind of rows, its shard, and a function that reads ranges of it."""
    path, asked = tmp_path / "stats.parquet", []
    with path.open("wb") as file:
        encoder = StatisticsEncoder(SPEC, write=lambda b: file.write(b"".join(b)))
        zones = [
            encoder.add(ZONE, [0, 128], [128, 128], extremes(2, 0)),
            encoder.add(ZONE, [256], [44], extremes(1, 50)),
        ]
        moments = {name: matrix(2, torch.float64, 7) for name in ("sum", "mean", "m2")}
        counts = {"nans": matrix(2, torch.int32)}  # no Inf: these are left out
        blocks = encoder.add(
            BLOCK, [0, 200], [200, 100], {**raw(counts), **extremes(2, 9), **raw(moments)}
        )
        ranks = {"top_value": matrix(3, torch.bfloat16), "top_row": matrix(3, torch.int32)}
        top = encoder.add(TOP, [0] * 3, [300] * 3, raw(ranks))
        encoder.finish()
    stats = StatsRef("s", path.stat().st_size, (2, 1), blocks, tuple(zones), top)
    assert stats.length == encoder.length
    chunks = tuple(ChunkRef(100, 64, 0, (0, 0)) for _ in range(3))
    shard = ShardRef("resid", "d", 9999, 300, 0, None, chunks, stats)

    def get_ranges(path_asked, ranges):
        asked.append((path_asked, list(ranges)))
        data = path.read_bytes()
        return [data[start:stop] for start, stop in ranges]

    return path, shard, get_ranges, asked


def raw(tensors):
    return {name: as_bytes(tensor) for name, tensor in tensors.items()}


def extremes(rows, start):
    return raw({"min": matrix(rows, torch.bfloat16, start), "max": matrix(rows, torch.bfloat16)})


def test_each_part_is_read_by_one_range_and_comes_back_bit_for_bit(written):
    """Blocks, zones and ranks are read without each other; what was left out is zero."""
    _, shard, get_ranges, asked = written
    blocks = read_blocks(shard, SPEC, get_ranges)
    assert blocks.starts.tolist() == [0, 200]
    assert blocks.rows.tolist() == [200, 100]
    assert blocks.nans.tolist() == matrix(2, torch.int64).tolist()
    assert not blocks.pos_infs.any()
    assert blocks.finite.tolist() == (blocks.rows[:, None] - blocks.nans).tolist()
    assert torch.equal(blocks.min, matrix(2, torch.bfloat16, 9))
    assert torch.equal(blocks.m2, matrix(2, torch.float64, 7))
    zones = read_zones(shard, SPEC, get_ranges)
    expected = torch.cat([matrix(2, torch.bfloat16), matrix(1, torch.bfloat16, 50)])
    assert torch.equal(zones.min, expected)
    top = read_top(shard, SPEC, get_ranges)
    assert torch.equal(top.values, matrix(3, torch.bfloat16))
    assert top.rows.tolist() == matrix(3, torch.int64).tolist()
    assert [len(ranges) for _, ranges in asked] == [1, 2, 1]
    (small,) = asked[0][1]
    assert small[1] - small[0] < 1000  # 432 bytes of numbers and the gaps between them


def test_a_shard_without_statistics_has_none(written):
    """Old shards, and parts that were left out, are no error."""
    _, shard, get_ranges, asked = written
    bare = StatsRef("s", 99, (), None, (), None)
    for stats in (None, bare):
        old = ShardRef("resid", "d", 9999, 300, 0, None, shard.chunks, stats)
        assert read_blocks(old, SPEC, get_ranges) is None
        assert read_zones(old, SPEC, get_ranges) is None
        assert read_top(old, SPEC, get_ranges) is None
    assert not asked


@pytest.mark.parametrize("read", [read_blocks, read_zones, read_top])
def test_a_flipped_bit_or_a_short_file_is_told_with_its_name(written, read):
    """Every part has a checksum in the log."""
    path, shard, get_ranges, asked = written
    read(shard, SPEC, get_ranges)
    start = asked[-1][1][0][0]
    data = bytearray(path.read_bytes())
    data[start + 3] ^= 4
    for damaged in (data, data[: start + 5]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptShardError, match="statistics s of site 'resid'"):
            read(shard, SPEC, get_ranges)


@pytest.mark.parametrize("reader", [read_pyarrow, read_duckdb, read_polars])
def test_independent_readers_read_the_file(written, reader):
    """Rows say what they are; what a kind does not have is NULL."""
    table = reader(written[0])
    assert table["kind"].to_pylist() == ["zone"] * 3 + ["block"] * 2 + ["top"] * 3
    assert table["row_start"].to_pylist() == [0, 128, 256, 0, 200, 0, 0, 0]
    assert table["rows"].to_pylist() == [128, 128, 44, 200, 100, 300, 300, 300]
    sums = table["sum"].to_pylist()
    assert [value is None for value in sums] == [True] * 3 + [False] * 2 + [True] * 3
    assert np.frombuffer(sums[4], "<f8").tolist() == matrix(2, torch.float64, 7)[1].tolist()
    assert table["pos_infs"].null_count == 8
    values = b"".join(table["top_value"].to_pylist()[5:])
    assert values == bytes(as_bytes(matrix(3, torch.bfloat16)))
