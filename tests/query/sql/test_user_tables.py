"""The caller's own tables in a query: whatever holds them, for one query, joined lazily."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from query_helpers import FakeReader, small_dataset

import lazycache as lc
from lazycache.errors import QueryError, ReadOnlyError
from lazycache.query.sql.connection import connect
from lazycache.samples import small_cache

LABELS = {"token": [" Paris", " city", "none"], "weight": [0.5, -2.0, 9.0]}
QUERY = (
    "SELECT row, unit(resid_out_0, 1) * weight FROM tokens JOIN labels USING (token) "
    "WHERE weight < 1 AND position < 10 ORDER BY row"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One dataset for all tests; nothing is changed in it."""
    return small_dataset(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("index")


@pytest.fixture(params=[False, True], ids=["index in a file", "index in memory"])
def opened(made, folder, tmp_path, request):
    """A connection and its reader, with an index on disk or where none can be written."""
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" if request.param else folder
    reader = FakeReader(stored(made))
    with connect(made.snapshot, reader, made.store, index_directory=place) as connection:
        yield connection, reader


def stored(made):
    """The values of the sites of a dataset."""
    return made.values  # noqa: PD011  # no frame


def expected(made):
    """The rows of `QUERY`, by numpy."""
    values = stored(made)["resid_out_0"][:, 1].double().numpy()
    weights = {0: 0.5, 3: -2.0}
    rows = [row for row in range(5000) if row % 5 in weights and row % 50 < 10]
    return [(row, values[row] * weights[row % 5]) for row in rows]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(LABELS),
        pl.DataFrame(LABELS),
        pa.table(LABELS),
        pa.RecordBatch.from_pydict(LABELS),
        LABELS,
        {"token": np.array(LABELS["token"]), "weight": np.array(LABELS["weight"])},
        {"token": LABELS["token"], "weight": torch.tensor(LABELS["weight"]).bfloat16()},
    ],
    ids=["pandas", "polars", "arrow", "batch", "lists", "numpy", "torch"],
)
def test_every_kind_of_table_joins_lazily(made, folder, table):
    """The answer is numpy's, and only rows that have a partner are read, one unit of them."""
    reader = FakeReader(stored(made))
    with connect(made.snapshot, reader, made.store, index_directory=folder) as connection:
        rows = connection.sql(QUERY, tables={"labels": table}).fetchall()
    assert rows == expected(made)
    assert (reader.io.rows, reader.io.bytes) == (len(rows), 4 * len(rows))
    assert len(rows) == 400


def test_a_table_is_there_for_its_query_alone(opened, made):
    """Other queries do not see it; two queries at once see their own; a result may run twice."""
    connection, _ = opened
    first = connection.sql(QUERY, tables={"labels": LABELS})
    other = connection.sql("FROM labels", tables={"Labels": {"x": [1]}})
    assert sum(batch.num_rows for batch in first.batches(100)) == 400
    assert first.fetchall() == expected(made)
    assert other.fetchall() == [(1,)]
    with pytest.raises(QueryError, match="No table 'labels'"):
        connection.sql("FROM labels")

    def ask(number):
        return connection.sql("FROM t", tables={"t": {"x": [number]}}).fetchall()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [[(number,)] for number in range(40)]


def test_what_the_caller_does_later_comes_too_late(opened):
    """A query that was asked is not changed by its table."""
    connection, _ = opened
    frame, array, tensor = pd.DataFrame({"a": [1.0]}), np.array([2.0]), torch.tensor([3.0])
    shared = np.array([4.0])
    series = pd.Series(shared, copy=False)
    tables = {"f": frame, "d": {"b": array, "c": tensor, "e": series}}
    result = connection.sql("SELECT a, b, c, e FROM f, d", tables=tables)
    frame.loc[0, "a"], array[0], tensor[0], shared[0] = 7, 8, 9, 10
    tables.clear()
    assert result.fetchall() == [(1.0, 2.0, 3.0, 4.0)]


def test_values_of_every_kind_arrive(opened):
    """Vectors are FLOAT[n], half precision is exact, missing values are NULL, times stay times."""
    connection, _ = opened
    vectors = torch.arange(12.0).reshape(2, 2, 3).half()
    columns = {
        "v": vectors,
        "h": pa.array(np.array([0.5, 65504], np.float16)),
        "n": [None, 3],
        "t": np.array(["2026-01-01", "NaT"], "datetime64[s]"),
        "b": torch.tensor([True, False]),
        "Käse 1": ["x", None],
    }
    result = connection.sql("FROM t", tables={"t": columns})
    assert result.types[:2] == ("FLOAT[3][2]", "FLOAT")
    table = result.arrow()
    assert table["v"].to_pylist() == vectors.tolist()
    assert table["h"].to_pylist() == [0.5, 65504.0]
    assert table["n"].to_pylist() == [None, 3]
    assert [str(t) for t in table["t"].to_pylist()] == ["2026-01-01 00:00:00", "None"]
    assert table["Käse 1"].to_pylist() == ["x", None]
    named = connection.sql('SELECT "b" FROM "my ""table"', tables={'my "table': columns})
    assert named.fetchall() == [(True,), (False,)]
    assert connection.sql("FROM e", tables={"e": {"x": pa.array([], pa.int64())}}).fetchall() == []


def test_names_are_resolved_with_the_columns_of_the_table(opened, made):
    """A column called like a site is the table's where the table is meant, and else ambiguous."""
    connection, reader = opened
    tables = {"mine": {"row": [3, 4], "resid_out_0": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}}
    rows = connection.sql("SELECT unit(m.resid_out_0, 1) FROM mine m", tables=tables).fetchall()
    assert rows == [(2.0,), (4.0,)]
    assert reader.io.rows == 0
    rows = connection.sql(
        "SELECT unit(t.resid_out_0, 1), unit(mine.resid_out_0, 0) FROM mine "
        "JOIN tokens t USING (row) ORDER BY row",
        tables=tables,
    ).fetchall()
    assert rows == list(zip(stored(made)["resid_out_0"][3:5, 1].tolist(), [1.0, 3.0], strict=True))
    assert (reader.io.rows, reader.io.bytes) == (2, 8)
    with pytest.raises(QueryError, match="Ambiguous"):
        connection.sql("SELECT unit(resid_out_0, 1) FROM mine, tokens", tables=tables)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"tokens": LABELS}, "cannot be called 'tokens'"),
        ({"Sites": LABELS}, "cannot be called 'Sites'"),
        ({"a": LABELS, "A": LABELS}, "cannot be called 'A'"),
        ({"": LABELS}, "cannot be called ''"),
        ({"lazycache_index": LABELS}, "cannot be called 'lazycache_index'"),
        ({"a": 3}, "The table 'a' is a int; a pandas or Polars DataFrame"),
        ({"a": pd.Series([1])}, "The table 'a' is a Series"),
        ({"a": {"x": 3}}, "The column 'x' of 'a' is a int, no list"),
        ({"a": {"x": torch.tensor(3)}}, "The column 'x' of 'a' is one value"),
        ({"a": {"x": "text"}}, "The column 'x' of 'a' is a str"),
        ({"a": {"x": {1, 2}}}, "The column 'x' of 'a' is a set"),
        ({"a": {"x": [1, 2], "y": [1]}}, "'a' cannot be used.*length"),
        ({"a": {"x": [object()]}}, "'a' cannot be used.*object"),
        ({"a": {}}, "'a' has no columns"),
        ({"a": pa.table({"x": pa.nulls(1, pa.decimal256(50, 2))})}, "'a' .* x decimal256"),
        ({3: LABELS}, "tables= is a dict of name to table"),
        ([LABELS], "tables= is a dict of name to table"),
    ],
)
def test_tables_that_cannot_be_asked_say_why(made, folder, tables, message):
    """The table, the column and what can be handed over are named."""
    reader = FakeReader(stored(made))
    with (
        connect(made.snapshot, reader, made.store, index_directory=folder) as connection,
        pytest.raises(QueryError, match=message),
    ):
        connection.sql("SELECT 1", tables=tables)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("FROM lables", QueryError, "Nearest: labels"),
        ("SELECT wieght FROM labels", QueryError, "Nearest: weight"),
        ("SELECT token FROM labels WHERE weight < (", QueryError, "syntax error"),
        ("DELETE FROM labels", ReadOnlyError, "only reads"),
        ("FROM read_csv('/etc/passwd')", QueryError, "sees the dataset only"),
        ("FROM frame", QueryError, "No table 'frame'"),
    ],
)
def test_mistakes_and_doors_stay_what_they_are(opened, query, error, message):
    """Its names are among the nearest; it opens no file, no variable and cannot be written."""
    frame = pd.DataFrame(LABELS)
    connection, _ = opened
    with pytest.raises(error, match=message):
        connection.sql(query, tables={"labels": frame}).fetchall()


def test_tables_stand_beside_several_datasets_too():
    """One table of the caller's chooses rows of both; `tokens` alone stays nobody's name."""
    one, two = small_cache(), small_cache()
    with lc.connect({"a": one, "b": two}) as connection:
        rows = connection.sql(
            "SELECT unit(a.resid_out_0, 1) + unit(b.resid_out_0, 0) * scale FROM mine "
            "JOIN a.tokens a USING (row) JOIN b.tokens b USING (row) ORDER BY row",
            tables={"mine": {"row": [1, 4], "scale": [10.0, 100.0]}},
        ).fetchall()
        assert rows == [(3.0 + 20.0,), (9.0 + 800.0,)]
        assert one.io.rows == two.io.rows == 2
        with pytest.raises(QueryError, match="cannot be called 'tokens'"):
            connection.sql("SELECT 1", tables={"tokens": LABELS})
    assert small_cache().sql("FROM t", tables={"t": {"x": [1]}}).fetchall() == [(1,)]
