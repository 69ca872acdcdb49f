"""`dot`, `norm`, `cosine`, `head` and patterns: torch's answers, read of the rows that are left."""

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from query_helpers import empty_dataset, flip, token_columns

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.query.sql.connection import connect
from lazycache.query.sql.rewrite import Rewriter
from lazycache.samples import pattern_cache, small_cache

ROWS = 4000
HARD = torch.tensor(
    [[0.0, 0, 0, 0], [1e30, 1e30, 0, 0], [1e-30, 0, 0, 1e-30], [float("nan"), 1, 1, 1]]
)
"""Rows whose squares vanish or overflow, or are no numbers."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with sites of several dtypes and shapes, with hard rows in front."""
    made = empty_dataset(tmp_path_factory.mktemp("vectors"))
    generator = torch.Generator().manual_seed(3)

    def noise(*shape):
        values = torch.randn(ROWS, *shape, generator=generator)
        if shape == (4,):
            values[: len(HARD)] = HARD
            values[len(HARD)] = float("inf")
        return values

    sites = {
        "half": noise(4).bfloat16(),
        "plain": noise(4),
        "wide": noise(4).double(),
        "whole": (noise(4) * 50).nan_to_num(0, 100, -100).clamp(-100, 100).to(torch.int8),
        "yes": noise(4) > 0,
        "z": noise(2, 3).half(),
        "one": noise(),
    }
    made.commit(
        {"tokens": token_columns(range(ROWS // 50), 50)},
        {name: ("tokens", values) for name, values in sites.items()},
    )
    return made


@pytest.fixture
def reader(made):
    """A reader that counts from zero, and that lacks the first rows of `plain`."""
    return made.reader()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for its index."""
    return tmp_path_factory.mktemp("index")


@pytest.fixture
def connection(made, reader, folder):
    """A connection over it."""
    with connect(made.snapshot, reader, made.store, index_directory=folder) as found:
        yield found


@pytest.fixture
def sql(connection):
    """Its `sql` method."""
    return connection.sql


def reference(kind, values, vector):
    """The same in float64 of torch; None where there is no direction."""
    rows = values.flatten(1).double()
    norm, length = rows.norm(dim=1), vector.norm()
    if kind == "norm":
        return norm.tolist()
    if kind == "dot":
        return (rows @ vector).tolist()
    cosine = (rows @ vector) / (norm * length)
    return [
        None if n == 0 or length == 0 else c for n, c in zip(norm, cosine.tolist(), strict=True)
    ]


def close(found, wanted):
    """Whether numbers are alike to the rounding of float32, and NULL and NaN in the same places."""
    assert [one is None for one in found] == [one is None for one in wanted]
    np.testing.assert_allclose(
        np.array(found, dtype=float), np.array(wanted, dtype=float), rtol=2e-5, atol=2e-5
    )


def asked(kind, site, vector="$v"):
    return f"{kind}({site})" if kind == "norm" else f"{kind}({site}, {vector})"


KINDS = ("dot", "norm", "cosine")
FORMS = {
    "narrow": "SELECT {} FROM tokens ORDER BY row",
    "general": "SELECT {} FROM (SELECT row AS r, * EXCLUDE (row) FROM tokens) ORDER BY r + 0",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("site", ["half", "plain", "wide", "whole", "yes", "z"])
def test_measures_are_those_of_torch(sql, made, site, form):
    """Of every dtype and shape, zeros, infinities, huge and tiny rows: in both forms alike."""
    values = made.values[site]
    vector = torch.linspace(-1, 2, values[0].numel(), dtype=torch.float64)
    given = vector.reshape(values[0].shape).tolist()
    columns = ", ".join(asked(kind, site) for kind in KINDS)
    result = sql(FORMS[form].format(columns), {"v": given})
    if form == "narrow":
        assert set(result.types) == {
            "FLOAT"
            if values.dtype.is_floating_point and values.dtype != torch.float64
            else "DOUBLE"
        }
    for kind, found in zip(KINDS, zip(*result.fetchall(), strict=True), strict=True):
        close(found, reference(kind, values, vector))


@pytest.fixture(scope="module")
def small():
    """The small sample."""
    with small_cache() as cache:
        yield cache


@pytest.fixture(scope="module")
def patterns():
    """The sample with patterns."""
    with pattern_cache() as cache:
        yield cache


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-9, 9, width=16) | st.sampled_from([0.0, 1e20]), min_size=3, max_size=3),
    st.sampled_from(["list", "float32", "float64", "bfloat16", "numpy", "tuple", "row"]),
    st.sampled_from(KINDS),
)
def test_vectors_of_any_kind_are_the_numbers_they_hold(small, numbers, given_as, kind):
    """Lists, tensors of any dtype, arrays: the same answer, also as a literal list."""
    vector = torch.tensor(numbers[:2], dtype=torch.float64)
    given = {
        "list": vector.tolist(),
        "tuple": tuple(vector.tolist()),
        "numpy": vector.numpy()[::-1].copy()[::-1],
        "row": vector.float()[None],
    }.get(given_as)
    if given is None:
        given = vector.to(getattr(torch, given_as)).requires_grad_()
    exact = vector if given_as in {"list", "tuple", "numpy"} else given
    exact = exact.detach().reshape(-1).double()
    query = f"SELECT {asked(kind, 'resid_out_0', '{}')} FROM tokens ORDER BY row"
    params = [] if kind == "norm" else [given]
    found = [one for (one,) in small.sql(query.format("?"), params).fetchall()]
    close(found, reference(kind, small["resid_out_0"].rows.load(), exact))
    literal = f"[{', '.join(map(repr, exact.tolist()))}]"
    for text in (literal, f"{literal}::DOUBLE[2]", f"CAST({literal} AS FLOAT[])"):
        again = [one for (one,) in small.sql(query.format(text)).fetchall()]
        close(again, found)


def test_a_row_of_the_cache_is_a_vector():
    """A lazy tensor of one row is loaded; the row is nearest to itself."""
    with small_cache() as cache:
        query = "SELECT row FROM tokens ORDER BY cosine(resid_out_0, $v) DESC, row LIMIT 1"
        for x in (cache["resid_out_0"][1, 0], cache["resid_out_0"].rows[2:3]):
            assert cache.sql(query, {"v": x}).fetchall() == [(2,)]


FEW = "SELECT row, {} FROM tokens WHERE row % 1000 = 7 ORDER BY row"


@pytest.mark.parametrize(
    ("column", "nbytes"),
    [
        ("dot(half, $v)", 8),
        ("norm(half)", 8),
        ("cosine(wide, $v)", 32),
        ("dot(head(z, 1), $h)", 6),
        ("norm(head(z, -2))", 6),
        ("head(z, position % 2)", 6),
        ("unit(head(z, 1), 2)", 2),
        ("dot(t.half, [1, 0, 0, 0.5])", 8),
    ],
)
def test_a_filter_of_a_thousandth_reads_these_rows_alone(sql, made, reader, column, nbytes):
    """And of heads and units no others; the vector leaves the other parameters as they are."""
    params = {"v": torch.ones(4), "h": [1.0, 2, 3]}
    used = {name: value for name, value in params.items() if f"${name}" in column}
    query = FEW.format(column).replace("tokens", "tokens t").replace("7", "$n")
    rows = sql(query, {**used, "n": 7}).fetchall()
    assert [row for row, _ in rows] == [7, 1007, 2007, 3007]
    assert (reader.io.rows, reader.io.bytes) == (4, 4 * nbytes)
    head = made.values["z"][7].float()
    exact = {
        "dot(head(z, 1), $h)": head[1] @ torch.tensor([1.0, 2, 3]),
        "head(z, position % 2)": head[1],
        "unit(head(z, 1), 2)": head[1, 2],
    }
    if column in exact:
        torch.testing.assert_close(torch.tensor(rows[0][1]), exact[column], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM tokens WHERE dot(half, $v) > 0 AND row % 1000 = 7",
        "SELECT count(*) FROM tokens WHERE cosine(half, $v) > 0 AND token = ' of' AND row < 20",
        "SELECT avg(norm(half)) FILTER (WHERE row % 1000 = 7), $v IS NULL FROM tokens",
        "SELECT sum(dot(half, $v)) FILTER (WHERE row % 1000 = 7) FROM tokens",
        "SELECT list_sum(head(z, 0)) + len($v) FROM tokens WHERE row % 1000 = 7",
        "SELECT dot(x, $v) FROM (SELECT half AS x, -position AS p, row FROM tokens) WHERE row < 4",
        "WITH q AS (SELECT * FROM tokens WHERE row < 4) SELECT cosine(half, $v) FROM q",
    ],
)
def test_cheap_predicates_and_filters_come_first(sql, reader, query):
    """Whatever DuckDB thinks of the cost of our functions."""
    sql(query, {"v": torch.ones(4)}).fetchall()
    assert reader.io.rows == 4


@pytest.mark.parametrize(
    "query",
    [
        "SELECT dot(half, $v) FROM tokens GROUP BY half, row ORDER BY row LIMIT 5",
        "SELECT cosine(v, $v) FROM (SELECT half AS v FROM tokens WHERE row < 5)",
        "SELECT norm(m) FROM tokens AS t(r, a, b, c, d, e, m) WHERE r < 5",
        "SELECT dot(half, CASE WHEN row > 2 THEN $v ELSE [1, 2, 3, 4] END) FROM tokens LIMIT 5",
        "SELECT cosine(a.half, b.plain) FROM tokens a JOIN tokens b USING (row) WHERE row < 9",
        "SELECT dot(head(z, row % 2), [1, 2, 3]), norm(head(z, 0)) FROM tokens WHERE row < 9",
        "SELECT head(v, 1), unit(v, 1, -1) FROM (SELECT z AS v FROM tokens WHERE row < 9)",
        "SELECT token, avg(dot(half, $v)) m, max(norm(z)) FROM tokens WHERE row > 9 GROUP BY token",
        "SELECT row FROM tokens WHERE row > 9 ORDER BY dot(half, $v) DESC, row LIMIT 7",
        "SELECT dot(plain, NULL), cosine(plain, [1, NULL, 2, 3]) FROM tokens WHERE row < 3",
        "SELECT dot(half, $v) AS half, half AS x FROM tokens WHERE row < 3 ORDER BY row",
        "SELECT len($v), dot(half, $v), norm($v), dot([1, 2], [3, 4.5]) FROM tokens WHERE row = 5",
    ],
)
def test_every_form_answers_as_the_plain_query_does(made, folder, monkeypatch, query):
    """Rewritten or not: the same columns, rows and NULLs."""
    params = {"v": torch.tensor([1.0, -2, 0.5, 3])} if "$v" in query else None
    with connect(made.snapshot, made.reader(), made.store, index_directory=folder) as connection:
        rewritten = connection.sql(query, params)
        rows = rewritten.fetchall()
        monkeypatch.setattr(Rewriter, "rewrite", lambda *_, **__: None)
        plain = connection.sql(query, params)
        assert rewritten.columns == plain.columns
        order = (lambda row: str(row[0])) if "token" in query else (lambda _: 0)
        pairs = zip(sorted(rows, key=order), sorted(plain.fetchall(), key=order), strict=True)
        for one, other in pairs:
            for mine, theirs in zip(one, other, strict=True):
                if isinstance(mine, float) and theirs is not None:
                    assert mine == pytest.approx(theirs, rel=1e-5, nan_ok=True)
                elif isinstance(mine, tuple | list):
                    assert np.array_equal(np.array(mine), np.array(theirs), equal_nan=True)
                else:
                    assert mine == theirs
    assert rows


def test_a_row_that_a_site_lacks_is_null(tmp_path):
    """No number is made up for it, in both forms, and nobody asks the reader for it."""
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 3)}, {"a": ("tokens", torch.ones(3, 2))})
    made.commit({"tokens": token_columns([1], 3)}, {"b": ("tokens", torch.ones(3, 2, 2))})
    made.values["b"] = torch.cat([torch.full((3, 2, 2), 9.0), made.values["b"]])
    reader = made.reader(missing={"a": np.arange(3, 6), "b": np.arange(3)})
    columns = "dot(b, [1, 1, 1, 1]), norm(b), cosine(b, [[1, 1], [1, 1]]), head(b, 1)"
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path) as connection:
        for form in FORMS.values():
            rows = connection.sql(form.format(columns)).fetchall()
            assert rows[:3] == [(None,) * 4] * 3
            assert [(*row[:3], list(row[3])) for row in rows[3:]] == [(4, 2, 1, [1, 1])] * 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("dot(plain, $v)", r"dot\(plain, \$v\): the vector has 3 numbers, but .*plain has 4 units"),
        ("cosine(z, $v)", r"cosine\(z, \$v\).*3 numbers.*shape \[2, 3\]"),
        ("dot(head(z, 0), [1, 2])", r"head\(z, 0\).*2 numbers.*a head of z has 3 units"),
        ("dot(z, [[1, 2], [3, 4], [5, 6]])", r"the shape \[3, 2\].*shape \[2, 3\]"),
        ("dot(head(z, 2), $v)", r"head\(z, 2\) is outside the shape \[2, 3\]"),
        ("dott(plain, $v)", r"No function 'dott'\. Nearest: dot"),
        ("cosin(plain, $v)", r"No function 'cosin'\. Nearest: cosine"),
        ("dot(plain)", r"dot is dot\(site, vector\)"),
        ("norm(plain, $v)", r"norm is norm\(site\)"),
        ("dot(plaine, $v)", r"Nearest: plain"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(sql, reader, query, message):
    """Lengths with the site and both sizes, names with the nearest."""
    with pytest.raises(QueryError, match=message):
        sql(f"SELECT {query} FROM tokens", {"v": [1, 2, 3]} if "$v" in query else None)
    assert reader.io.rows == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("dot(list_filter(v, lambda x: true), [1, 2])", "4 numbers and a vector of 2 do not fit"),
        ("dot(token, [1.0])", "dot takes vectors: lists or arrays of numbers, not string"),
        ("norm(one)", "norm takes vectors"),
        ("cosine(v, ['a', 'b', 'c', 'd'])", "vectors of numbers, not of string"),
        ("head(v, 4)", "outside the size 4"),
    ],
)
def test_mistakes_that_values_show_are_told_then(sql, query, message):
    """In the general form the sizes are known when it runs."""
    with pytest.raises(QueryError, match=message):
        sql(f"SELECT {query} FROM (SELECT plain AS v, token, one FROM tokens) LIMIT 1").fetchall()


def test_vectors_are_let_go_when_their_result_is(connection):
    """Closed, dropped, or not narrow after all: nothing is left of it."""
    kept, query = connection._activity.measures, "SELECT dot(plain, $v) FROM tokens WHERE row < 9"
    vector = torch.ones(4)
    result, other = connection.sql(query, {"v": vector}), connection.sql(query, {"v": vector * 2})
    vector.zero_()  # a copy was taken
    assert len(kept) == 2
    assert [b for (b,) in other.fetchall()][5:] == [2 * a for (a,) in result.fetchall()][5:]
    result.close()
    assert len(kept) == 1
    del other
    gc.collect()
    assert len(kept) == 0
    with pytest.raises(QueryError, match="There is no vector 1"):
        connection.sql('SELECT "measure:plain"(5, 1)').fetchall()


def test_several_threads_have_their_own_vectors(sql, made):
    """Each query answers for its own, while others run."""
    wrong = []

    def ask(scale):
        vector = torch.full((4,), float(scale))
        for _ in range(5):
            query = "SELECT dot(whole, $v) FROM tokens ORDER BY row"
            found = [one for (one,) in sql(query, {"v": vector}).fetchall()]
            if found != (made.values["whole"].double() @ vector.double()).tolist():
                wrong.append(scale)

    threads = [threading.Thread(target=ask, args=(scale,)) for scale in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_query_over_a_damaged_index_keeps_its_vectors(made, tmp_path):
    """It is prepared anew over a new index, with what it was given."""
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        pass
    (index,) = tmp_path.rglob("s*.duckdb")
    flip(index)
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        query = "SELECT dot(whole, ?), token, example FROM tokens WHERE row >= ? ORDER BY row"
        rows = connection.sql(query, [torch.ones(4), 3990]).fetchall()
    assert [one for one, *_ in rows] == made.values["whole"][3990:].double().sum(1).tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(-3, 2), st.integers(-4, 3))
def test_units_of_patterns_are_those_of_the_tensors(patterns, rows, head, key):
    """In any order, of any head and key: NULL where the row is narrower; arrow gives lists."""
    wanted = [patterns["pattern_0"].rows[row].load() for row in range(6)]
    query = (
        "SELECT unit(pattern_0, {h}, {k}) u, pattern_0 AS p, head(pattern_0, {h}) AS h "
        "FROM tokens WHERE row IN (SELECT unnest({rows})) ORDER BY row"
    ).format(h=head % 2, k=key, rows=rows)
    table = patterns.sql(query).arrow()
    for row, one in zip(sorted(set(rows)), table.to_pylist(), strict=True):
        width = wanted[row].shape[1]
        there = -width <= key < width
        assert one["u"] == (wanted[row][head % 2, key].item() if there else None)
        assert one["p"] == wanted[row].tolist()
        assert one["h"] == wanted[row][head % 2].tolist()


def test_lists_of_different_length_are_measured_one_by_one():
    """Where the row is hidden too: each head with as many numbers as it has."""
    with pattern_cache() as cache:
        rows = cache.sql(
            "SELECT unit(p, 0, 2), dot(head(p, 0), head(p, 1)), norm(p), cosine(p, p), p FROM "
            "(SELECT pattern_0 AS p FROM tokens)"
        ).fetchall()
    assert sorted(row[0] is None for row in rows) == [False] * 3 + [True] * 3
    for _, product, norm, cosine, values in rows:
        one = torch.tensor(values)
        found = torch.tensor([product, norm, cosine])
        torch.testing.assert_close(
            found, torch.stack([one[0] @ one[1], one.norm(), torch.ones(())])
        )


def test_datasets_side_by_side_have_their_own_functions():
    """A dot product of each, in one query."""
    with lc.connect({"a": small_cache(), "b": small_cache()}) as connection:
        rows = connection.sql(
            "SELECT dot(a.resid_out_0, $v), dot(b.resid_out_0, $w), cosine(b.resid_out_0, $w) "
            "FROM a.tokens a JOIN b.tokens b USING (row) ORDER BY row",
            {"v": torch.tensor([1.0, 0.0]), "w": [0.0, 1.0]},
        ).fetchall()
    assert [row[:2] for row in rows] == [(2.0 * row, 2.0 * row + 1) for row in range(6)]
