"""Values of every dtype and shape arrive in SQL exactly."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from query_helpers import FakeReader, empty_dataset, spec_of, token_columns

from lazycache.codec.dtypes import DTYPES
from lazycache.errors import QueryError
from lazycache.query.sql import lazy_columns
from lazycache.query.sql.arrow_lists import LARGEST_ARRAY
from lazycache.query.sql.connection import connect
from lazycache.query.sql.lazy_column import LazyColumn, check_unit
from lazycache.query.sql.lazy_columns import read_values


def values_of(dtype, *shape):
    """Every bit pattern that a dtype has, or random ones, as [*shape]."""
    count = int(np.prod(shape))
    if dtype.name == "bool":
        return (torch.arange(count) % 3 == 0).reshape(shape)
    generator = torch.Generator().manual_seed(1)
    size = count * dtype.itemsize
    raw = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)
    values = raw.view(dtype.torch).reshape(shape)
    if dtype.torch.is_floating_point:  # NaN is unequal to itself; the rest of the bits stay
        values = torch.where(values.float().isnan(), torch.zeros((), dtype=dtype.torch), values)
    return values


def exact(value):
    """Plain Python numbers of a tensor, as SQL gives them."""
    widened = value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value
    return nested(widened.tolist())


def nested(value):
    return tuple(map(nested, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("dtype", DTYPES, ids=[dtype.name for dtype in DTYPES])
def test_every_dtype_is_exact(tmp_path, dtype):
    """Vectors, heads, scalars and units are the stored numbers, in a type that holds them."""
    vector, heads, scalar = values_of(dtype, 9, 5), values_of(dtype, 9, 2, 3), values_of(dtype, 9)
    made = empty_dataset(tmp_path)
    made.commit(
        {"tokens": token_columns([0], 9)},
        {"v": ("tokens", vector), "h": ("tokens", heads), "s": ("tokens", scalar)},
    )
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        result = connection.sql(
            "SELECT v, h, s, unit(v, 4), unit(h, 1, 2) FROM tokens ORDER BY row"
        )
        columns = list(zip(*result.fetchall(), strict=True))
    sql = dtype.duckdb
    assert result.types == (f"{sql}[5]", f"{sql}[3][2]", sql, sql, sql)
    assert [nested(value) for value in columns[0]] == list(exact(vector))
    assert [nested(value) for value in columns[1]] == list(exact(heads))
    assert list(columns[2]) == list(exact(scalar))
    assert list(columns[3]) == list(exact(vector[:, 4]))
    assert list(columns[4]) == list(exact(heads[:, 1, 2]))


def test_not_a_number_and_infinities_stay(tmp_path):
    """They are values, not NULLs."""
    made = empty_dataset(tmp_path)
    odd = torch.tensor([[float("nan")], [float("inf")], [float("-inf")]])
    made.commit({"tokens": token_columns([0], 3)}, {"v": ("tokens", odd)})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        rows = connection.sql("SELECT unit(v, 0) FROM tokens ORDER BY row").fetchall()
        ((count,),) = connection.sql("SELECT count(v) FROM tokens").fetchall()
    assert np.isnan(rows[0][0])
    assert rows[1:] == [(float("inf"),), (float("-inf"),)]
    assert count == 3


def test_a_dimension_too_long_for_an_array_is_a_list(tmp_path, monkeypatch):
    """Logits over a large vocabulary: DuckDB's arrays end below 100,000 elements."""
    vocabulary = LARGEST_ARRAY + 2
    logits = torch.arange(2 * vocabulary).reshape(2, vocabulary).float()
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 2)}, {"logits": ("tokens", logits)})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        result = connection.sql(
            "SELECT logits, unit(logits, 100000), len(logits) FROM tokens ORDER BY row"
        )
        assert result.types[0] == "FLOAT[]"
        table = result.arrow()
    assert table.column(1).to_pylist() == logits[:, 100000].tolist()
    assert table.column(2).to_pylist() == [vocabulary] * 2
    assert table.column(0)[1].values.to_numpy().tolist() == logits[1].tolist()


def test_null_rows_are_skipped():
    """A NULL row, as an outer join gives, is not asked of the reader."""
    values = torch.arange(6.0).view(3, 2)
    column = LazyColumn(spec_of("v", "tokens", values), "v", complete=True)
    reader = FakeReader({"v": values})
    read = read_values(reader, column, rows=pa.array([2, None, 0], pa.int64()))
    assert read.to_pylist() == [[4.0, 5.0], None, [0.0, 1.0]]
    assert reader.asked == [("v", 2)]
    none = read_values(reader, column, rows=pa.array([None], pa.int64()))
    assert none.to_pylist() == [None]
    assert reader.asked == [("v", 2)]


def test_different_units_of_one_call_are_read_unit_by_unit():
    """One read for each index that is asked for, whatever its order."""
    values = torch.arange(12.0).view(4, 3)
    column = LazyColumn(spec_of("v", "tokens", values), "v", complete=True)
    reader = FakeReader({"v": values})
    rows, units = pa.array([0, 1, 2, 3], pa.int64()), pa.array([2, 0, -1, None], pa.int64())
    read = lazy_columns.read_units(reader, column, rows=rows, indices=(units,))
    assert read.to_pylist() == [2.0, 3.0, 8.0, None]
    assert sorted(count for _, count in reader.asked) == [1, 1, 1]


@pytest.mark.parametrize("unit", [(2, 0), (-3, 0), (0, 4), (0, -5)])
def test_an_index_outside_of_the_shape_names_the_site(unit):
    """The message says what was asked and the shape."""
    spec = spec_of("z_1", "tokens", torch.zeros(1, 2, 4))
    asked = rf"unit\(z_1, {unit[0]}, {unit[1]}\).*\[2, 4\]"
    with pytest.raises(QueryError, match=asked):
        check_unit(spec, unit)
    assert check_unit(spec, (-2, -1)) == (0, 3)
