"""SQL over a dataset: right answers, and only the rows and units that they need are read."""

import threading
from contextlib import suppress
from datetime import date

import duckdb
import numpy as np
import pytest
import torch
from query_helpers import WORDS, empty_dataset, small_dataset, token_columns

from lazycache.catalog import records
from lazycache.errors import CorruptShardError, QueryError, ReadOnlyError
from lazycache.query.sql.connection import connect
from lazycache.query.sql.members import ONLY
from lazycache.query.sql.results import Result
from lazycache.query.sql.rewrite import Rewriter


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One small dataset for all tests of the module."""
    return small_dataset(tmp_path_factory.mktemp("sql"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for its index."""
    return tmp_path_factory.mktemp("index")


@pytest.fixture
def reader(made):
    """A reader that counts from zero."""
    return made.reader()


@pytest.fixture
def sql(made, reader, folder):
    """The `sql` method of a connection."""
    with connect(made.snapshot, reader, made.store, index_directory=folder) as connection:
        yield connection.sql


def unit(made, site, *index):
    """The values of one unit of all rows, as SQL gives them."""
    return made.values[site][(slice(None), *index)].float()


PARIS = torch.arange(5000) % len(WORDS) == 0


def test_the_wish(sql, made, reader):
    """The strongest tokens of a neuron: one unit of each row is read, and the winners' again."""
    rows = sql("SELECT token, unit(mlp_act_3, 12) AS a FROM tokens ORDER BY a DESC LIMIT 20")
    best = torch.topk(unit(made, "mlp_act_3", 12), 20)
    assert [a for _, a in rows.fetchall()] == best.values.tolist()
    assert reader.io.rows <= 5000 + 20
    assert reader.io.bytes == 2 * reader.io.rows


def test_only_rows_that_survive_a_predicate_are_read(sql, made, reader):
    """With a filter on the text, one unit of the filtered rows is read and nothing else."""
    rows = sql(
        "SELECT row, unit(mlp_act_3, 12) AS a FROM tokens WHERE token = ' Paris' "
        "ORDER BY a DESC, row LIMIT 20"
    ).fetchall()
    values = unit(made, "mlp_act_3", 12)
    candidates = sorted((-values[row].item(), row) for row in PARIS.nonzero()[:, 0].tolist())
    assert [(-value, row) for row, value in rows] == candidates[:20]
    assert reader.io.rows in {1000, 1020}
    assert reader.io.bytes == 2 * reader.io.rows


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM tokens",
        "SELECT token, count(*) FROM tokens GROUP BY token",
        "SELECT * FROM sites",
        "SELECT * FROM shards JOIN chunks USING (path)",
        "SELECT label, sum(length) FROM examples JOIN tokens USING (example) GROUP BY label",
        "SELECT unit(mlp_act_3, 12), resid_out_0 FROM tokens WHERE token = 'absent'",
        "DESCRIBE tokens",
        "EXPLAIN SELECT unit(mlp_act_3, 1) FROM tokens",
        "SELECT count(*) FROM (SELECT *, unit(mlp_act_3, 1) AS a FROM tokens)",
    ],
)
def test_what_needs_no_value_reads_no_shard(sql, reader, query):
    """Counting, metadata, empty selections and plans leave the shards alone."""
    sql(query).fetchall()
    assert reader.io.requests == reader.io.rows == reader.io.bytes == 0


def test_making_a_result_reads_nothing_and_reading_it_twice_reads_once(sql, reader):
    """The query runs at the first reading; its rows are kept."""
    result = sql("SELECT resid_out_0 FROM tokens WHERE row < 10")
    assert reader.io.rows == 0
    assert result.columns == ("resid_out_0",)
    assert result.types == ("FLOAT[8]",)
    first, second = result.fetchall(), result.fetchall()
    assert first == second
    assert reader.io.rows == 10


CHEAP = {
    "position % 2 = 0 AND example % 10 = 1": 250,
    "example % 10 = 1 AND position % 2 = 0 AND length(token) > 3": 200,
    "lower(token) LIKE '%par%' AND NOT (position > 10)": 300,
    "example IN (SELECT example FROM examples WHERE label = 'l1' AND example < 6)": 100,
    "EXISTS (SELECT 1 FROM examples e WHERE e.example = tokens.example AND e.example < 2)": 100,
    "(token = ' Paris' OR token = ' the') AND example < 10": 200,
}


@pytest.mark.parametrize(("cheap", "surviving"), CHEAP.items(), ids=CHEAP)
@pytest.mark.parametrize("order", ["{cheap} AND {lazy}", "{lazy} AND {cheap}"])
def test_cheap_predicates_come_first(sql, reader, cheap, surviving, order):
    """Whatever the order in the text, a unit is read for rows that the cheap predicates left."""
    expected = sql(f"SELECT row FROM tokens WHERE {cheap}").fetchall()
    where = order.format(cheap=cheap, lazy="unit(mlp_act_3, 12) > 0.25")
    rows = sql(f"SELECT row FROM tokens WHERE {where}").fetchall()
    values = reader.values["mlp_act_3"][:, 12]
    assert sorted(rows) == sorted((row,) for (row,) in expected if values[row] > 0.25)
    assert len(expected) == reader.io.rows == surviving


def test_a_predicate_on_a_joined_table_comes_first(sql, made, reader):
    """DuckDB would move the unit's predicate below the join; the label decides first."""
    ((count,),) = sql(
        "SELECT count(*) FROM tokens t JOIN examples e USING (example) "
        "WHERE unit(t.mlp_act_3, 12) > 0 AND e.label = 'l1' AND e.length + e.example < 56"
    ).fetchall()
    rows = [row for row in range(5000) if row // 50 < 6 and row // 50 % 3 == 1]
    assert count == (unit(made, "mlp_act_3", 12)[rows] > 0).sum().item()
    assert reader.io.rows == len(rows)


def test_a_negated_alternative_reads_what_the_cheap_part_leaves(sql, made, reader):
    """NOT (cheap OR lazy) reads only where cheap is false."""
    rows = sql(
        "SELECT row FROM tokens WHERE NOT (token <> ' Paris' OR unit(mlp_act_3, 1) < 0) ORDER BY 1"
    ).fetchall()
    wanted = PARIS & (unit(made, "mlp_act_3", 1) >= 0)
    assert [row for (row,) in rows] == wanted.nonzero()[:, 0].tolist()
    assert reader.io.rows == 1000


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (
            (
                "SELECT token, row, unit(resid_out_0, 0) u, resid_out_0 FROM tokens "
                "ORDER BY u DESC LIMIT 3"
            ),
            5006,
        ),
        ("SELECT token, resid_out_0 FROM tokens ORDER BY row DESC LIMIT 3", 3),
        ("SELECT resid_out_0 FROM tokens WHERE row = 7", 2),
        ("SELECT unit(resid_out_0, 0) FROM tokens WHERE row = 7", 2),
    ],
)
def test_costs_are_those_that_are_documented(sql, reader, query, rows):
    """Beside another column, vectors are read of the winners alone; one row is read twice."""
    sql(query).fetchall()
    assert reader.io.rows == rows


@pytest.mark.parametrize("order", ["row", "unit(resid_out_0, 1)", "resid_out_0[3]", "token, row"])
@pytest.mark.parametrize("where", ["resid_out_0 IS NOT NULL", "resid_out_0[1] > 0", "true"])
@pytest.mark.parametrize("columns", ["row, resid_out_0", "row, token, resid_out_0"])
def test_the_first_rows_by_any_order_of_any_part(sql, made, order, where, columns):
    """Sorted, filtered and limited by values and by columns: DuckDB has many plans for it."""
    query = f"SELECT {columns} FROM tokens WHERE {where} ORDER BY {order} LIMIT 3"
    values = made.values["resid_out_0"]
    keys = {
        "row": lambda row: row,
        "unit(resid_out_0, 1)": lambda row: values[row, 1].item(),
        "resid_out_0[3]": lambda row: values[row, 2].item(),
        "token, row": lambda row: (WORDS[row % 5], row),
    }
    kept = range(5000) if ">" not in where else (values[:, 0] > 0).nonzero()[:, 0].tolist()
    assert [row for row, *_ in sql(query).fetchall()] == sorted(kept, key=keys[order])[:3]


def test_an_alias_in_where_is_as_lazy_as_what_it_stands_for(sql, reader):
    """`a > 0` is put behind the cheap predicate, as `unit(...) > 0` is."""
    sql("SELECT unit(mlp_act_3, 12) AS a FROM tokens WHERE a > 99 AND position % 50 = 7").fetchall()
    assert reader.io.rows == 100


def test_a_random_predicate_is_drawn_once(sql, reader):
    """It is not repeated, so the share of rows is its own; and it still comes first."""
    ((count,),) = sql(
        "SELECT count(*) FROM tokens WHERE unit(resid_out_0, 1) > -999 AND random() < 0.5"
    ).fetchall()
    assert 2200 < count < 2800
    assert reader.io.rows == count


def test_a_filter_of_an_aggregate_comes_first(sql, made, reader):
    """`FILTER (WHERE ...)` decides which rows are read."""
    ((mean, count),) = sql(
        "SELECT avg(unit(resid_out_0, 1)) FILTER (WHERE token = ' Paris'), count(*) FROM tokens"
    ).fetchall()
    assert mean == pytest.approx(unit(made, "resid_out_0", 1)[PARIS].double().mean().item())
    assert count == 5000
    assert reader.io.rows == 1000


def test_a_window_over_cheap_columns_comes_first(sql, reader):
    """QUALIFY keeps one row of each example, and only these are read."""
    rows = sql(
        "SELECT unit(resid_out_0, 3) FROM tokens "
        "QUALIFY row_number() OVER (PARTITION BY example ORDER BY position DESC) = 1"
    ).fetchall()
    assert len(rows) == 100
    assert reader.io.rows == 100


def test_a_vector_limited_to_a_few_rows_reads_these(sql, made, reader):
    """ORDER BY cheap columns with LIMIT reads the vectors of the rows that are left."""
    rows = sql(
        "SELECT resid_out_0 FROM tokens ORDER BY position DESC, example LIMIT 100"
    ).fetchall()
    last = made.values["resid_out_0"][49::50]
    assert [list(row[0]) for row in rows] == last.tolist()
    assert reader.io.rows == 100


def test_units_are_those_of_torch(sql, made):
    """0-based, negative from the end, one index per dimension."""
    rows = sql(
        "SELECT unit(resid_out_0, 0), unit(resid_out_0, -1), unit(z_1, 1, 2), unit(z_1, -2, -4), "
        'unit("model.norm:out", 3), unit(mlp_act_3, position % 16) FROM tokens ORDER BY row'
    ).fetchall()
    columns = list(zip(*rows, strict=True))
    assert list(columns[0]) == unit(made, "resid_out_0", 0).tolist()
    assert list(columns[1]) == unit(made, "resid_out_0", 7).tolist()
    assert list(columns[2]) == unit(made, "z_1", 1, 2).tolist()
    assert list(columns[3]) == unit(made, "z_1", 0, 0).tolist()
    assert list(columns[4]) == unit(made, "model.norm:out", 3).tolist()
    index = torch.arange(5000) % 50 % 16
    picked = made.values["mlp_act_3"].float()[torch.arange(5000), index]
    assert list(columns[5]) == picked.tolist()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT unit(resid_out_0, 8) FROM tokens LIMIT 1",
        "SELECT unit(resid_out_0, -9) FROM tokens LIMIT 1",
        "SELECT unit(v, 8) FROM (SELECT resid_out_0 AS v FROM tokens LIMIT 1)",
        "SELECT unit(z_1, 2) FROM tokens LIMIT 1",
        "SELECT unit(z_1, 0, 4) FROM tokens LIMIT 1",
    ],
)
def test_a_unit_outside_of_the_shape_is_an_error(sql, query):
    """Never NULL, never another unit: in the narrow and in the general form."""
    with pytest.raises(QueryError, match=r"outside the (shape|size).*0-based"):
        sql(query).fetchall()


def test_a_null_row_or_index_gives_null(sql):
    """Rows of an outer join without a partner, and unknown indices."""
    rows = sql(
        "SELECT unit(t.resid_out_0, 1), t.resid_out_0, unit(s.resid_out_0, NULL) "
        "FROM (SELECT 1 AS x) LEFT JOIN tokens t ON t.row = -x LEFT JOIN tokens s ON s.row = x"
    ).fetchall()
    assert rows == [(None, None, None)]


def test_duckdbs_own_subscript_is_one_based(sql, made):
    """`site[1]` is the first unit, as DuckDB documents."""
    ((first, head),) = sql("SELECT resid_out_0[1], z_1[2][3] FROM tokens WHERE row = 7").fetchall()
    assert first == made.values["resid_out_0"][7, 0].item()
    assert head == made.values["z_1"][7, 1, 2].item()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT unit(t.mlp_act_3, 2) FROM tokens AS t WHERE row < 5",
        "SELECT unit(tokens.mlp_act_3, 2) FROM main.tokens WHERE tokens.row < 5",
        "SELECT Unit(MLP_ACT_3, 2) FROM TOKENS WHERE row < 5",
        "FROM tokens SELECT unit(mlp_act_3, 2) WHERE row < 5",
        "WITH q AS (FROM tokens WHERE row < 5) SELECT unit(mlp_act_3, 2) FROM q",
        (
            "WITH q AS (SELECT row AS r, mlp_act_3 AS m FROM tokens) SELECT unit(m, 2) FROM q "
            "WHERE r < 5"
        ),
        "SELECT unit(s.mlp_act_3, 2) FROM (SELECT *, 1 AS one FROM tokens) s WHERE s.row < 5",
        "SELECT unit(b.mlp_act_3, 2) FROM tokens a JOIN tokens b ON a.row = b.row AND a.row < 5",
        "SELECT unit(mlp_act_3, 2) FROM tokens JOIN examples USING (example) WHERE tokens.row < 5",
        "SELECT unit(t.mlp_act_3, i) FROM tokens t, (SELECT 2 AS i) WHERE t.row < 5",
        (
            "SELECT (SELECT max(unit(u.mlp_act_3, 2)) FROM tokens u WHERE u.row = e.example) "
            "FROM examples e WHERE e.row < 5"
        ),
        (
            "SELECT unit(mlp_act_3, 2) FROM tokens WHERE row < 2 UNION ALL "
            "SELECT unit(mlp_act_3, 2) FROM tokens WHERE row BETWEEN 2 AND 4"
        ),
        "SELECT unit(mlp_act_3, $u) FROM tokens WHERE row < $n",
        "SELECT max(unit(mlp_act_3, 2)) FROM tokens WHERE row < 5 GROUP BY row",
        "SELECT unit(mlp_act_3, 2) FROM tokens WHERE row < 5 WINDOW w AS (ORDER BY row)",
    ],
)
def test_one_unit_is_read_in_every_form_of_a_query(sql, made, reader, query):
    """Aliases, joins, CTEs, subqueries, parameters: two bytes of each row, never the vector."""
    params = {"u": 2, "n": 5} if "$u" in query else None
    rows = sql(query, params).fetchall()
    assert sorted(value for (value,) in rows) == sorted(unit(made, "mlp_act_3", 2)[:5].tolist())
    assert reader.io.rows == 5
    assert reader.io.bytes == 10


@pytest.mark.parametrize(
    "query",
    [
        "SELECT unit(v, 2) FROM (SELECT mlp_act_3 AS v FROM tokens WHERE row < 5)",
        (
            "SELECT unit(mlp_act_3, 2) FROM (SELECT * FROM tokens JOIN examples USING (example)) "
            "ORDER BY position + 50 * example LIMIT 5"
        ),
        "SELECT unit(mlp_act_3, 2) FROM tokens WHERE row < 5 GROUP BY mlp_act_3",
        "SELECT mlp_act_3.unit(2) FROM tokens WHERE row < 5",
        (
            "WITH tokens AS (SELECT mlp_act_3, -row AS row FROM memory.main.tokens WHERE row < 5) "
            "SELECT unit(mlp_act_3, 2) FROM tokens"
        ),
        "SELECT unit(m, 2) FROM tokens AS t(r, a, b, c, d, e, m) WHERE r < 5",
        (
            "SELECT unit(mlp_act_3, 2) FROM (SELECT * REPLACE (99 - row AS row) FROM tokens) "
            "WHERE row > 94"
        ),
        "SELECT unit(mlp_act_3, 2) FROM (SELECT 3 AS row, mlp_act_3 FROM tokens WHERE row < 5)",
        "SELECT list_transform([2], lambda i: unit(mlp_act_3, i))[1] FROM tokens WHERE row < 5",
        (
            "SELECT x FROM (SELECT unit(mlp_act_3, 2) AS mlp_act_3, mlp_act_3 AS x FROM "
            "(SELECT mlp_act_3, row FROM tokens WHERE row < 5)) AS s(y, z), (SELECT y AS x)"
        ),
    ],
)
def test_where_the_row_cannot_be_seen_the_answer_is_the_same(sql, made, query):
    """Other tables' rows, renamed and shadowed names: slower, never another value."""
    values = [value for (value,) in sql(query).fetchall()]
    assert sorted(values) == sorted(unit(made, "mlp_act_3", 2)[:5].tolist())


@pytest.mark.parametrize(
    "query",
    [
        "SELECT t.row, u.resid_out_0 FROM tokens t LEFT JOIN tokens u ON t.row = u.row - 4998",
        (
            "SELECT s.row, unit(s.x, 0) FROM (SELECT t.row, u.resid_out_0 AS x FROM tokens t "
            "LEFT JOIN tokens u ON t.row = u.row - 4998) s"
        ),
    ],
)
def test_vectors_without_a_partner_are_null(sql, made, query):
    """DuckDB 2.0 fails on arrays that an outer join leaves out; sites are read after the join."""
    found = dict(sql(query).fetchall())
    assert len(found) == len(unit(made, "resid_out_0", 0))
    there = [row for row, value in found.items() if value is not None]
    assert sorted(there) == [0, 1]
    wanted = unit(made, "resid_out_0", 0)[4998].item()
    assert np.ravel(found[0])[0] == pytest.approx(wanted)


def test_arrays_that_duckdb_cannot_join_are_explained(sql):
    """The error that DuckDB has for them comes with what to write."""
    with pytest.raises(QueryError, match="Name the site in the SELECT of the join"):
        sql("SELECT list_value(row, row)::FLOAT[3] FROM tokens").fetchall()


@pytest.mark.parametrize(
    "query",
    [
        # an alias that is called like a site
        "SELECT row, resid_out_0 AS mlp_act_3 FROM tokens ORDER BY unit(mlp_act_3, 2), row LIMIT 9",
        "SELECT unit(mlp_act_3, 1) AS mlp_act_3 FROM tokens WHERE unit(mlp_act_3, 1) > 2",
        "SELECT unit(resid_out_0, 1) AS u, count(*) FROM tokens WHERE row<9 GROUP BY u ORDER BY 1",
        # predicates with NULLs: neither true nor false
        "SELECT count(*) FROM tokens WHERE nullif(position, 3) <> 4 AND unit(mlp_act_3, 1) > 0",
        "SELECT count(*) FROM tokens WHERE NOT (position < 9 AND unit(mlp_act_3, 1) > 0)",
        "SELECT count(*) FROM tokens WHERE position < 9 OR unit(mlp_act_3, 1) > 0",
        "SELECT count(unit(mlp_act_3, 1)) FILTER (WHERE nullif(position, 3) < 5) FROM tokens",
        "SELECT list(unit(mlp_act_3, 1) ORDER BY row) FILTER (WHERE row < 5) FROM tokens",
        # groups, sets, windows, distinct, sampling of nothing
        "SELECT token, avg(unit(z_1, 1, 1)) a FROM tokens GROUP BY token HAVING a > 0 ORDER BY 1",
        "SELECT DISTINCT unit(mlp_act_3, 1) > 0 AS p FROM tokens ORDER BY p",
        "SELECT token, max(unit(z_1, 0, 1)) FROM tokens GROUP BY ROLLUP (token) ORDER BY 1, 2",
        (
            "SELECT row, lag(unit(mlp_act_3, 1)) OVER w FROM tokens WHERE row < 9 "
            "WINDOW w AS (ORDER BY row) ORDER BY row"
        ),
        (
            "SELECT example, position FROM tokens WHERE unit(mlp_act_3, 1) > 3 EXCEPT "
            "SELECT example, position FROM tokens WHERE position < 9 ORDER BY ALL"
        ),
        (
            "WITH RECURSIVE r AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) "
            "SELECT i, unit(mlp_act_3, i) FROM r, tokens WHERE tokens.row = 5 ORDER BY i"
        ),
        (
            "SELECT e.example, t.a FROM examples e, LATERAL (SELECT max(unit(mlp_act_3, 1)) AS a "
            "FROM tokens WHERE tokens.example = e.example) t ORDER BY 1 LIMIT 5"
        ),
        (
            "SELECT label, count(*) FROM examples e WHERE EXISTS (SELECT 1 FROM tokens t WHERE "
            "t.example = e.example AND unit(t.mlp_act_3, 1) > 2.5) GROUP BY label ORDER BY label"
        ),
        (
            "SELECT a.row, b.row FROM tokens a JOIN tokens b ON a.example = b.example "
            "AND unit(a.mlp_act_3, 1) < unit(b.mlp_act_3, 1) WHERE a.example = 0 ORDER BY ALL"
        ),
        "SELECT * EXCLUDE (run), unit(resid_out_0, 1) FROM tokens WHERE row < 3 ORDER BY row",
        "SELECT CASE WHEN row < 2 THEN unit(mlp_act_3, 1) END FROM tokens ORDER BY row LIMIT 4",
        "SELECT unit(mlp_act_3, 1)::INTEGER % 2, 'it''s', [unit(z_1, 0, 0)] FROM tokens LIMIT 4",
        "SELECT count(*) FROM tokens WHERE (unit(mlp_act_3, 1), position) > (0.5, 1)",
        # a CTE called like a table: inside itself and in those before it, the table is meant
        (
            "WITH x AS (SELECT unit(z_1, 0, 1) AS u FROM tokens), tokens AS (SELECT row AS position"
            ", position AS row, unit(resid_out_0, 1) AS u, resid_out_0, z_1 FROM tokens) SELECT "
            "sum(x.u)::INTEGER FROM x UNION ALL SELECT sum(u * position)::INTEGER FROM tokens"
        ),
        # each use of a CTE is rows of its own
        (
            "WITH q AS (SELECT row, z_1 FROM tokens WHERE row < 5), r AS (SELECT x.row AS n, "
            "y.z_1 AS z FROM q x JOIN q y ON x.row = y.row + 1) SELECT n, unit(z, 1, 0) FROM r "
            "ORDER BY n"
        ),
        # what a grouping set leaves out is NULL
        (
            "SELECT row, unit(z_1, 0, 1) FROM tokens WHERE row < 3 GROUP BY ROLLUP (row, z_1) "
            "ORDER BY ALL"
        ),
        (
            "SELECT s.row, unit(s.z_1, 0, 1) FROM (SELECT row, z_1 FROM tokens WHERE row < 3 "
            "GROUP BY CUBE (row, z_1)) s ORDER BY ALL"
        ),
        # USING merges columns: this row is that of the right side
        (
            "SELECT s.row, unit(s.resid_out_0, 0) FROM (SELECT row, resid_out_0 FROM (FROM tokens "
            "WHERE position = 0) t FULL JOIN (VALUES (0), (3)) v(row) USING (row)) s "
            "WHERE s.row < 9 ORDER BY 1"
        ),
        "VALUES (1), (2)",
    ],
)
def test_rewriting_changes_what_is_read_and_never_the_answer(made, folder, monkeypatch, query):
    """Each query gives the same rows and column names as DuckDB gives without any rewriting."""
    with connect(made.snapshot, made.reader(), made.store, index_directory=folder) as connection:
        rewritten = connection.sql(query)
        rows = rewritten.fetchall()
        monkeypatch.setattr(Rewriter, "rewrite", lambda *_, **__: None)
        plain = connection.sql(query)
        assert rewritten.columns == plain.columns
        assert rows == plain.fetchall()
    assert rows


def test_columns_keep_the_names_that_duckdb_gives_them(sql):
    """What the query says, not what it was rewritten to; aliases stay."""
    result = sql(
        "SELECT unit(mlp_act_3, 1), avg(unit(t.mlp_act_3, 1)) + 1, unit(mlp_act_3, 1) AS a, token "
        "FROM tokens t GROUP BY ALL"
    )
    assert result.columns == (
        "unit(mlp_act_3, 1)",
        "(avg(unit(t.mlp_act_3, 1)) + 1)",
        "a",
        "token",
    )


def test_parameters_by_position_and_by_name(sql, made):
    """A list for `?`, a mapping for `$name`."""
    expected = [(value,) for value in unit(made, "resid_out_0", 3)[:4].tolist()]
    query = "SELECT unit(resid_out_0, {}) FROM tokens WHERE row < {} ORDER BY row"
    assert sql(query.format("?", "?"), [3, 4]).fetchall() == expected
    assert sql(query.format("$u", "$n"), {"u": 3, "n": 4}).fetchall() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array(3), 3),
        (torch.tensor(4), 4),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (np.arange(3), [0, 1, 2]),
        (torch.tensor([0.5, 1.5]), [0.5, 1.5]),
        (np.datetime64("2026-11-21"), date(2026, 11, 21)),
        ("text", "text"),
    ],
)
def test_parameters_may_be_of_numpy_and_torch(sql, value, expected):
    """Numbers and vectors of both are the numbers they hold, by position and by name."""
    assert sql("SELECT ?", [value]).fetchall() == [(expected,)]
    assert sql("SELECT $a", {"a": value}).fetchall() == [(expected,)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (5, "list of values"),
        ("x", "list of values"),
        (b"x", "list of values"),
        ({1}, "list of values"),
        ({1: 2}, "Names of parameters"),
        (["\ud800"], "not Unicode"),
        ({"a": "\ud800"}, "not Unicode"),
        ([object()], "object"),
        ([torch.ones(3, device="meta")], "meta tensor"),
        ([torch.ones(3).to_sparse()], "sparse_coo tensor"),
        ([], "1"),
    ],
)
def test_parameters_of_a_wrong_kind_are_query_errors(sql, params, message):
    """Whatever is handed over, the error is ours."""
    with pytest.raises(QueryError, match=message):
        sql("SELECT ?", params)


def test_an_error_shows_the_users_own_text(sql):
    """Not that of the query that runs in its place."""
    query = "SELECT CAST(token AS INTEGER), unit(mlp_act_3, 1) FROM tokens"
    with pytest.raises(QueryError, match="Could not convert string ' Paris'") as caught:
        sql(query).fetchall()
    assert query in str(caught.value)
    assert "unit:" not in str(caught.value)
    assert "LINE" not in str(caught.value)


def test_sites_of_examples_are_columns_of_examples(sql, made):
    """A site without a token axis belongs to the other table."""
    rows = sql("SELECT unit(pooled, 1) FROM examples ORDER BY row").fetchall()
    assert [value for (value,) in rows] == unit(made, "pooled", 1).tolist()


def test_pivot_works(sql, made):
    """DuckDB's own several-statements-in-one is a query too."""
    result = sql(
        "PIVOT (SELECT token, unit(resid_out_0, 1) AS a FROM tokens WHERE row < 5) "
        "ON token USING first(a)"
    )
    found = dict(zip(result.columns, result.fetchall()[0], strict=True))
    values = unit(made, "resid_out_0", 1)
    assert found == {word: values[i].item() for i, word in enumerate(WORDS)}


def partly_covered(tmp_path):
    """A dataset whose second site has rows 3 to 5 of 9 only."""
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 3)}, {"a": ("tokens", torch.arange(6.0).view(3, 2))})
    both = {
        "a": ("tokens", torch.arange(6.0, 12).view(3, 2)),
        "b": ("tokens", torch.arange(12.0).view(3, 2, 2).half()),
        "c": ("tokens", torch.tensor([4, 5, 6])),
    }
    made.commit({"tokens": token_columns([1], 3)}, both)
    made.commit({"tokens": token_columns([2], 3)}, {"a": ("tokens", torch.ones(3, 2))})
    made.values["b"] = torch.cat([torch.full((3, 2, 2), 99.0).half(), made.values["b"]])
    made.values["c"] = torch.cat([torch.full((3,), 99), made.values["c"]])
    missing = np.array([0, 1, 2, 6, 7, 8])
    return made, made.reader(missing={"b": missing, "c": missing})


def test_rows_that_a_site_lacks_are_null(tmp_path):
    """Never zeros, and nobody asks the reader for them."""
    made, reader = partly_covered(tmp_path)
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path) as connection:
        rows = connection.sql(
            "SELECT unit(b, 1, 0), b, c, unit(a, 1) FROM tokens ORDER BY row"
        ).fetchall()
        (counts,) = connection.sql("SELECT count(b), count(c), count(a) FROM tokens").fetchall()
    assert [row[0] for row in rows] == [None] * 3 + [2.0, 6.0, 10.0] + [None] * 3
    assert [row[1] for row in rows][2:5] == [
        None,
        ((0.0, 1.0), (2.0, 3.0)),
        ((4.0, 5.0), (6.0, 7.0)),
    ]
    assert [row[2] for row in rows] == [None] * 3 + [4, 5, 6] + [None] * 3
    assert [row[3] for row in rows] == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 1.0, 1.0, 1.0]
    assert counts == (3, 3, 9)


def test_names_that_differ_in_case_only_are_all_there(tmp_path):
    """SQL does not see case: a later site, or one like a user's column, gets a suffix."""
    made = empty_dataset(tmp_path)
    made.commit(
        {"tokens": token_columns([0], 2, score=[1, 2])},
        {
            "Z_1": ("tokens", torch.tensor([[1.0], [2.0]])),
            "z_1": ("tokens", torch.tensor([[3.0], [4.0]])),
            "Score": ("tokens", torch.tensor([5.0, 6.0])),
        },
    )
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        result = connection.sql("FROM tokens ORDER BY row")
        found = dict(zip(result.columns, result.fetchall()[0], strict=True))
        narrow = connection.sql("SELECT unit(Z_1, 0), unit(z_1_2, 0) FROM tokens WHERE row = 1")
        assert sorted(narrow.fetchall()[0]) == [2.0, 4.0]
    assert found["score"] == 1
    assert found["Score_2"] == 5.0
    assert sorted([found["Z_1"], found["z_1_2"]]) == [(1.0,), (3.0,)]


def test_a_name_never_changes_its_meaning(tmp_path):
    """Of names that differ in case only, the one that the log brought first keeps its own."""
    made = empty_dataset(tmp_path)
    one = {"tokens": token_columns([0], 1, Score=[9])}
    made.commit(one, {"fc.W:out": ("tokens", torch.tensor([1.0]))})
    later = {"tokens": token_columns([1], 1, Score=[9], **{"FC.W:OUT": [7]})}
    more = {"Fc.w:out": 2.0, "fc.W:out": 1.0, "score": 3.0}
    made.commit(later, {name: ("tokens", torch.tensor([value])) for name, value in more.items()})
    made.values = {name: torch.full((2,), value) for name, value in more.items()}
    missing = {name: np.array([0]) for name in ("Fc.w:out", "score")}
    reader = made.reader(missing=missing)
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path) as connection:
        result = connection.sql("FROM tokens WHERE row = 1")
        found = dict(zip(result.columns, result.fetchall()[0], strict=True))
        assert connection.sql('SELECT "fc.w:out", score FROM tokens').fetchall() == [(1.0, 9)] * 2
    del found["row"], found["run"], found["example"], found["position"], found["token_id"]
    assert found == {
        "token": " Paris",
        "Score": 9,
        "fc.W:out": 1.0,
        "FC.W:OUT_2": 7,
        "Fc.w:out_3": 2.0,
        "score_2": 3.0,
    }


def test_a_torn_record_stops_nothing(tmp_path):
    """A commit that adds nothing has no time, and all the others are there."""
    made = empty_dataset(tmp_path)
    for number in range(3):
        made.commit({"tokens": token_columns([number], 2)})
    made.commits[1] = records.void(2)
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        assert connection.sql("SELECT count(*) FROM tokens").fetchall() == [(4,)]
        times = connection.sql("SELECT time IS NULL FROM commits ORDER BY version").fetchall()
    assert times == [(False,), (True,), (False,)]


def test_an_empty_dataset_answers(tmp_path):
    """Before the first commit all tables are there, without rows."""
    made = empty_dataset(tmp_path)
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        assert connection.sql("SELECT count(*), max(position) FROM tokens").fetchall() == [
            (0, None)
        ]
        assert connection.sql("FROM sites").fetchall() == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT resid_ot_0 FROM tokens", "resid_out_0"),
        ("SELECT t.mlp_act_4 FROM tokens t", "mlp_act_3"),
        ("SELECT unit(mlp_act_33, 1) FROM tokens", "mlp_act_3"),
        ("SELECT * FROM tokns", "tokens"),
        ("SELECT unit(model.norm, 1) FROM tokens", '"model.norm:out"'),
        ("SELECT units(mlp_act_3, 1) FROM tokens", r"unit\(site, i\)"),
        ("SELEC 1", "SELEC"),
        ("SELECT unit(mlp_act_3, 1) FROM tokens WHERE", "syntax error"),
        ("", "empty"),
        ("SELECT 1; SELECT 2", "One SQL statement"),
        ("SELECT CAST(token AS INTEGER) FROM tokens", "Paris"),
        ("SELECT unit(mlp_act_3, $u) FROM tokens", "u"),
        ("SELECT unit(mlp_act_3, 1.5) FROM tokens", r"unit takes 1 integer for mlp_act_3.*\[16\]"),
        ("SELECT unit(mlp_act_3, 1, 2) FROM tokens", "unit takes 1 integer"),
        ("SELECT unit(t.mlp_act_3) FROM tokens t", "unit takes 1 integer"),
        ('SELECT unit("model.norm:out", 1, 2, 3, 4, 5) FROM tokens', "unit takes 1 integer"),
        (
            "SELECT unit(z_1, 0, 1, 2) FROM tokens",
            r"unit takes 2 integers for z_1.*unit\(z_1, i, j\)",
        ),
        ("SELECT unit(Z_1, position / 2, 1) FROM tokens", "unit takes 2 integers"),
        (None, "a text, not a NoneType"),
        (b"SELECT 1", "a text, not a bytes"),
        ("SELECT '\ud800'", "not Unicode text"),
        # the functions behind the columns are nobody's business
        ("SELECT site(row) FROM tokens", r"exist!\nNo function 'site'"),
        ("SELECT measure(row) FROM tokens", r"exist!\nNo function 'measure'"),
    ],
)
def test_mistakes_are_query_errors_that_help(sql, query, message):
    """Unknown names come with the nearest ones, and every other message is DuckDB's own."""
    with pytest.raises(QueryError, match=message):
        sql(query).fetchall()


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE x AS SELECT 1",
        "CREATE OR REPLACE VIEW tokens AS SELECT 1",
        "DROP VIEW tokens",
        "INSERT INTO lazycache_index.tokens (row) VALUES (1)",
        "UPDATE tokens SET token = ''",
        "DELETE FROM lazycache_index.tokens",
        "COPY tokens TO '/tmp/lazycache-test.csv'",
        "ATTACH '/tmp/lazycache-test.db'",
        "SET threads = 1",
        "PRAGMA threads = 1",
        "INSTALL httpfs",
        "USE lazycache_index",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "/* a */ EXPLAIN (ANALYZE) CREATE TABLE x AS SELECT 1",
        "-- PIVOT\nCREATE TABLE x AS PIVOT tokens ON token USING count(*)",
        "WITH x AS (SELECT 1) INSERT INTO lazycache_index.tokens (row) SELECT 1",
    ],
)
def test_writes_are_refused(sql, query):
    """Everything that is not a query is a `ReadOnlyError`, and the dataset is as it was."""
    with pytest.raises(ReadOnlyError, match="only reads"):
        sql(query).fetchall()
    assert sql("SELECT count(*) FROM tokens").fetchall() == [(5000,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_parquet('*.parquet')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_blob('/etc/hostname')",
    ],
)
def test_other_files_of_the_machine_are_out_of_reach(sql, query):
    """SQL sees the dataset only."""
    with pytest.raises(QueryError, match="sees the dataset only"):
        sql(query).fetchall()


def test_a_file_is_no_table(sql):
    """DuckDB would otherwise read a file whose name stands where a table's should."""
    with pytest.raises(QueryError, match="No table"):
        sql("FROM '/etc/hostname'")


def test_python_variables_are_out_of_reach(sql):
    """A frame of the caller is no table."""
    secret = sql("SELECT 1 AS a").arrow()
    assert secret.num_rows == 1
    with pytest.raises(QueryError, match="No table 'secret'"):
        sql("SELECT * FROM secret")


@pytest.mark.parametrize("kind", [CorruptShardError, KeyError])
def test_an_error_of_a_read_comes_out_as_it_is(made, folder, kind):
    """The very exception, wherever in the query it happened; afterwards queries work again."""
    error = kind("shard s of site x is damaged")
    reader = made.reader(fail=error)
    with connect(made.snapshot, reader, made.store, index_directory=folder) as connection:
        for query in ("SELECT unit(mlp_act_3, 1) FROM tokens", "SELECT max(z_1) FROM tokens"):
            with pytest.raises(kind) as caught:
                connection.sql(query).df()
            assert caught.value is error
        reader.fail = None
        assert len(connection.sql("SELECT unit(mlp_act_3, 1) FROM tokens").fetchall()) == 5000


def test_threads_and_open_results_do_not_disturb_each_other(sql, made):
    """Eight threads ask at once while a half-read result stays open."""
    half_read = sql("SELECT row FROM tokens ORDER BY row")
    assert half_read.fetchone() == (0,)
    found = {}

    def ask(number):
        query = f"SELECT sum(unit(z_1, 1, {number % 4})) FROM tokens WHERE example < {number + 1}"
        found[number] = sql(query).fetchall()[0][0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        values = unit(made, "z_1", 1, number % 4)[: (number + 1) * 50].double()
        assert found[number] == pytest.approx(values.sum().item())
    assert half_read.fetchone() == (1,)


def test_a_closed_connection_says_so(made, folder):
    """Also its results are closed."""
    connection = connect(made.snapshot, made.reader(), made.store, index_directory=folder)
    result = connection.sql("SELECT 1")
    connection.close()
    connection.close()
    with pytest.raises(QueryError, match="closed"):
        connection.sql("SELECT 1")
    with pytest.raises(QueryError):
        result.fetchall()


def test_the_index_may_live_in_memory(made, tmp_path):
    """Without a writable cache directory everything works as well."""
    (tmp_path / "file").write_text("in the way")
    where = tmp_path / "file" / "index"
    with connect(made.snapshot, made.reader(), made.store, index_directory=where) as connection:
        query = "SELECT unit(resid_out_0, 1) FROM tokens WHERE row = 3"
        assert connection.sql(query).fetchall() == [(unit(made, "resid_out_0", 1)[3].item(),)]
        with pytest.raises(ReadOnlyError):
            connection.sql("INSERT INTO lazycache_index.tokens (row) VALUES (1)")
        assert connection.sql(PIVOT).columns == tuple(sorted(WORDS))


PIVOT = "PIVOT (SELECT token, row FROM tokens WHERE row < 5) ON token USING first(row)"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM lazycache_index.tokens",
        "UPDATE lazycache_index.tokens SET token = 'evil'",
        "INSERT INTO lazycache_index.commits FROM lazycache_index.commits",
    ],
)
def test_a_query_that_changes_data_is_refused(made, tmp_path, folder, change, in_memory):
    """A WITH clause can hold one, and its statement is a SELECT: wherever the index is."""
    (tmp_path / "file").write_text("in the way")
    where = tmp_path / "file" if in_memory else folder
    queries = [
        f"WITH x AS ({change} RETURNING *) SELECT count(*) FROM x",
        f"EXPLAIN ANALYZE WITH x AS ({change} RETURNING *) SELECT count(*) FROM x",
        f"WITH x AS ({change} RETURNING *) SELECT max(unit(mlp_act_3, 1)) FROM tokens, x",
    ]
    with connect(made.snapshot, made.reader(), made.store, index_directory=where) as connection:
        assert (connection._engines[0].members[ONLY].index.path is None) == in_memory
        for query in queries:
            with pytest.raises(ReadOnlyError, match="only reads"):
                connection.sql(query).fetchall()
        assert connection.sql("SELECT count(*), min(token) FROM tokens").fetchall() == [
            (5000, " Paris")
        ]
        assert connection.sql("SELECT count(*) FROM commits").fetchall() == [(1,)]


def test_an_error_in_a_query_over_an_index_in_memory_is_over_with_it(made, tmp_path):
    """The same result may be asked again: it is not stuck in what failed."""
    (tmp_path / "file").write_text("in the way")
    error = KeyError("gone")
    reader = made.reader(fail=error)
    with connect(
        made.snapshot, reader, made.store, index_directory=tmp_path / "file"
    ) as connection:
        result = connection.sql("SELECT unit(mlp_act_3, 1) FROM tokens")
        with pytest.raises(KeyError):
            result.fetchall()
        reader.fail = None
        assert len(result.fetchall()) == 5000


BLOCK = 1 << 18  # bytes of a block of an index file


def damaged_index(made, folder):
    """An index file with a wrong byte in a block that holds rows: it opens as if it were whole."""
    with connect(made.snapshot, made.reader(), made.store, index_directory=folder):
        (path,) = folder.rglob("*.duckdb")
    whole = path.read_bytes()
    for at in range(3 * 4096 + 100, len(whole), BLOCK):
        data = bytearray(whole)
        data[at] ^= 0xFF
        path.write_bytes(data)
        try:
            connection = duckdb.connect(str(path), read_only=True)
        except duckdb.Error:  # a block that opening it reads
            continue
        with connection, suppress(duckdb.Error):
            connection.execute("SELECT token, row FROM tokens").fetchall()
            continue
        return path
    raise AssertionError("no block of rows was found")


@pytest.mark.parametrize(
    "read", [Result.fetchall, Result.arrow, lambda result: list(result.batches())]
)
def test_a_damaged_index_is_made_again(made, tmp_path, read):
    """What a query finds is what would have been there, and the file is whole again."""
    path = damaged_index(made, tmp_path)
    broken = path.read_bytes()
    query = "SELECT token, unit(mlp_act_3, 1) FROM tokens ORDER BY row"
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        results = [connection.sql(query) for _ in range(2)]
        assert len(connection._engines) == 1, "opening it shows nothing of the damage"
        for result in results:
            read(result)
            assert result.fetchall()[:2] == [
                (WORDS[row], unit(made, "mlp_act_3", 1)[row].item()) for row in range(2)
            ]
        assert len(connection._engines) == 2, "it was made again once"
        assert len(connection.sql(query).fetchall()) == 5000
    assert path.read_bytes() != broken
    with duckdb.connect(str(path), read_only=True) as connection:
        assert len(connection.execute("FROM tokens").fetchall()) == 5000
