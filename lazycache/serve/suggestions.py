"""Queries to begin with, of what a dataset has, and the tables that they may name."""

from __future__ import annotations

from lazycache.cache.tables.conditions import quoted
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.types import RAGGED, TOKENS

ALWAYS = ("sites", "statistics", "shards", "chunks", "commits", "runs")
"""Tables of every dataset, about what is stored."""

FREQUENT = "SELECT token, count(*) AS n FROM tokens\nGROUP BY token ORDER BY n DESC LIMIT 20"
GREATEST = (
    "SELECT example, position, {said}, unit({site}, 0) AS a FROM tokens\nORDER BY a DESC LIMIT 20"
)
NORMS = (
    "SELECT position, avg(norm({site})) AS norm FROM tokens\n"
    "WHERE position < 32 GROUP BY position ORDER BY position"
)


def suggested(cache: ActivationCache) -> list[tuple[str, str]]:
    """Return some questions and the queries that answer them. Reads nothing."""
    found = [("What is stored?", "SELECT site, dtype, shape, rows, bytes FROM sites")]
    if "text" in _columns(cache, "examples"):
        found.append(
            ("The texts", "SELECT example, length, text FROM examples ORDER BY example LIMIT 20")
        )
    site, columns = _site(cache), _columns(cache, TOKENS)
    if "token" in columns:
        found.append(("The most frequent tokens", FREQUENT))
    if site is not None:
        said = "token" if "token" in columns else "row"
        found += [
            ("Where a unit is greatest", GREATEST.format(said=said, site=quoted(site))),
            ("Norm by position", NORMS.format(site=quoted(site))),
        ]
    return found


def tables(cache: ActivationCache) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the tables of a dataset with their columns and types, without the sites."""
    snapshot = cache.datasets[0].snapshot
    own = [(name, list(snapshot.columns(name).items())) for name in snapshot.tables]
    return [*own, *((name, []) for name in ALWAYS)]


def _columns(cache: ActivationCache, table: str) -> dict[str, str]:
    return cache.datasets[0].snapshot.columns(table)


def _site(cache: ActivationCache) -> str | None:
    """Return a site of tokens whose rows are vectors: the last residual, else any."""
    fit = [
        name
        for name, site in cache.sites.items()
        if site.table == TOKENS and site.layout != RAGGED and len(site.shape) == 1
    ]
    return next((name for name in reversed(fit) if name.startswith("resid_out")), None) or (
        fit[-1] if fit else None
    )
