"""What the named questions read: their passes over the rows, and the statistics that spare them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazycache.cache.aggregates.covering import Covering, covering, statistics_of
from lazycache.cache.aggregates.reduce import OPS
from lazycache.cache.aggregates.row_stream import RowStream, by_rows, row_parts
from lazycache.cache.reading.costs import Once, Tally, summed
from lazycache.cache.reading.known import UNSURE
from lazycache.cache.reading.stored_statistics import StoredStatistics
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of, unit_of
from lazycache.query.estimating.costs import Cost
from lazycache.query.relating.correlation import Column, numbers_of
from lazycache.query.sql.foresight import Kind


def of_question(cache: Cache, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Cost:
    """Return what a question of `QUESTIONS` reads.

    Raises:
        QueryError: other arguments than the question takes.
    """
    function = QUESTIONS[name]
    given = {key: value for key, value in options.items() if key != "params" or value is not None}
    try:
        inspect.signature(function).bind(cache, *args, **given)
    except TypeError as exc:
        raise QueryError(f"cost({name!r}, ...) takes what cache.{name} takes: {exc}.") from exc
    return function(cache, *args, **given)


def _reduction(
    op: str, cache: Cache, site: Site, *, where: str | None = None, params: Params = None
) -> Cost:
    x, before = _asked(cache, site, where, params)
    stream = by_rows(x)
    covered = covering(stream)
    found = _stored(covered, stream)
    sure = op not in UNSURE or covered is None
    return Cost.of(found) + before if sure else (Cost.of(_scan(stream)) + before).certain("about")


def _top_k(
    cache: Cache,
    site: Site,
    unit: int | Sequence[int] | None = None,
    *,
    direction: object = None,
    score: object = None,
    where: str | None = None,
    params: Params = None,
    **_options: object,
) -> Cost:
    x, before = _asked(cache, site, where, params)
    one = x if direction is not None or score is not None else unit_of(x, unit)
    return _no_more(one) + before


def _similar(
    cache: Cache,
    site: Site,
    to: object,
    k: int = 20,  # noqa: ARG001  # as of the question
    metric: str = "cosine",  # noqa: ARG001
    *,
    units: Any = None,
    where: str | None = None,
    params: Params = None,
    **_options: object,
) -> Cost:
    x, before = _asked(cache, site, where, params)
    chosen = x if units is None else x[..., units]
    found = Cost.of(_scan(by_rows(chosen))).certain(Kind.AT_MOST) + before
    return found + Cost.of(to.cost_of(to.lead.flat())) if isinstance(to, LazyTensor) else found


def _histogram(
    cache: Cache,
    site: Site,
    bins: int | Sequence[float] = 100,
    range: tuple[float, float] | None = None,  # noqa: A002  # torch's and numpy's name
    *,
    unit: int | Sequence[int] | None = None,
    where: str | None = None,
    params: Params = None,
) -> Cost:
    x, before = _asked(cache, site, where, params)
    stream = by_rows(x if unit is None else unit_of(x, unit))
    found = Cost.of(_scan(stream)) + before
    if isinstance(bins, int) and range is None:
        found += Cost.of(_stored(covering(stream), stream))
    return found.certain(Kind.AT_MOST)


def _firing_rates(
    cache: Cache,
    site: Site,
    threshold: float = 0.0,  # noqa: ARG001  # as of the question
    *,
    where: str | None = None,
    params: Params = None,
    **_options: object,
) -> Cost:
    x, before = _asked(cache, site, where, params)
    return _no_more(x) + before


def _correlate(
    cache: Cache,
    site: Site,
    column: Column,
    *,
    top: int | None = None,  # noqa: ARG001  # as of the question
    where: str | None = None,
    params: Params = None,
) -> Cost:
    x, before = _asked(cache, site, where, params)
    rows = x.rows.lead.flat()
    stream = by_rows(x.rows)
    if isinstance(column, str) and _names_site(cache, column):
        asked = f"SELECT (\n{column}\n) FROM {x.source.spec.table}"  # noqa: S608  # only counted
        before += _of_sql(cache, asked, None)
        return (Cost.of(_scan(stream)) + before).certain(Kind.AT_MOST)
    if isinstance(column, LazyTensor):
        before += Cost.of(column.rows.cost_of(column.rows.lead.flat()))
        return (Cost.of(_scan(stream)) + before).certain(Kind.AT_MOST)
    kept = np.isfinite(numbers_of(x, column, len(rows)))
    found = Cost.of(_scan(stream, [rows if kept.all() else as_array(rows)[kept]])) + before
    covered = covering(stream) if kept.all() else None
    if covered is None or any(len(one) for one in covered.rest()):
        return found
    # the spread of units is stored of these rows
    return found + Cost.of(_statistics(covered))


def _group_mean(
    cache: Cache, site: Site, by: str, *, where: str | None = None, params: Params = None
) -> Cost:
    x, before = _asked(cache, site, where, params)
    if _names_site(cache, by):
        asked = f"SELECT (\n{by}\n) FROM {x.source.spec.table}"  # noqa: S608  # only counted
        before += _of_sql(cache, asked, None)
    return Cost.of(_scan(by_rows(x.rows))) + before


QUESTIONS: Mapping[str, Callable[..., Cost]] = {
    "top_k": _top_k,
    "similar": _similar,
    "histogram": _histogram,
    "firing_rates": _firing_rates,
    "correlate": _correlate,
    "group_mean": _group_mean,
    **{op: partial(_reduction, op) for op in (*OPS, "statistics")},
}
"""Questions whose cost is told, and the reductions over all rows."""


def _asked(cache: Cache, site: Site, where: str | None, params: Params) -> tuple[LazyTensor, Cost]:
    """Return the rows that a question is about, and what it costs to find them.

    A condition on sites is not asked, since that would read them: then these are all rows.
    """
    x = tensor_of(cache, site)
    if where is None:
        return x, Cost()
    if not _names_site(cache, where):
        return x.where(where, params), Cost()
    asked = f"SELECT row FROM {x.source.spec.table} WHERE (\n{where}\n)"  # noqa: S608  # counted
    return x, _of_sql(cache, asked, params).certain(Kind.AT_MOST)


def _of_sql(cache: Cache, query: str, params: Params) -> Cost:
    from lazycache.query.estimating.sql_costs import of_query

    return of_query(cache, query, params)


def _names_site(cache: Cache, text: str) -> bool:
    lowered = text.lower()
    return any(name.lower() in lowered for one in cache.datasets for name in one.sites)


def _scan(stream: RowStream, parts: Sequence[Rows] | None = None) -> Tally:
    """Return the cost of one pass over rows, block by block."""
    chosen = row_parts(stream.x) if parts is None else parts
    return summed(stream.x.cost_of(rows, block_rows=stream.block_rows) for rows in chosen)


def _stored(covered: Covering | None, stream: RowStream) -> Tally:
    """Return the cost of what is stored of whole blocks, and of a pass over the other rows."""
    if covered is None:
        return _scan(stream)
    return _statistics(covered) + _scan(stream, list(covered.rest()))


def _statistics(covered: Covering) -> Tally:
    found = covered.statistics
    if not isinstance(found, StoredStatistics):  # of several datasets
        return Tally(exact=False)
    return Tally(
        once=frozenset(
            Once((kind, path), statistics=nbytes)
            for kind, path, nbytes in found.lacking(covered.whole)
        ),
        exact=not found.kept.extra_bytes,
    )


def _no_more(x: LazyTensor) -> Cost:
    """Return a pass over all rows and all statistics: what is known spares most of both."""
    found = statistics_of(x)
    total = _scan(by_rows(x))
    if isinstance(found, StoredStatistics):
        once = (Once((kind, path), statistics=n) for kind, path, n in found.lacking(None))
        total += Tally(once=frozenset(once))
    return Cost.of(total).certain(Kind.AT_MOST)
