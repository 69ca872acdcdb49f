"""Units and what the tables say of their rows, as methods of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, overload

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lazycache.cache.tables.groups import GroupResult
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.relating.correlation import Unit


class Relating:
    """Units and what the tables say of their rows."""

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def correlate(
            self,
            site: Site,
            column: str | LazyTensor | torch.Tensor | np.ndarray | Sequence[float],
            *,
            top: None = None,
            where: str | None = None,
            params: Params = None,
        ) -> torch.Tensor: ...
        @overload
        def correlate(
            self,
            site: Site,
            column: str | LazyTensor | torch.Tensor | np.ndarray | Sequence[float],
            *,
            top: int,
            where: str | None = None,
            params: Params = None,
        ) -> list[tuple[Unit, float]]: ...

    def correlate(
        self,
        site: Site,
        column: str | LazyTensor | torch.Tensor | np.ndarray | Sequence[float],
        *,
        top: int | None = None,
        where: str | None = None,
        params: Params = None,
    ) -> torch.Tensor | list[tuple[Unit, float]]:
        """Return Pearson's r of every unit with a number of each row: float64[*units].

        Rows where the number is NULL, NaN or infinite are left out. Of a unit that has values which
        are not finite, r is over its other rows. It is nan where the unit or the number is
        constant over these rows, and where there are fewer than two.

        Args:
            site: A key, or a tensor.
            column: A column of the tables, or an expression of SQL over them: numbers, or booleans,
                which are 0 and 1 (`"label = 'x'"`). Or the numbers themselves, one for each row in
                the order of `x.rows`, of the rows that `where` keeps. Or one unit of the same rows,
                also of another dataset: paired by example and position.
            top: Give the units of the greatest |r| alone, as pairs of unit and r, the strongest
                first and of equal ones the lower unit; nan is none.
            where: A condition in SQL on the rows.
            params: Values for its parameters.

        Cost: asks the index for the column, and reads the rows once, in blocks, for all units
        together; 8 bytes for each row are in memory. Sums are float64, of distances from a value
        of each block, and blocks are merged by Chan's rule (Chan, Golub and LeVeque 1983): a mean
        that is large beside the deviations costs no digits. Of all rows of shards with statistics,
        the spread of units is read from these, which halves the time.

        Raises:
            QueryError: the column is text, or a list; there are not as many numbers as rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.correlate("resid_out_0", "row")
            tensor([1., 1.], dtype=torch.float64)
            >>> [(unit, r)] = cache.correlate("resid_out_0", "-example", top=1)
            >>> unit, round(r, 3)
            (0, -0.923)
        """
        from lazycache.query.relating.correlation import correlate

        cache = cast("Cache", self)
        if top is None:
            return correlate(cache, site, column, where=where, params=params)
        return correlate(cache, site, column, top=top, where=where, params=params)

    def group_mean(
        self, site: Site, by: str, *, where: str | None = None, params: Params = None
    ) -> GroupResult:
        """Return the mean of each group of rows: of each label, position, token.

        `found["x"]` is the mean of a group, `found.values` are all, float64[groups, *units], in the
        order of `found.keys`, which ascend; rows without a value are the last group, None. NaN and
        infinities go through as in torch. It is `x.group_by(by).mean()`; `x.group_by(by)` has other
        aggregates too.

        Args:
            site: A key, or a tensor.
            by: A column of the tables, or an expression of SQL over them.
            where: A condition in SQL on the rows.
            params: Values for its parameters.

        Cost: asks the index for the column, and reads the rows once, in blocks, whatever the number
        of groups; in memory are the results and 8 bytes for each row.

        Raises:
            QueryError: no such column, names the nearest; or it is a list for each row.
            MemoryBudgetError: the results are larger than the budget of implicit loads.

        Example:
            >>> from lazycache.samples import small_cache
            >>> found = small_cache().group_mean("resid_out_0", "position", where="example > 0")
            >>> found.keys, found[1]
            ((0, 1, 2), tensor([6., 7.], dtype=torch.float64))
        """
        from lazycache.query.relating.grouping import group_mean

        return group_mean(cast("Cache", self), site, by, where=where, params=params)
