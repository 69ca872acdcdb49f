"""ORDER BY unit(...) LIMIT k reads no shard row but the winners, and answers as without it."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

import lazycache as lc
from lazycache.query.sql import top_rows

ROWS = 3000


@pytest.fixture(scope="module")
def cache() -> lc.ActivationCache:
    """Return 3,000 tokens of 60 examples: numbers, some with NaN, of heads, whole ones."""
    random = torch.Generator().manual_seed(0)
    slow = torch.randn(30, 12, generator=random).repeat_interleave(100, 0)
    values = 3 * slow + torch.randn(ROWS, 12, generator=random)
    odd = values.clone()
    odd[70], odd[80, 3], odd[81, 3] = torch.nan, torch.inf, -torch.inf
    sites = {"x": values, "odd": odd, "z": values.reshape(ROWS, 3, 4), "n": (10 * values).int()}
    tokens = [f"w{i}" for i in range(ROWS)]
    return corpus(sites, [50] * 60, tokens=tokens, shard_bytes=1 << 20)


def both(cache: lc.ActivationCache, query: str, params, monkeypatch) -> tuple[list, int]:
    """Return the rows of an answer, which are those without the shortcut, and how many are read."""
    cache.io.reset()
    result = cache.sql(query, params)
    found, read = result.fetchall(), cache.io.rows
    with monkeypatch.context() as patch:
        patch.setattr(top_rows, "is_likely", lambda _: False)
        plain = cache.sql(query, params)
        assert repr(plain.fetchall()) == repr(found)
        assert plain.columns == result.columns
    return found, read


@pytest.mark.parametrize(
    ("query", "params", "read"),
    [
        ("SELECT row, token FROM tokens ORDER BY unit(x, 3) DESC LIMIT 20", None, 20),
        ("SELECT unit(x, 3) AS v, token FROM tokens ORDER BY v DESC LIMIT 5", None, 10),
        ("SELECT * FROM tokens AS t ORDER BY unit(t.z, -1, 2) DESC LIMIT 3 OFFSET 4", None, 99),
        (
            "SELECT row FROM tokens ORDER BY unit(x, $u) DESC NULLS FIRST LIMIT $k",
            {"u": 1, "k": 7},
            7,
        ),
        ("SELECT row FROM tokens ORDER BY unit(x, ?) DESC LIMIT ?", [1, 7], 7),
        ("SELECT row, unit(odd, 2) FROM tokens ORDER BY unit(odd, 3) DESC LIMIT 4", None, 3000),
        ("SELECT row FROM tokens ORDER BY unit(x, 4) LIMIT 20", None, 1500),
        ("SELECT row FROM tokens ORDER BY unit(x, 4) DESC LIMIT 100", None, 2000),
        ("SELECT row FROM tokens ORDER BY unit(n, 4) DESC, row LIMIT 3", None, 3003),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_answer_is_the_same_and_few_rows_are_read(cache, monkeypatch, query, params, read):
    """Aliases, OFFSET, parameters, other columns, NaN (the largest in SQL), the smallest."""
    found, rows = both(cache, query, params, monkeypatch)
    assert 0 < len(found) <= rows <= read


@pytest.mark.parametrize(
    "query",
    [
        "SELECT row FROM tokens WHERE position > 3 ORDER BY unit(x, 3) DESC LIMIT 5",
        "SELECT max(row) FROM tokens GROUP BY unit(x, 3) ORDER BY unit(x, 3) DESC LIMIT 5",
        "SELECT DISTINCT unit(x, 3) AS v FROM tokens ORDER BY v DESC LIMIT 5",
        "SELECT row FROM tokens ORDER BY -unit(x, 3) LIMIT 5",
        "SELECT row, -unit(x, 3) AS x FROM tokens ORDER BY x LIMIT 5",
        "SELECT t.row FROM tokens t JOIN runs ON true ORDER BY unit(x, 3) DESC LIMIT 5",
        "SELECT row FROM (SELECT * FROM tokens LIMIT 9) ORDER BY unit(x, 3) DESC LIMIT 5",
        "SELECT row, sum(row) OVER (ORDER BY row) FROM tokens ORDER BY unit(x, 3) DESC LIMIT 5",
        "SELECT row FROM tokens ORDER BY unit(x, 3) DESC LIMIT 1 %",
        "WITH tokens AS (SELECT 1 AS r, [1] AS x) SELECT r FROM tokens ORDER BY unit(x, 0) LIMIT 1",
    ],
)
def test_other_questions_are_left_alone(cache, monkeypatch, query) -> None:
    """Whatever is not one table, an order by one unit and a limit."""
    monkeypatch.setattr(top_rows, "rows_of", lambda *_: pytest.fail("not this question"))
    assert cache.sql(query).fetchall()


def test_a_restricted_cache_answers_of_its_rows(cache, monkeypatch) -> None:
    """The winners are those of the rows that are left; fewer than the limit are all."""
    part = cache.where("position < 10")
    query = "SELECT row FROM tokens ORDER BY unit(x, 3) DESC LIMIT 6"
    found, read = both(part, query, None, monkeypatch)
    values = cache["x"].rows.load()[:, 3].numpy()
    rows = np.flatnonzero(np.arange(ROWS) % 50 < 10)
    want = rows[np.argsort(-values[rows], kind="stable")][:6]
    assert [row for (row,) in found] == want.tolist()
    assert read < 400
    few = cache.where("example = 0 AND position < 4")
    assert len(both(few, query, None, monkeypatch)[0]) == 4


def test_rows_that_lack_the_site_are_not_lost(monkeypatch) -> None:
    """NULLs come last, or first where that is asked for: then nothing is left out."""
    values = torch.randn(3000, 2, generator=torch.Generator().manual_seed(3))
    cache = corpus({"x": values}, [3000], lacking=50)
    for order in ("DESC", "ASC", "DESC NULLS FIRST", "ASC NULLS FIRST"):
        for limit in (5, 3020):
            query = f"SELECT unit(x, 1) FROM tokens ORDER BY unit(x, 1) {order} LIMIT {limit}"
            found, _ = both(cache, query, None, monkeypatch)
            assert len(found) == limit
            assert ((None,) in found) == ("FIRST" in order or limit > 3000)
