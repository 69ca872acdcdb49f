"""How a query in SQL will be answered: what is read of which site, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazycache.faces.html import block, card
from lazycache.query.asked import Cache, Params
from lazycache.query.estimating.costs import Cost
from lazycache.query.estimating.sql_costs import SiteRead, dry_run


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a query reads, and how; `print` it."""

    query: str
    """The query."""
    cost: Cost
    """All that it reads."""
    reads: tuple[SiteRead, ...]
    """That of each site, by what is read of a row."""
    first: tuple[str, ...]
    """Predicates of WHERE that the index answers."""
    then: tuple[str, ...]
    """Predicates that read a site, of the rows for which those are true."""
    stored_top_rows: frozenset[str]
    """Sites whose best rows are looked for in their statistics, which may spare all other reads."""
    plan: str
    """What DuckDB does, as its EXPLAIN says."""

    def __str__(self) -> str:
        lines = [f"reads {self.cost}", *(_line(read) for read in self.reads)]
        if not self.reads:
            lines[0] = "reads no site: the index answers"
        if self.stored_top_rows:
            names = ", ".join(sorted(self.stored_top_rows))
            lines.append(f"best rows of {names}: from stored statistics, if these suffice")
        lines += [f"filter on the index: {text}" for text in self.first]
        lines += [f"then, of these rows: {text}" for text in self.then]
        return "\n".join([*lines, self.plan.strip()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Show it in a notebook, line by line. All text is escaped."""
        return card(self.query, block(str(self)), kind="Explanation")


def _line(read: SiteRead) -> str:
    return f"  {read.site}, {read.what}: {read.cost}"


def explain(
    cache: Cache, query: str, params: Params = None, *, tables: Mapping[str, Any] | None = None
) -> Explanation:
    """Return how a query is answered; see `ActivationCache.explain`.

    Example:
        >>> from lazycache.samples import small_cache
        >>> found = explain(small_cache(), "SELECT unit(resid_out_0, 1) FROM tokens WHERE row > 3")
        >>> print(str(found).splitlines()[0])
        reads 2 rows, 12 bytes in 1 request
    """
    found = dry_run(cache, query, params, tables=tables)
    return Explanation(
        query, found.cost, found.reads, found.cheap, found.lazy, found.known, found.plan
    )
