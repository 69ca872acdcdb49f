"""What a query in SQL reads: it is run over the index, with made-up values instead of the shards'.

So DuckDB itself says which rows it asks for, vector by vector. Predicates on sites let every row
pass, which makes an upper bound of what values would decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.costs import Once, Tally, summed
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params
from lazycache.query.estimating import question_costs
from lazycache.query.estimating.costs import Cost
from lazycache.query.sql import predicates, trees
from lazycache.query.sql.dry_reader import DryReader
from lazycache.query.sql.foresight import Foresight, Kind, foreseen

BATCH_ROWS = 4_096
"""Rows of made-up values that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class SiteRead:
    """What a query reads of one site in one way."""

    site: str
    """The site."""
    index: tuple[int, ...]
    """Which unit or head of each row; () is the whole row."""
    cost: Cost
    """How much."""

    @property
    def what(self) -> str:
        """In words."""
        at = ", ".join(map(str, self.index))
        return f"[{at}] of each row" if self.index else "whole rows"


@dataclass(frozen=True, slots=True)
class DryRun:
    """A query that was run without its values."""

    reads: tuple[SiteRead, ...]
    """What it asked for."""
    cost: Cost
    """All of it."""
    plan: str
    """What DuckDB does, as its EXPLAIN says."""
    known: frozenset[str]
    """Sites whose best rows are looked for in what is stored of them first."""
    cheap: tuple[str, ...]
    """Predicates that are evaluated on the index."""
    lazy: tuple[str, ...]
    """Predicates that read a site, of the rows for which the others are true."""


def of_query(
    cache: Cache, query: str, params: Params = None, *, tables: Mapping[str, Any] | None = None
) -> Cost:
    """Return what a query reads."""
    return dry_run(cache, query, params, tables=tables).cost


def dry_run(
    cache: Cache, query: str, params: Params = None, *, tables: Mapping[str, Any] | None = None
) -> DryRun:
    """Run a query over the index alone.

    Raises:
        QueryError: it cannot be answered; or the cache is not that of one dataset.
    """
    sites = _only(cache)
    reader = DryReader(sites.reader)
    asked: list[str] = []
    with closing(sites.connected(reader, asked.append)) as connection:
        changed, seen, texts = _changed(sites, query)
        with closing(connection.sql(changed, params, tables=tables)) as result:
            # values are made up for as many rows as are looked at at once
            for _ in result.batches(BATCH_ROWS):
                pass
        reads = dict(reader.reads)
        with closing(connection.sql(query, params, tables=tables)) as result:
            plan = result.plan()
    # what is stored of the best rows, or a table of statistics
    known = frozenset(reader.looked_up.intersection(_with_statistics(sites, reader.looked_up)))
    kind = seen.kind | (Kind.ABOUT if asked else Kind.EXACT)
    if known and not seen.lazy:
        kind = Kind.AT_MOST

    def certain(found: Tally) -> Cost:
        made = Cost.of(found)
        return (made.some_rows() if kind == Kind.AT_MOST else made).certain(kind)

    shown = [
        SiteRead(site, index, certain(found)) for (site, index), found in sorted(reads.items())
    ]
    total = certain(summed([*reads.values(), *(_statistics(sites, site) for site in known)]))
    for site in sorted(set(asked)):
        total += question_costs.of_question(cache, "statistics", [site], {})
    return DryRun(tuple(shown), total, plan, known, *texts)


def _with_statistics(sites: StoredSites, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if sites.reader.statistics(name) is not None)


def _statistics(sites: StoredSites, site: str) -> Tally:
    found = sites.reader.statistics(site)
    lacking = () if found is None else found.lacking(None)
    return Tally(once=frozenset(Once((k, path), statistics=n) for k, path, n in lacking))


def _only(cache: Cache) -> StoredSites:
    if len(cache.datasets) != 1:
        raise QueryError(
            "what a query reads is told of one dataset: cost(query) of each, "
            "[lc.open(one.url).cost(query) for one in cache.datasets]."
            if cache.datasets
            else "this cache is in memory: there is nothing to read, and no SQL."
        )
    return cache.datasets[0]


Texts = tuple[tuple[str, ...], tuple[str, ...]]


def _changed(sites: StoredSites, query: str) -> tuple[str, Foresight, Texts]:
    """Return the query that every row passes, what was found in it, and its predicates as text."""
    with duckdb.connect(":memory:") as parser:
        tree = trees.parsed(query, parser) if isinstance(query, str) else None
        if tree is None:  # the query itself will say what is wrong with it, or is a PIVOT
            return query, Foresight(Kind.ABOUT), ((), ())
        seen = foreseen(tree, is_lazy=_lazy_test(sites, tree))
        cheap = tuple(trees.expression_text(one, parser) for one in seen.cheap)
        lazy = tuple(trees.expression_text(one, parser) for one in seen.lazy)
        changed = trees.written(tree, parser)
    if changed is None:
        return query, Foresight(Kind.ABOUT), (cheap, lazy)
    return changed, seen, (cheap, lazy)


def _lazy_test(sites: StoredSites, tree: Any) -> Any:
    names = {name.lower() for name in sites.sites}
    test = predicates.lazy_test(columns=names, functions=())
    aliases = {
        item["alias"].lower()
        for node in predicates.nodes(tree)
        for item in node.get("select_list", ())
        if item.get("alias") and test(item)
    }
    return predicates.lazy_test(columns=names | aliases, functions=())
