"""What a question reads is told before, and is what `cache.io` counts after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazycache as lc
from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.joined.join import join
from lazycache.errors import LazycacheError, QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.samples import pattern_cache, small_cache
from lazycache.storage.open_store import open_store
from lazycache.writer import statistics as writing

SITES = {
    "a": counting(23, 6),
    "b": counting(23, 6, dtype=torch.bfloat16),
    "z": counting(23, 2, 3),
}
EXAMPLES = [(0, 5), (1, 9), (2, 1), (3, 8)]


def _cache(where: str, *, check: bool = False) -> ActivationCache:
    dataset = Dataset(open_store(where, create=True, storage_options=None))
    dataset.commit(EXAMPLES, SITES)
    return ActivationCache(stored=StoredSites(dataset.store, dataset.snapshot, check=check))


@pytest.fixture(params=["local", "far"])
def cache(request: Any, tmp_path: Path) -> ActivationCache:
    """Return a cache of a local folder, and one of a store that is not on this machine."""
    return _cache(str(tmp_path) if request.param == "local" else "memory://costs-" + tmp_path.name)


def _agrees(cache: ActivationCache, told: Any) -> None:
    io = cache.io
    found = (told.rows, told.bytes, told.requests, told.statistics_bytes)
    assert found == (io.rows, io.bytes, io.requests, io.statistics_bytes)
    assert told.exact


SELECTIONS = {
    "slices": lambda c: c["a"].rows[3:17],
    "a unit": lambda c: c["a"].rows[:, 4],
    "scattered": lambda c: c["b"].rows[[20, 3, 3, 4, 11, 0]],
    "backwards": lambda c: c["a"].rows[::-2],
    "strided units": lambda c: c["a"].rows[2:9, ::2],
    "picked units": lambda c: c["a"].rows[2:9, [5, 0, 3]],
    "no rows": lambda c: c["a"].rows[4:4],
    "no units": lambda c: c["a"].rows[2:9, 4:4],
    "converted": lambda c: c["b"].rows[1:20].to(torch.float32),
    "last positions": lambda c: c["a"][:, -1],
    "an expression": lambda c: (c["a"] - c["b"] * 2).rows[2:21],
    "a unit of an expression": lambda c: (c["a"] - c["b"]).rows[2:21, 3],
    "rows less their example": lambda c: (c["a"] - c["a"][:, :1]).rows[4:12],
    "rows less one row": lambda c: (c["a"] - c["b"][1, 2]).rows,
    "joined": lambda c: join([c["a"].rows[3:9], torch.ones(2, 6), c["a"].rows[[1, 7]]]),
    "paired": lambda c: c["a"].rows[[3, 9, 4], [0, 5, 5]],
}


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_cost_of_a_tensor_is_what_load_reads(cache: ActivationCache, name: str) -> None:
    """`cost(x)` is what `x.load()` counts: rows, bytes and requests, here and in the distance."""
    x = SELECTIONS[name](cache)
    told = cache.cost(x)
    assert cache.io.requests == 0
    x.load()
    _agrees(cache, told)


def test_cost_of_examples_of_different_length_is_that_of_nested(cache: ActivationCache) -> None:
    """`cost("a")` of a key is that of reading all of it."""
    told = cache.cost("a")
    cache["a"].nested()
    _agrees(cache, told)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.integers(0, 22), max_size=12)
    | st.tuples(st.integers(0, 22), st.integers(0, 9)),
    units=st.sampled_from([(), (slice(1, 3),), (5,), ([4, 0],)]),
    gap=st.sampled_from([0, 8, 40, 1 << 16]),
    block=st.sampled_from([None, 1, 3, 7, 100]),
    local=st.booleans(),
)
def test_cost_mirrors_the_reader(
    tmp_path: Path, rows: Any, units: Any, gap: int, block: int | None, local: bool
) -> None:
    """Of any rows, units, gap and block size, what is told is what the reader counts."""
    where = str(tmp_path / "data") if local else f"memory://mirror-{tmp_path.name}"
    dataset = _datasets.setdefault(
        where, Dataset(open_store(where, create=True, storage_options=None))
    )
    if not dataset.snapshot.sites:
        dataset.commit(EXAMPLES, SITES)
    chosen = np.array(rows, dtype=np.int64) if isinstance(rows, list) else _range(*rows)
    reader = dataset.reader(max_gap=gap)
    told = reader.cost("a", chosen, units=units, block_rows=block).total()
    if block is None:
        reader.read("a", chosen, units=units)
    else:
        for _ in reader.scan("a", chosen, units=units, block_rows=block):
            pass
    assert (told.requests, told.nbytes) == (reader.io.requests, reader.io.bytes)
    assert told.rows == reader.io.rows


_datasets: dict[str, Dataset] = {}


def _range(start: int, length: int) -> range:
    return range(start, min(23, start + length))


def test_checksums_and_projections_are_counted_once(tmp_path: Path) -> None:
    """What is read the first time only is told once, and not at all when it was read."""
    cache = _cache(f"memory://checked-{tmp_path.name}", check=True)
    x = cache["a"].rows[[1, 9, 2]]
    told = cache.cost(x)
    x.load()
    _agrees(cache, told)
    cache.io.reset()
    assert cache.cost(x).bytes < told.bytes
    patterns = pattern_cache()
    computed = patterns["head_out_0"].rows[1:5]
    told = patterns.cost(computed)
    computed.load()
    _agrees(patterns, told)
    assert patterns.cost(computed).bytes < told.bytes


def test_cost_of_patterns_is_a_bound() -> None:
    """Widths are in the shards: of attention patterns no more is read than is told."""
    cache = pattern_cache()
    told = cache.cost("pattern_0")
    assert cache.io.requests == 0
    cache["pattern_0"].padded()
    assert told.kind == "at most"
    assert told.upper
    assert cache.io.rows <= told.rows
    assert cache.io.bytes <= told.bytes
    assert cache.io.requests <= told.requests


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationCache:
    """Return a dataset of this machine with statistics and a label for each example."""
    monkeypatch.setattr(writing, "SMALLEST_SHARD", 0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(16, 4), torch.nn.Linear(4, 6))
    items = [{"input_ids": [i, (3 * i) % 16, 7], "label": "xy"[i % 2]} for i in range(12)]
    lc.extract(model, items, str(tmp_path), ["0", "1"], progress=False)
    return lc.open(str(tmp_path))


QUERIES = {
    'SELECT unit("1:out", 3) FROM tokens WHERE position = 1': "exact",
    "SELECT \"1:out\" FROM tokens JOIN examples USING (example) WHERE label = 'x'": "exact",
    'SELECT label, avg(unit("1:out", 0)) FROM tokens JOIN examples USING (example) '
    "GROUP BY 1": "exact",
    'SELECT count(*) FROM tokens WHERE position < 2 AND unit("1:out", 2) > 0': "exact",
    "SELECT count(*) FROM tokens": "exact",
    'SELECT "0:out" FROM tokens WHERE position > 0 AND unit("1:out", 2) > 0': "at most",
    'SELECT row FROM tokens WHERE unit("1:out", 2) > 0 OR unit("0:out", 1) > 0 LIMIT 2': "at most",
    'SELECT token_id FROM tokens ORDER BY unit("1:out", 2) DESC LIMIT 3': "at most",
    "SELECT label FROM tokens JOIN examples USING (example) GROUP BY 1 "
    'HAVING avg(unit("1:out", 0)) > 0': "about",
    'SELECT row FROM tokens WHERE NOT (unit("1:out", 2) > 0 OR position < 2)': "exact",
    'SELECT if(unit("1:out", 2) > 0, unit("0:out", 0), 0) FROM tokens': "about",
    "SELECT t.row FROM tokens t JOIN tokens u ON t.row = u.row + 1 "
    'WHERE unit(t."1:out", 0) > unit(u."1:out", 0)': "about",
}


@pytest.mark.parametrize("query", list(QUERIES), ids=lambda q: f"{list(QUERIES).index(q)}")
def test_cost_of_sql(asked: ActivationCache, query: str) -> None:
    """Of predicates on the index it is what the query reads, of others no less."""
    told = asked.cost(query)
    assert (asked.io.requests, asked.io.statistics_bytes) == (0, 0)
    asked.sql(query).fetchall()
    assert told.kind == QUERIES[query]
    if told.exact:
        _agrees(asked, told)
    elif told.upper:
        assert asked.io.rows <= told.rows
        assert asked.io.bytes <= told.bytes
        assert asked.io.requests <= told.requests
        assert asked.io.statistics_bytes <= told.statistics_bytes


def test_cost_of_the_table_of_statistics(asked: ActivationCache) -> None:
    """What is stored of the sites that a query wants is counted, also beside other reads."""
    query = (
        'SELECT row FROM tokens WHERE unit("1:out", 0) > '
        "(SELECT avg(mean) FROM statistics WHERE site = '1:out')"
    )
    told = asked.cost(query)
    asked.sql(query).fetchall()
    assert told.statistics_bytes == asked.io.statistics_bytes > 0
    assert (told.rows, told.bytes) == (asked.io.rows, asked.io.bytes)


QUESTIONS: dict[str, tuple[Any, ...]] = {
    "mean": (),
    "statistics": (),
    "correlate": ("position",),
    "group_mean": ("label",),
}


@pytest.mark.parametrize("where", [None, "position > 0"])
@pytest.mark.parametrize("name", list(QUESTIONS))
def test_cost_of_questions(asked: ActivationCache, name: str, where: str | None) -> None:
    """Passes over rows, and statistics that spare them, are told exactly."""
    args = QUESTIONS[name]
    told = asked.cost(name, "1:out", *args, where=where)
    assert asked.io.bytes == asked.io.statistics_bytes == 0
    assert (told.bytes == 0) == (not args and where is None)
    assert (told.statistics_bytes > 0) == (name != "group_mean" and where is None)
    if args:
        getattr(asked, name)("1:out", *args, where=where)
    else:
        x = asked["1:out"] if where is None else asked["1:out"].where(where)
        x.statistics() if name == "statistics" else x.mean("rows")
    _agrees(asked, told)


@pytest.mark.parametrize("name", ["top_k", "firing_rates", "histogram"])
def test_cost_of_what_statistics_may_spare_is_a_bound(asked: ActivationCache, name: str) -> None:
    """No more is read than a pass over all rows and everything that is stored of them."""
    options = {"unit": 3} if name != "firing_rates" else {}
    told = asked.cost(name, "1:out", **options)
    assert told.kind == "at most"
    getattr(asked, name)("1:out", **options)
    assert asked.io.bytes <= told.bytes
    assert asked.io.rows <= told.rows
    assert asked.io.statistics_bytes <= told.statistics_bytes


def test_condition_on_a_site_is_not_asked(asked: ActivationCache) -> None:
    """To tell what a question on chosen rows costs, no shard is read to choose them."""
    told = asked.cost("correlate", "1:out", "position", where='unit("0:out", 1) > 0')
    assert asked.io.requests == 0
    asked.correlate("1:out", "position", where='unit("0:out", 1) > 0')
    assert told.kind == "at most"
    assert asked.io.bytes <= told.bytes


def test_explain_says_what_is_read_and_in_which_order(asked: ActivationCache) -> None:
    """Each site has a line with its rows and bytes; predicates are in the order of evaluation."""
    found = asked.explain(
        'SELECT "0:out" FROM tokens WHERE unit("1:out", 2) > 0 AND position = $p', {"p": 1}
    )
    assert [(read.site, read.index, read.cost.rows) for read in found.reads] == [
        ("0:out", (), 12),
        ("1:out", (2,), 12),
    ]
    assert "position" in found.first[0]
    assert "1:out" in found.then[0]
    assert "unit:1:out" in str(found)
    assert asked.io.requests == 0
    top = asked.explain('SELECT token_id FROM tokens ORDER BY unit("1:out", 2) DESC LIMIT 3')
    assert top.stored_top_rows == {"1:out"}
    assert "reads no site" in str(asked.explain("SELECT count(*) FROM tokens"))
    assert asked.sql("EXPLAIN SELECT count(*) FROM tokens").fetchall()


def test_cost_refuses_what_it_cannot_tell() -> None:
    """Errors name what can be asked: typos in SQL, arguments that a question does not take."""
    cache = small_cache()
    with pytest.raises(QueryError, match="correlate"):
        cache.cost("correlate", "resid_out_0")
    with pytest.raises(QueryError, match="top_k"):
        cache.cost("SELECT 1", 5)
    with pytest.raises(QueryError, match="resid_out_0"):
        cache.cost("SELECT resid_out_1 FROM tokens")
    with pytest.raises(QueryError, match="int"):
        cache.cost(5)
    with pytest.raises(LazycacheError):
        cache.cost("group_mean", "resid_out_9", "position")
    assert str(cache.cost(torch.ones(3))) == "0 rows, 0 bytes in 0 requests"
