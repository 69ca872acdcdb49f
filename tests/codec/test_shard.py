"""The shard: valid Parquet for everybody, a raw matrix for us."""

import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from codec_helpers import READERS, index_columns, random_tensor, value_bytes, write_shard
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.dtypes import DTYPES, as_bytes, by_name, from_buffer
from lazycache.codec.shard import ShardEncoder
from lazycache.codec.spec import spec_of
from lazycache.types import SiteSpec

SHAPES = {
    "no rows": (0, (4,), torch.float32, 8),
    "one row": (1, (3,), torch.float32, 8),
    "d=1": (50, (1,), torch.float16, 7),
    "scalar": (50, (), torch.int64, 50),
    "one byte": (33, (), torch.bool, 10),
    "64 KB rows": (5, (16384,), torch.float32, 2),
    "heads": (40, (2, 3), torch.bfloat16, 16),
    "120 chunks": (1200, (8,), torch.bfloat16, 10),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", SHAPES)
def test_every_parquet_reader_reads_the_same_rows(tmp_path, reader, case):
    """The readers pyarrow (CRC on), DuckDB, Polars and fastparquet read each shard back equal."""
    rows, shape, dtype, chunk_rows = SHAPES[case]
    values = random_tensor(rows, shape, dtype)
    path = tmp_path / "shard.parquet"
    chunks = write_shard(path, values, chunk_rows=chunk_rows)
    table = READERS[reader](path)
    assert len(chunks) == -(-rows // chunk_rows)
    assert table.column_names == ["example", "position", "value"]
    assert value_bytes(table) == bytes(as_bytes(values))
    for name, column in index_columns(rows).items():
        assert table[name].to_pylist() == column.tolist()


@pytest.mark.parametrize("name", [dtype.name for dtype in DTYPES])
def test_every_dtype_is_stored_bit_for_bit(tmp_path, name):
    """A chunk's offset leads to the exact bytes of its rows, whatever the dtype."""
    values = random_tensor(21, (3,), by_name(name).torch)
    path = tmp_path / "shard.parquet"
    chunks = write_shard(path, values, chunk_rows=8)
    data, start = path.read_bytes(), 0
    for chunk in chunks:
        part = values[start : start + chunk.rows]
        raw = data[chunk.value_offset : chunk.value_offset + part.nbytes]
        assert raw == bytes(as_bytes(part))
        assert chunk.value_crc == zlib.crc32(raw)
        back = from_buffer(raw, by_name(name), tuple(part.shape))
        assert bytes(as_bytes(back)) == raw
        start += chunk.rows
    assert start == 21
    assert value_bytes(READERS["pyarrow"](path)) == bytes(as_bytes(values))


@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    width=st.integers(1, 40),
    table=st.sampled_from(["tokens", "examples"]),
)
def test_payloads_are_aligned_and_where_the_chunk_says(rows, width, table):
    """Value and index payloads lie at multiples of 64 and hold what was given."""
    file = bytearray()
    values = random_tensor(sum(rows), (width,), torch.uint8)
    spec = spec_of("site", table, values)
    encoder = ShardEncoder(spec, write=lambda buffers: file.extend(b"".join(buffers)))
    index, start, chunks = index_columns(sum(rows)), 0, []
    for count in rows:
        part = slice(start, start + count)
        columns = {name: column[part] for name, column in index.items()}
        chunks.append(encoder.add_chunk([as_bytes(values[part])], columns))
        assert encoder.length == len(file)
        start += count
    encoder.finish()
    assert (encoder.length, encoder.rows) == (len(file), sum(rows))
    start = 0
    for chunk, count in zip(chunks, rows, strict=True):
        assert chunk.rows == count
        assert len(chunk.index_offsets) == (2 if table == "tokens" else 1)
        assert {at % 64 for at in (chunk.value_offset, *chunk.index_offsets)} == {0}
        example = np.frombuffer(file, "<i8", count, chunk.index_offsets[0])
        assert example.tolist() == index["example"][start : start + count].tolist()
        if table == "tokens":
            position = np.frombuffer(file, "<i4", count, chunk.index_offsets[1])
            assert position.tolist() == index["position"][start : start + count].tolist()
        got = file[chunk.value_offset : chunk.value_offset + count * width]
        assert got == bytes(as_bytes(values[start : start + count]))
        start += count


def test_pieces_of_a_chunk_become_one_page(tmp_path):
    """A chunk may come in any number of pieces: the file is the same as from one."""
    values = random_tensor(30, (5,), torch.bfloat16)
    index = index_columns(30)
    files = []
    for cuts in ([0, 30], [0, 1, 2, 17, 30]):
        file = bytearray()
        encoder = ShardEncoder(
            spec_of("s", "tokens", values), write=lambda b, f=file: f.extend(b"".join(b))
        )
        pieces = [as_bytes(values[a:b]) for a, b in pairwise(cuts)]
        encoder.add_chunk(pieces, index)
        encoder.finish()
        files.append(bytes(file))
    assert files[0] == files[1]


def test_values_are_handed_on_as_they_are():
    """The encoder writes views of the very memory it was given: activations are not copied."""
    values = torch.zeros(16, 4)
    seen = []
    encoder = ShardEncoder(spec_of("s", "examples", values), write=seen.extend)
    encoder.add_chunk([as_bytes(values)], {"example": np.arange(16)})
    values.fill_(1.0)
    assert bytes(seen[-1]) == bytes(as_bytes(torch.ones(16, 4)))


def test_the_file_says_what_it_holds(tmp_path):
    """Key-value metadata name the site, dtype, shape and layout, and the writer signs."""
    path = tmp_path / "shard.parquet"
    write_shard(path, torch.zeros(3, 2, 5, dtype=torch.bfloat16), chunk_rows=3)
    metadata = pq.ParquetFile(path).metadata
    stored = {key.decode(): value.decode() for key, value in metadata.metadata.items()}
    assert json.loads(stored.pop("lazycache.shape")) == [2, 5]
    assert stored == {
        "lazycache.version": "1",
        "lazycache.site": "site",
        "lazycache.table": "tokens",
        "lazycache.dtype": "bfloat16",
        "lazycache.layout": "row",
    }
    assert metadata.created_by.startswith("lazycache version ")


def test_a_flipped_bit_is_found_by_the_page_checksum(tmp_path):
    """The reader pyarrow refuses a shard of which one value bit has changed."""
    path = tmp_path / "shard.parquet"
    (chunk,) = write_shard(path, torch.zeros(9, 4), chunk_rows=9)
    data = bytearray(path.read_bytes())
    data[chunk.value_offset + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        READERS["pyarrow"](path)


class SparseFile:
    """Writes what is not the shared block of zeros; leaves holes where it is."""

    def __init__(self, path: Path, zeros: memoryview) -> None:
        self._file, self._zeros = path.open("wb"), zeros

    def write(self, buffers) -> None:
        for buffer in buffers:
            if buffer is self._zeros:
                self._file.seek(buffer.nbytes, 1)
            else:
                self._file.write(buffer)

    def close(self) -> None:
        self._file.close()


def test_a_shard_beyond_4_gib_keeps_its_offsets(tmp_path):
    """Offsets need more than 32 bits: a sparse 4.5 GiB shard is read at its end, CRC on."""
    block, row_bytes = 64 << 20, 1 << 16
    zeros = memoryview(bytes(block))
    rows = block // row_bytes
    path = tmp_path / "large.parquet"
    spec = SiteSpec("s", "examples", "uint8", (row_bytes,), row_bytes)
    file = SparseFile(path, zeros)
    encoder = ShardEncoder(spec, write=file.write)
    for number in range(72):
        chunk = encoder.add_chunk([zeros], {"example": np.full(rows, number)})
    last = random_tensor(3, (row_bytes,), torch.uint8)
    end = encoder.add_chunk([as_bytes(last)], {"example": np.array([1, 2, 3])})
    encoder.finish()
    file.close()
    assert chunk.value_offset > 1 << 32
    assert path.stat().st_size == encoder.length
    shard = pq.ParquetFile(path, page_checksum_verification=True)
    assert shard.metadata.num_rows == 72 * rows + 3
    table = shard.read_row_group(72)
    assert value_bytes(table) == bytes(as_bytes(last))
    assert shard.read_row_group(71, columns=["example"])["example"].unique().to_pylist() == [71]
    with path.open("rb") as raw:
        raw.seek(end.value_offset)
        assert raw.read(row_bytes) == bytes(as_bytes(last[0]))
