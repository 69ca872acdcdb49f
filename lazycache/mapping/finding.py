"""Rows that are found: by a unit, by a direction, by a score, as methods of a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.contexts import Context
    from lazycache.query.hits import Hits


class Finding:
    """Rows that are found: by a unit, by a direction, by a score."""

    __slots__ = ()

    def top_k(
        self,
        site: Site,
        unit: int | Sequence[int] | None = None,
        *,
        direction: Any = None,
        score: Callable[[torch.Tensor], torch.Tensor] | None = None,
        k: int = 20,
        largest: bool = True,
        where: str | None = None,
        params: Params = None,
        per_example: bool = False,
        context: int = 10,
    ) -> Hits:
        """Return the k rows in which a unit, a direction or a score is largest, best first: exact.

        Of equal values the lower row comes first. NaN is never a hit, infinities are. Where there
        are fewer rows than k, these are all.

        Args:
            site: A key, or a tensor, `a - b` say, or one in memory.
            unit: 0-based, negative from the end: one index for each dimension of a row, `(3, 5)` of
                heads by units. None for sites of one number per row.
            direction: [units], or of the shape of a row: rows by their dot product with it, in
                float32 (float64 for values that float32 does not hold, and to rank the rows of
                large bfloat16 sites). An array, a tensor, a list.
            score: Gives one number for each row, [n] of values [n, *row] in the dtype of the site.
                Called for one block after the other, in one thread.
            k: How many.
            largest: Or the smallest.
            where: A condition in SQL on the rows.
            params: Values for its parameters.
            per_example: The best row of each example only, of k examples.
            context: Tokens on each side that are given with each hit; 0 for none.

        Cost: of a unit, the greatest values and their rows are stored of each shard: of a whole
        site no shard is read, where k is 32 at most and there is no infinity; mostly not for larger
        k and with `where` either. What they leave open is found by the least and greatest of every
        128 rows, which are stored too: rows are read where these may hold one of the k, and of them
        that unit alone. Sites without statistics, tensors that are worked out, directions and
        scores read every selected row once, in blocks. `where` and contexts ask the index.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
            QueryError: not one index for each dimension; a direction of another shape; several of
                unit, direction and score; no such column in `where`, names the nearest.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.top_k("resid_out_0", 1, k=2)
            Hits of resid_out_0: 2
              value  row  example  position
                 11    5        2         0
                  9    4        1         2
            >>> cache.top_k("resid_out_0", direction=[1.0, -2.0], k=1).rows
            array([0])
        """
        from lazycache.query.finding.top import top_k  # lc.open does without questions

        return top_k(
            cast("Cache", self),
            site,
            unit,
            direction=direction,
            score=score,
            k=k,
            largest=largest,
            where=where,
            params=params,
            per_example=per_example,
            context=context,
        )

    def context(
        self, rows: int | Sequence[int] | np.ndarray, n: int = 10, *, table: str = "tokens"
    ) -> list[Context | None]:
        """Return for each row its token and up to n tokens before and after it.

        They are those of its example, in order, as they were stored: also of a cache of some rows
        only, and never of another example. None for a row whose text was not stored.

        Args:
            rows: Rows of the table, as `row` in SQL; a `Hits` has them: `hits.rows`.
            n: How many on each side.
            table: `tokens`, or `decoder_tokens`.

        Cost: one query of the index; no shard.

        Raises:
            QueryError: there is no such row; the table has no tokens; the cache is in memory, or
                joins several datasets.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().context([1, 5])  # no text was stored of its tokens
            [None, None]
        """
        from lazycache.query.contexts import context  # lc.open does without questions

        return context(cast("Cache", self), rows, n, table=table)
