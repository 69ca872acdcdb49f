"""What a question costs before it is asked, as methods of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Params
    from lazycache.query.estimating.costs import Cost
    from lazycache.query.estimating.explaining import Explanation


class Estimating:
    """What a question costs before it is asked."""

    __slots__ = ()

    def cost(self, question: object, /, *args: Any, params: Params = None, **options: Any) -> Cost:
        """Return what a question would read: rows, bytes, requests, bytes of statistics.

        In the words of `cache.io`, which counts them when it is asked. `.kind` says whether it is
        `exact`, `at most` that, or `about` that.

        `cost(x)` of a lazy tensor, or of its key, is that of `x.load()`, or where examples differ
        in length of `x.nested()`: exact, of expressions too. Of attention patterns an upper bound.

        `cost(query)` of SQL is exact where predicates are on the index. Where they look at sites it
        is an upper bound, of all rows passing. `about` is what values decide in another way: by
        HAVING, QUALIFY, CASE, in a join, or by which rows ORDER BY takes first. Of rows that are
        best by stored statistics it is the bound of looking at all of them.

        `cost("correlate", site, column)` and so on is that of `cache.correlate(site, column)`: of
        `top_k similar histogram firing_rates correlate group_mean`, and of the reductions over all
        rows, `mean sum min max std var norm all any count_nonzero statistics`. Exact for
        `correlate`, `group_mean` and reductions. What answers from statistics first, `top_k`, has
        the bound that they help nothing; of a site with more statistics than the 128 MiB that are
        kept, it may read some of these twice. There is no cost of the other questions.

        Args:
            question: A lazy tensor, a key, SQL, or the name of a question.
            *args: What the question takes.
            params: Values for the parameters of SQL.
            **options: What the question takes by name; of SQL, `tables`.

        Cost: reads no shard. Of a tensor, microseconds for each block of rows. Of SQL, the query
        runs over the index, with made-up values: some 0.1 s, and of whole rows what DuckDB takes to
        move as many numbers. What was read before and is kept, statistics and projections, is not
        counted.

        Raises:
            QueryError: nothing that can be asked; SQL that cannot be answered.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.cost(cache["resid_out_0"][1])
            Cost(3 rows, 24 bytes in 1 request)
            >>> cache.cost("SELECT resid_out_0 FROM tokens WHERE position = ?", params=[1])
            Cost(2 rows, 24 bytes in 1 request)
            >>> cache.cost("group_mean", "resid_out_0", "position"), cache.io.bytes
            (Cost(6 rows, 48 bytes in 1 request), 0)
        """
        from lazycache.query.estimating.costs import cost

        return cost(cast("Cache", self), question, *args, params=params, **options)

    def explain(
        self, query: str, params: Params = None, *, tables: Mapping[str, Any] | None = None
    ) -> Explanation:
        r"""Return how SQL will be answered: what is read of which site, and in which order.

        `print` it: one line for each site and what is read of its rows, with rows, bytes and
        requests as of `cost`; the predicates that the index answers, and those that are evaluated
        of the rows which are left; whether best rows come from stored statistics; the plan of
        DuckDB. `EXPLAIN SELECT ...` in SQL is the plan alone, without our rewriting.

        Args:
            query: One SELECT, as `sql` takes it.
            params: Values for its parameters, as `sql` takes them.
            tables: Your own tables by name, as `sql` takes them.

        Cost: as `cost(query)`; reads no shard.

        Raises:
            QueryError: it cannot be answered.

        Example:
            >>> from lazycache.samples import small_cache
            >>> found = small_cache().explain(
            ...     "SELECT row FROM tokens WHERE position > 0 AND unit(resid_out_0, 1) > 5"
            ... )
            >>> print("\n".join(str(found).splitlines()[:4]))
            reads 3 rows, 28 bytes in 1 request
              resid_out_0, [1] of each row: 3 rows, 28 bytes in 1 request
            filter on the index: ("position" > 0)
            then, of these rows: (unit(resid_out_0, 1) > 5)
        """
        from lazycache.query.estimating.explaining import explain

        return explain(cast("Cache", self), query, params, tables=tables)
