"""Beside a WHERE, sites are read of the rows that it leaves, and of all of these at once."""

import pytest
import torch
from query_helpers import small_dataset

from lazycache.query.sql import rewrite
from lazycache.query.sql.connection import connect
from lazycache.query.sql.rewrite import Rewriter


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One small dataset for all tests of the module: 100 examples of 50 tokens."""
    return small_dataset(tmp_path_factory.mktemp("sql"))


@pytest.fixture(scope="module")
def counted(made):
    """What reads for all tests of the module."""
    return made.reader()


@pytest.fixture(scope="module")
def opened(made, counted, tmp_path_factory):
    """One connection for all tests of the module."""
    folder = tmp_path_factory.mktemp("index")
    with connect(made.snapshot, counted, made.store, index_directory=folder) as connection:
        yield connection


@pytest.fixture
def reader(counted):
    """A reader that counts from zero."""
    counted.io.reset()
    counted.asked.clear()
    return counted


@pytest.fixture
def connection(opened, reader):
    """A connection over it."""
    return opened


MIGHT_FAIL = "row % 50 = 3 AND position + 1 > 2"
"""DuckDB does not move what could fail below the columns of a view; it leaves 100 rows."""


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT resid_out_0 FROM tokens WHERE {}", 100),
        ("SELECT t.RESID_OUT_0 AS x, row FROM tokens t WHERE {} ORDER BY row DESC", 100),
        ("SELECT sum(list_sum(resid_out_0)) FROM tokens WHERE {}", 100),
        ("SELECT row FROM tokens WHERE {} AND list_sum(resid_out_0) > 0", 100),
        ("SELECT resid_out_0 FROM tokens WHERE unit(resid_out_0, 1) > 99 AND {}", 100),
        ("SELECT any_value(row) FROM tokens WHERE {} GROUP BY resid_out_0", 100),
        ("SELECT DISTINCT resid_out_0 FROM tokens WHERE {} ORDER BY resid_out_0", 100),
        ("SELECT resid_out_0 IS NULL FROM (SELECT * FROM tokens) WHERE {}", 100),
        ("SELECT t.resid_out_0 FROM tokens t JOIN runs USING (run) WHERE {}", 100),
        (
            (
                "SELECT t.resid_out_0 FROM tokens t JOIN examples e USING (example) "
                "WHERE t.row % 50 = 3 AND e.length + t.position > 2"
            ),
            100,
        ),
        ("SELECT * FROM tokens WHERE {}", 500),
        ("SELECT t.* EXCLUDE (z_1, run) FROM tokens t WHERE {}", 400),
        ("FROM tokens WHERE {} LIMIT 200", 500),
    ],
)
def test_a_bare_column_is_read_of_the_rows_that_where_leaves(connection, reader, query, rows):
    """In every place of a query; `*` is all four sites of tokens."""
    connection.sql(query.format(MIGHT_FAIL)).fetchall()
    assert 0 < reader.io.rows <= rows


ONCE = [
    ("SELECT avg(unit(mlp_act_3, 1)) FROM tokens WHERE example % 50 = 1", 1),
    (
        (
            "SELECT token, sum(unit(mlp_act_3, 1)) FROM tokens WHERE example % 50 = 1 "
            "GROUP BY 1 ORDER BY 1"
        ),
        1,
    ),
    ("SELECT unit(mlp_act_3, 1) AS u FROM tokens WHERE example % 50 = 1 ORDER BY u LIMIT 9", 1),
    ("SELECT row, unit(mlp_act_3, 1) FROM tokens WHERE example % 50 = 1", 1),
    ("SELECT mlp_act_3 FROM tokens WHERE token LIKE '%aris' OR position IN (1, 2)", 1),
    ("SELECT row FROM tokens t WHERE t.example % 50 = 1 AND unit(t.mlp_act_3, 1) > 0", 1),
    ("SELECT max(unit(mlp_act_3, 2)) FROM tokens WHERE run > '' AND unit(mlp_act_3, 1) > 0", 6),
    (
        (
            "SELECT avg(unit(mlp_act_3, 1)) FROM tokens JOIN examples USING (example) "
            "WHERE position = 1 AND length > 0"
        ),
        1,
    ),
]


@pytest.mark.parametrize(("query", "calls"), ONCE, ids=[query for query, _ in ONCE])
def test_what_is_left_of_many_blocks_is_read_at_once(connection, reader, query, calls):
    """5,000 rows are three blocks of DuckDB's scan: what is left of them is one of ours."""
    connection.sql(query).fetchall()
    assert 0 < len(reader.asked) <= calls


SAME = [
    *(query for query, _ in ONCE),
    "SELECT * FROM tokens WHERE token = ' Paris' AND position % 3 = 1",
    "SELECT *, z_1 AS again FROM tokens t WHERE row % 50 = 3 AND unit(t.z_1, 0, 1) > 0",
    # no partner, no value
    (
        "SELECT a.row, b.row, b.resid_out_0, unit(b.mlp_act_3, 1) FROM tokens a LEFT JOIN tokens b "
        "ON b.row = a.row + 4900 WHERE a.row % 50 = 3 ORDER BY a.row"
    ),
    # the order of what a query is over is kept, whatever it is called
    (
        "WITH q AS (SELECT * FROM tokens ORDER BY row DESC) SELECT row, unit(mlp_act_3, 1) FROM q "
        "WHERE token = ' Paris'"
    ),
    (
        "WITH tokens AS (SELECT * FROM main.tokens ORDER BY row DESC) "
        "SELECT row, unit(mlp_act_3, 1) FROM tokens WHERE token = ' Paris'"
    ),
    "SELECT list(row), list(unit(mlp_act_3, 1)) FROM tokens WHERE example IN (3, 99)",
    "SELECT list(x) FROM (SELECT unit(mlp_act_3, 1) AS x FROM tokens WHERE position = 7)",
    # names of the select list in WHERE, and names that hide others
    "SELECT position + 1 AS p, unit(mlp_act_3, 1) FROM tokens WHERE p = 3",
    "SELECT position AS resid_out_0, mlp_act_3 FROM tokens WHERE position = 3 ORDER BY 1, row",
    "SELECT main.tokens.row, unit(mlp_act_3, 1) FROM tokens WHERE main.tokens.position = 3",
    # rows of outside
    (
        "SELECT e.example, t.a FROM examples e, LATERAL (SELECT unit(mlp_act_3, 1) AS a "
        "FROM tokens WHERE tokens.example = e.example AND position = 2) t ORDER BY 1"
    ),
    (
        "SELECT (SELECT resid_out_0 FROM tokens t WHERE t.example = e.example AND position = 4) "
        "FROM examples e WHERE example % 2 = 0 ORDER BY e.example"
    ),
    "SELECT list_transform(mlp_act_3, lambda row: row + 1) FROM tokens t WHERE t.row IN (7, 9)",
    (
        "SELECT resid_out_0 FROM tokens WHERE row = 5 UNION ALL "
        "SELECT resid_out_0 FROM tokens WHERE row % 1000 = 4"
    ),
    "SELECT position AS row, unit(mlp_act_3, 1) FROM (FROM tokens) WHERE position = 3 ORDER BY 2",
    "SELECT 7 AS row FROM (FROM tokens) WHERE position = 3 ORDER BY unit(mlp_act_3, 1), position",
    "SELECT mlp_act_3[2], array_length(mlp_act_3) FROM tokens WHERE position = 3 AND run > ''",
    "SELECT dot(mlp_act_3, mlp_act_3) > 0 FROM tokens WHERE position = 3 AND row % 2 = 1",
]


@pytest.mark.parametrize("query", SAME)
def test_the_answer_is_the_same(connection, monkeypatch, query):
    """Rows, their order, and names of columns are those without any rewriting."""
    found = connection.sql(query)
    rows = found.fetchall()
    monkeypatch.setattr(Rewriter, "rewrite", lambda *_, **__: None)
    plain = connection.sql(query)
    assert (found.columns, found.types) == (plain.columns, plain.types)
    assert repr(rows) == repr(plain.fetchall())
    assert rows


def test_a_query_that_draws_numbers_draws_the_same(connection, monkeypatch):
    """Our own `random()` would take numbers that are the query's."""
    query = (
        "SELECT random(), unit(mlp_act_3, 1) FROM tokens WHERE position = 3 AND run > '' "
        "ORDER BY row"
    )
    changed = []
    real = rewrite.collect
    monkeypatch.setattr(
        rewrite, "collect", lambda *args, **kw: changed.append(real(*args, **kw)) or changed[-1]
    )
    assert len(connection.sql(query).fetchall()) == 100
    assert changed == [False]


def test_values_that_are_collected_are_those_of_the_rows(connection, made):
    """In the order of rows, with what else is asked."""
    rows = connection.sql(
        "SELECT row, token, unit(mlp_act_3, 2), resid_out_0 FROM tokens WHERE position IN (3, 44)"
    ).fetchall()
    wanted = [row for row in range(5000) if row % 50 in {3, 44}]
    assert [row for row, *_ in rows] == wanted
    assert [value for _, _, value, _ in rows] == made.values["mlp_act_3"][wanted, 2].tolist()
    assert torch.equal(
        torch.tensor([vector for *_, vector in rows]), made.values["resid_out_0"][wanted].float()
    )
