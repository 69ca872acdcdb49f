"""The ragged shard: rows of their own width, valid Parquet for everybody."""

import json
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from codec_helpers import (
    READERS,
    index_columns,
    ragged_block,
    ragged_rows,
    read_fastparquet_index,
    write_ragged,
)
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.dtypes import as_bytes, by_name, from_buffer
from lazycache.codec.shard import ShardEncoder
from lazycache.codec.spec import spec_of_block

READING_VALUES = {name: read for name, read in READERS.items() if name != "fastparquet"}

CASES = {
    "no rows": ([], (2, -1), torch.float32, 8),
    "one row": ([3], (2, -1), torch.float32, 8),
    "width 1": ([1] * 50, (1, -1), torch.bfloat16, 7),
    "one width": ([17] * 300, (12, -1), torch.bfloat16, 300),
    "causal": (list(range(1, 65)) * 3, (4, -1), torch.float64, 100),
    "examples": ([9] * 40 + [200] * 200 + [31] * 17, (2, -1), torch.float32, 128),
    "last first": ([5, 1, 4], (-1, 3), torch.float16, 2),
    "flat": ([5, 1, 4], (-1,), torch.uint8, 2),
    "wide rows": ([30_000, 1, 70_000], (2, -1), torch.float32, 2),
    "120 chunks": ([2, 3] * 600, (2, -1), torch.bfloat16, 10),
}


@pytest.mark.parametrize("reader", READING_VALUES)
@pytest.mark.parametrize("case", CASES)
def test_parquet_readers_read_the_same_rows(tmp_path, reader, case):
    """The readers pyarrow (CRC on), DuckDB and Polars read each row with its own width."""
    widths, shape, dtype, chunk_rows = CASES[case]
    block = ragged_block(widths, shape, dtype)
    path = tmp_path / "shard.parquet"
    chunks = write_ragged(path, block, chunk_rows=chunk_rows)
    table = READERS[reader](path)
    assert len(chunks) == -(-len(widths) // chunk_rows)
    assert table.column_names == ["example", "position", "width", "value"]
    assert table["value"].to_pylist() == ragged_rows(block)
    assert table["width"].to_pylist() == widths
    for name, column in index_columns(len(widths)).items():
        assert table[name].to_pylist() == column.tolist()


@pytest.mark.parametrize("case", CASES)
def test_fastparquet_reads_all_but_the_values(tmp_path, case):
    """The reader fastparquet says that it lacks the values' encoding; it reads the other columns.

    When this fails because it reads them, `docs/format.md` may say so.
    """
    widths, shape, dtype, chunk_rows = CASES[case]
    path = tmp_path / "shard.parquet"
    write_ragged(path, ragged_block(widths, shape, dtype), chunk_rows=chunk_rows)
    assert read_fastparquet_index(path)["width"].to_pylist() == widths
    if widths:
        with pytest.raises(NotImplementedError, match="Encoding 6"):
            READERS["fastparquet"](path)


@given(
    widths=st.lists(st.integers(1, 400) | st.just(7), min_size=1, max_size=300),
    heads=st.integers(1, 5),
    dtype=st.sampled_from(["bfloat16", "float32", "float64"]),
    chunk_rows=st.integers(1, 300),
)
def test_any_widths_come_back_bit_for_bit(tmp_path_factory, widths, heads, dtype, chunk_rows):
    """Rows of any widths: chunk references and all three readers give the very same bytes."""
    block = ragged_block(widths, (heads, -1), by_name(dtype).torch)
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    chunks = write_ragged(path, block, chunk_rows=chunk_rows)
    for read in READING_VALUES.values():
        table = read(path)
        assert table["value"].to_pylist() == ragged_rows(block)
        assert table["width"].to_pylist() == widths
    check_chunks(path.read_bytes(), chunks, block)


def check_chunks(data, chunks, block):
    """Read a shard by its chunk references alone."""
    row_bytes = spec_of_block("site", block).row_bytes
    values, widths = [], []
    for chunk in chunks:
        assert {at % 64 for at in (chunk.value_offset, *chunk.index_offsets)} == {0}
        widths += np.frombuffer(data, "<i4", chunk.rows, chunk.index_offsets[2]).tolist()
        assert sum(widths[-chunk.rows :]) == chunk.width
        raw = data[chunk.value_offset : chunk.value_offset + chunk.width * row_bytes]
        assert zlib.crc32(raw) == chunk.value_crc
        values.append(raw)
    assert widths == block.widths.tolist()
    assert b"".join(values) == bytes(as_bytes(block.values))


def test_a_chunk_can_be_viewed_as_a_tensor(tmp_path):
    """The values of a chunk whose rows have one width are one row-major tensor in the file."""
    block = ragged_block([5] * 8, (3, -1), torch.bfloat16)
    path = tmp_path / "shard.parquet"
    (chunk,) = write_ragged(path, block, chunk_rows=8)
    back = from_buffer(
        bytearray(path.read_bytes()[chunk.value_offset :]), by_name("bfloat16"), (8, 3, 5)
    )
    assert bytes(as_bytes(back)) == bytes(as_bytes(block.values))


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("examples", ["example"]),
        ("decoder_tokens", ["example", "position"]),
        ("calls", ["example", "position", "call"]),
        ("example_calls", ["example", "call"]),
    ],
)
def test_width_follows_the_index_columns_of_its_table(tmp_path, table, names):
    """Shards of every table carry that table's index columns, then `width`, then `value`."""
    block = ragged_block([2, 3], (2, -1), torch.float32, table=table)
    path = tmp_path / "shard.parquet"
    with path.open("wb") as file:
        encoder = ShardEncoder(
            spec_of_block("s", block), write=lambda buffers: file.write(b"".join(buffers))
        )
        index = {name: np.array([4, 7]) for name in names}
        chunk = encoder.add_chunk([as_bytes(block.values)], {**index, "width": block.widths})
        encoder.finish()
    table = READERS["pyarrow"](path)
    assert table.column_names == [*names, "width", "value"]
    assert len(chunk.index_offsets) == len(names) + 1
    assert all(table[name].to_pylist() == [4, 7] for name in names)
    assert str(table.schema.field(names[-1]).type) in {"int32", "int64"}


def test_the_file_says_that_it_is_ragged(tmp_path):
    """Key-value metadata have the layout, and -1 for the dimension that varies."""
    path = tmp_path / "shard.parquet"
    write_ragged(path, ragged_block([3, 4], (2, -1), torch.bfloat16), chunk_rows=3)
    metadata = pq.ParquetFile(path).metadata
    stored = {key.decode(): value.decode() for key, value in metadata.metadata.items()}
    assert json.loads(stored["lazycache.shape"]) == [2, -1]
    assert stored["lazycache.layout"] == "ragged"
    assert "DELTA_LENGTH_BYTE_ARRAY" in metadata.row_group(0).column(3).encodings


@pytest.mark.parametrize("where", ["lengths", "values"])
def test_a_flipped_bit_is_found_by_the_page_checksum(tmp_path, where):
    """The page's CRC holds for the lengths and for the values behind them."""
    path = tmp_path / "shard.parquet"
    (chunk,) = write_ragged(path, ragged_block([5] * 9, (2, -1), torch.float32), chunk_rows=9)
    data = bytearray(path.read_bytes())
    data[chunk.value_offset + (-1 if where == "lengths" else 7)] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        READERS["pyarrow"](path)


def test_pieces_and_one_buffer_make_the_same_file():
    """Rows that come in pieces are the same page as in one, and are not copied on their way."""
    block = ragged_block([4, 1, 9, 9], (2, -1), torch.float32)
    rows, files, seen = ragged_rows(block), [], []
    for pieces in ([b"".join(rows)], rows):
        file = bytearray()
        encoder = ShardEncoder(
            spec_of_block("s", block),
            write=lambda buffers, f=file: (f.extend(b"".join(buffers)), seen.extend(buffers)),
        )
        index = {**index_columns(4), "width": block.widths}
        encoder.add_chunk([memoryview(piece) for piece in pieces], index)
        encoder.finish()
        files.append(bytes(file))
    assert files[0] == files[1]
    assert any(buffer.obj is rows[-1] for buffer in seen)
