"""The rows of a query in every shape a caller may want."""

import pytest
from query_helpers import small_dataset

from lazycache.query.sql.connection import connect

QUERY = "SELECT token, unit(resid_out_0, 1) AS a, position FROM tokens WHERE row < 3 ORDER BY row"


@pytest.fixture
def opened(tmp_path):
    """A connection and its reader."""
    made = small_dataset(tmp_path)
    reader = made.reader()
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path / "index") as opened:
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
