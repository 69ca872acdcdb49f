"""Table files and the run-length form of their examples."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from codec_helpers import READERS
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.tables import decode_table, encode_table, run_lengths
from lazycache.errors import CorruptShardError

COLUMNS = {
    "example": np.array([3, 3, 4]),
    "position": np.array([0, 1, 0], np.int32),
    "token": ["a", None, "é"],
    "score": [0.5, None, 2.0],
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_a_table_file(tmp_path, reader):
    """Table files are plain Parquet for pyarrow, DuckDB, Polars and fastparquet."""
    path = tmp_path / "table.parquet"
    path.write_bytes(encode_table({**COLUMNS, "value": [b"x", b"y", b"z"]}))
    table = READERS[reader](path)
    assert table["example"].to_pylist() == [3, 3, 4]
    assert table["position"].to_pylist() == [0, 1, 0]
    assert table["token"].to_pylist() == ["a", None, "é"]


def test_a_table_comes_back_with_its_types():
    """Types and NULLs survive the file; it is compressed and carries checksums."""
    data = encode_table(COLUMNS)
    table = decode_table(data)
    assert table.schema.types == [pa.int64(), pa.int32(), pa.string(), pa.float64()]
    assert table.to_pydict() == {name: list(values) for name, values in COLUMNS.items()}
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    assert {group.column(i).compression for i in range(4)} == {"ZSTD"}


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda _: b"", lambda _: b"x" * 40])
def test_a_damaged_table_is_an_error_of_ours(damage):
    """A file that is cut, empty or something else raises CorruptShardError."""
    with pytest.raises(CorruptShardError, match="damaged"):
        decode_table(damage(encode_table(COLUMNS)))


def test_a_flipped_bit_in_a_table_is_found():
    """Pages carry a CRC, and it is checked."""
    data = bytearray(encode_table({"example": np.arange(1000) * 7919 % 1009}))
    data[200] ^= 4
    with pytest.raises(CorruptShardError):
        decode_table(bytes(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2), max_size=60))
def test_run_lengths_expand_to_the_ids(ids):
    """Values and lengths say the same as the ids, with no run split."""
    values, lengths = run_lengths(np.array(ids, np.int64))
    assert np.repeat(values, lengths).tolist() == ids
    assert (lengths > 0).all()
    assert (values[1:] != values[:-1]).all()
    assert values.dtype == lengths.dtype == np.int64
