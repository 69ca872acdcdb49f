"""`lc.connect`: SQL over one dataset or several at once. Loads DuckDB when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lazycache.cache.dataset.connection import Answered
from lazycache.errors import QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.storage.open_store import Url

if TYPE_CHECKING:
    from lazycache.query.sql.connection import Asked, Connection


def connect(
    datasets: Url | ActivationCache | Mapping[str, Url | ActivationCache],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Connection:
    """Connect to datasets for SQL; several are asked in one query, to compare two models say.

    Of `lc.connect({"base": url1, "tuned": url2})` the tables are `base.tokens`, `tuned.tokens`,
    `base.statistics` and so on, with every site as a lazy column; of `lc.connect(url)` they are
    `tokens`, `statistics`, as in `cache.sql`. Datasets of the same texts join on `(example,
    position)`::

        SELECT b.token, unit(b.resid_out_3, 5) - unit(t.resid_out_3, 5) AS moved
        FROM base.tokens b JOIN tuned.tokens t USING (example, position)
        WHERE b.token = ' Paris' ORDER BY abs(moved) DESC LIMIT 20

    Args:
        datasets: An address, or a cache that is open; or several, by the name that stands before
            their tables. One dataset may be there twice, with other conditions say.
        storage_options: Handed to fsspec, for all addresses.

    Returns:
        The connection: `.sql(query, params, tables=...)` and `.close()`; a context manager too. It
        closes what it opened; caches that were handed over stay open, and count in their `io` what
        is read of them.

    Raises:
        QueryError: a name that cannot stand before a table, or a cache in memory or of several
            datasets.
        DatasetNotFoundError: there is no dataset; says what is there instead.
        FormatVersionError: a newer lazycache wrote it.
        CorruptShardError: the log or a table file is damaged.

    Cost: reads the logs, and for indexes that do not exist yet the table files of new commits. No
    shard is read, and of a query only the rows that survive its cheaper predicates: of a join, of
    each dataset those that have a partner.

    Example:
        >>> import lazycache as lc
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> with lc.connect({"every": cache, "later": cache.where("position > 0")}) as connection:
        ...     connection.sql(
        ...         "SELECT count(*), count(l.row) "
        ...         "FROM every.tokens e LEFT JOIN later.tokens l USING (row)"
        ...     ).fetchall()
        [(6, 3)]
    """
    from lazycache.query.sql.connection import connect_several
    from lazycache.query.sql.members import ONLY, check_names

    named: Mapping[str, Url | ActivationCache]
    if isinstance(datasets, Mapping) and not isinstance(datasets, ActivationCache):
        named = datasets
        check_names(named.keys())
    else:
        named = {ONLY: datasets}
    opened = ExitStack()
    try:
        asked = {name: _asked(one, storage_options, opened) for name, one in named.items()}
        return connect_several(asked, closers=[opened.close])
    except BaseException:  # whatever it was: nobody else closes what was opened
        opened.close()
        raise


def _asked(
    dataset: Url | ActivationCache, storage_options: Mapping[str, Any] | None, opened: ExitStack
) -> Asked:
    """Return what is asked of a dataset; what is opened for it is left for `opened` to close."""
    from lazycache.query.sql.connection import Asked

    if isinstance(dataset, ActivationCache):
        cache = dataset
    else:
        cache = open_dataset(dataset, storage_options=storage_options)
        opened.callback(cache.close)
    if cache.joins != 1:
        raise QueryError(
            "SQL asks datasets, and a cache that was given is in memory: cache.save(url) makes one."
            if not cache.joins
            else f"A cache that was given joins {cache.joins} datasets: give each its own name."
        )
    sites = cache.stored
    answered = Answered.of(sites)
    return Asked(sites.snapshot, sites.reader, sites.store, answered.kept or {}, answered.of_site)
