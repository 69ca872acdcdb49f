"""The rows of a query in every shape a caller may want."""

import datetime as dt

import duckdb
import numpy as np
import pytest
import torch
from query_helpers import small_dataset

from lazycache.errors import QueryError
from lazycache.query.sql.connection import connect
from lazycache.samples import small_cache

QUERY = "SELECT token, unit(resid_out_0, 1) AS a, position FROM tokens WHERE row < 3 ORDER BY row"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One dataset for all tests, and the folder of its index; nothing is changed in it."""
    folder = tmp_path_factory.mktemp("results")
    return small_dataset(folder), folder / "index"


@pytest.fixture
def opened(dataset):
    """A connection and its reader."""
    made, folder = dataset
    reader = made.reader()
    with connect(made.snapshot, reader, made.store, index_directory=folder) as opened:
        yield opened, reader, made


def test_all_forms_hold_the_same_rows(opened):
    """Tuples, pandas, Arrow, Polars and iteration agree, and one query ran for all of them."""
    connection, reader, made = opened
    result = connection.sql(QUERY)
    a = made.values["resid_out_0"][:3, 1].tolist()
    rows = [(" Paris", a[0], 0), (" the", a[1], 1), (" of", a[2], 2)]
    assert result.fetchall() == rows
    assert list(result) == rows
    assert list(result.df().itertuples(index=False, name=None)) == rows
    assert list(zip(*result.arrow().to_pydict().values(), strict=True)) == rows
    assert result.pl().rows() == rows
    assert result.columns == ("token", "a", "position")
    assert reader.io.rows == 3


def test_fetchone_goes_through_the_rows(opened):
    """One row after the other, then None; `fetchall` is all rows whatever was fetched."""
    connection, *_ = opened
    result = connection.sql("SELECT row FROM tokens WHERE row < 2 ORDER BY row")
    assert [result.fetchone() for _ in range(4)] == [(0,), (1,), None, None]
    assert result.fetchall() == [(0,), (1,)]


def test_batches_stream(opened):
    """Bounded batches, nothing kept: another reading runs the query again."""
    connection, reader, _ = opened
    result = connection.sql("SELECT row, resid_out_0 FROM tokens")
    sizes = [batch.num_rows for batch in result.batches(2048)]
    assert sum(sizes) == 5000
    assert max(sizes) <= 2048
    assert reader.io.rows == 5000
    assert len(result.fetchall()) == 5000
    assert reader.io.rows == 10_000
    assert sum(batch.num_rows for batch in result.batches(2048)) == 5000
    assert reader.io.rows == 10_000, "kept rows are not read again"


def test_only_the_beginning_is_read(opened):
    """Who asks for the first rows and columns reads no others: of 5,000 rows 5."""
    connection, reader, made = opened
    result = connection.sql("SELECT row, row AS again, resid_out_0, resid_out_0 FROM tokens")
    (batch,) = result.batches(2048, first=5, columns=2)
    assert (batch.num_rows, batch.num_columns, reader.io.rows) == (5, 2, 0)
    (batch,) = result.batches(2048, first=5, columns=3)
    assert batch.column(2).to_pylist() == made.values["resid_out_0"][:5].tolist()
    assert reader.io.rows == 5
    result.fetchall()
    assert [one.num_rows for one in result.batches(2, first=5)] == [2, 2, 1]


def test_values_have_pythons_types(opened):
    """Large sums are whole numbers; times are datetimes."""
    connection, *_ = opened
    ((total, time),) = connection.sql(
        "SELECT sum(row), any_value(time) FROM tokens, commits"
    ).fetchall()
    assert (total, type(total)) == (12_497_500, int)
    assert time.isoformat() == "2026-11-21T12:00:00"


def test_repr_shows_columns_and_reads_nothing(opened):
    """What it would give, not the data."""
    connection, reader, _ = opened
    shown = repr(connection.sql(QUERY))
    assert "token VARCHAR, a FLOAT, position INTEGER" in shown
    assert reader.io.requests == 0


def test_show_prints_a_table(opened, capsys):
    """The rows as a person reads them."""
    connection, *_ = opened
    connection.sql(QUERY).show()
    printed = capsys.readouterr().out
    assert "token" in printed
    assert " Paris" in printed


def test_columns_as_tensors(opened):
    """Vectors are [rows, n], heads [rows, h, d], numbers keep their type, all else are lists."""
    connection, reader, made = opened
    result = connection.sql(
        "SELECT row, position, token, resid_out_0, z_1, mlp_act_3, position > 1 AS late, "
        "1.5 AS half, sum(row) OVER () AS total, [row, 1] AS pair, {'a': row} AS struct, "
        "row::UTINYINT AS small FROM tokens WHERE row < 3 ORDER BY row"
    )
    found = result.torch()
    assert list(found) == list(result.columns)
    for site in ("resid_out_0", "z_1", "mlp_act_3"):
        torch.testing.assert_close(found[site], made.values[site][:3].float(), rtol=0, atol=0)
    kinds = {name: one.dtype for name, one in found.items() if isinstance(one, torch.Tensor)}
    assert kinds["row"] == kinds["total"] == torch.int64
    assert (kinds["position"], kinds["small"]) == (torch.int32, torch.uint8)
    assert (kinds["late"], kinds["half"]) == (torch.bool, torch.float64)
    assert found["late"].tolist() == [False, False, True]
    assert found["total"].tolist() == [3, 3, 3]
    assert [one.tolist() for one in found["pair"]] == [[0, 1], [1, 1], [2, 1]]
    assert found["token"] == [" Paris", " the", " of"]
    assert found["struct"] == [{"a": 0}, {"a": 1}, {"a": 2}]
    found["resid_out_0"].zero_()  # memory of its own
    assert torch.equal(result.torch()["resid_out_0"], made.values["resid_out_0"][:3])
    assert reader.io.rows == 9, "the query ran once"


def test_tensors_of_many_rows_of_none_and_of_lists_of_lists(opened):
    """Whatever the pieces of the answer are; what is not finite stays."""
    connection, _, made = opened
    whole = connection.sql("SELECT resid_out_0 AS x FROM tokens ORDER BY row").torch()["x"]
    assert torch.equal(whole, made.values["resid_out_0"])
    none = connection.sql("SELECT row, z_1, token, [row] AS l FROM tokens WHERE row < 0").torch()
    assert (none["row"].shape, none["z_1"].shape) == ((0,), (0, 2, 4))
    assert none["token"] == none["l"] == []
    nested = connection.sql("SELECT [[1, 2], [3, 4]] AS a, [[1], [2, 3]] AS b").torch()
    assert nested["a"][0].tolist() == [[1, 2], [3, 4]]
    assert [one.tolist() for one in nested["b"][0]] == [[1], [2, 3]]
    odd = connection.sql("SELECT unnest(['nan', '-inf', '1']::FLOAT[]) AS x").torch()["x"]
    np.testing.assert_array_equal(odd, np.array([np.nan, -np.inf, 1], np.float32))
    days = connection.sql("SELECT DATE '2026-01-02' AS d").torch()["d"]
    assert days == [dt.date(2026, 1, 2)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT NULL::INTEGER AS a",
            r"Of 1 values of the column 'a' 1 are NULL.*coalesce\(a, 0\)",
        ),
        ('SELECT [NULL, 3]::INT[2] AS "a b"', r'WHERE "a b" IS NOT NULL'),
        ("SELECT [1, NULL] AS a", "the column 'a' 1 are NULL"),
        ("SELECT NULL::FLOAT[2] AS a FROM tokens LIMIT 3", "Of 3 values"),
        ("SELECT sum(9223372036854775807) AS a FROM tokens", "'a' has numbers beyond int64"),
    ],
)
def test_what_no_tensor_holds_is_an_error(opened, query, message):
    """A NULL is never a number: the message names the column and says what to do."""
    with pytest.raises(QueryError, match=message):
        opened[0].sql(query).torch()


def test_a_relation_stays_when_the_dataset_is_closed(opened, tmp_path):
    """The kept rows in DuckDB's own hands: filtered, joined with files, in any connection."""
    connection, reader, _ = opened
    result = connection.sql(QUERY)
    rows = result.fetchall()
    relation = result.relation()
    assert reader.io.rows == 3
    connection.close()
    assert relation.filter("position > 0").fetchall() == rows[1:]
    assert duckdb.sql("SELECT count(*) FROM relation").fetchall() == [(3,)]
    with duckdb.connect() as mine:
        theirs = small_cache().sql("SELECT row, resid_out_0 FROM tokens").relation(mine)
        theirs.write_parquet(str(tmp_path / "rows.parquet"))
        read = mine.sql(f"SELECT max(row) FROM '{tmp_path / 'rows.parquet'}'").fetchall()
    assert read == [(5,)]
