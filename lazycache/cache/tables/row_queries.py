"""Rows of a lazy tensor chosen or grouped by what the tables say of them, as its methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from lazycache.cache.selecting import sampling
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Lead
from lazycache.cache.tables import kept_rows, row_columns
from lazycache.cache.tables.conditions import Params
from lazycache.cache.tables.group_aggregates import Groups
from lazycache.cache.tables.row_origins import Origin, asked, keeping, picked
from lazycache.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.cache.selecting.ragged_selection import RaggedSelection
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.cache.tensor.ragged_tensor import RaggedTensor


class AnyRowQueries:
    """Methods that ask the tables of the dataset which rows are meant, or what they are."""

    __slots__ = ()

    def where(self, condition: str, params: Params = None) -> Self:
        """Keep the rows that a condition of SQL is true of: `x.where("position > 0")`.

        Columns are those of the table and, by run and example, those of `examples`; sites are
        columns too: `unit(resid_out_0, 3) > 1`. Examples stay examples, with the positions that are
        left of each, in their order; those of which nothing is left are gone. Rows that are not in
        examples by positions stay one after the other. Indices count what is left:
        `x.where(...)[0]` is the first example that is left.

        A condition on columns of `examples` alone chooses examples. Rows for which it is NULL are
        not kept.

        Args:
            condition: One expression.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping).

        Cost: asks the index now; no shard, unless the condition names a site. What is kept is held
        as ranges of rows.

        Raises:
            QueryError: no such column, names the nearest; or not one expression.

        Example:
            >>> from lazycache.samples import small_cache
            >>> x = small_cache()["resid_out_0"].where("position > 0")
            >>> x.lengths, x.shape
            (array([1, 2]), torch.Size([2, 2, 2]))
        """
        return self._kept(keeping(self._origins, condition, params))

    def sample(self, n: int, seed: int = 0) -> Self:
        """Return `n` of the selected rows by chance: (n, *row), none twice, in their order.

        Of a site with one row per example these are examples. The same seed gives the same rows of
        the same selection, whatever batches and shards they were stored in and on any machine.

        Cost: reads nothing.

        Raises:
            SelectionError: fewer rows are selected; says how many.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].sample(2).load()
            tensor([[ 2.,  3.],
                    [10., 11.]])
        """
        rows = self._numbers()
        return self._of_rows(picked(rows, sampling.places(len(rows), n, seed=seed)))

    def group_by(self, column: str) -> Groups[Self]:
        """Group the selected rows by a column, or by an expression of SQL over columns.

        `x.group_by("label").mean()` has a result for each label: `mean sum min max std var norm
        count`. `groups["x"]` are the rows of a group, lazily; iterating gives (key, rows). Keys
        ascend; rows without a value are the last group, None.

        Cost: asks the index now, as `columns`; 8 bytes for each selected row are held.

        Raises:
            QueryError: no such column, names the nearest; or it is a list for each row.

        Example:
            >>> from lazycache.samples import small_cache
            >>> means = small_cache()["resid_out_0"].group_by("position").mean()
            >>> means.keys, means[2]
            ((0, 1, 2), tensor([8., 9.], dtype=torch.float64))
        """
        rows = self._stored_numbers()
        origins = self._origins(as_array(rows))
        return Groups.by(self, rows, origins, column)

    def columns(self, *names: str) -> pa.Table:
        """Return columns of the tables for the selected rows, as an Arrow table.

        One entry for each row, in the order of `x`: example after example; of `x.rows`, which is in
        storage order, in that order. So `x.rows.load()` and `x.rows.column("label")` fit together.

        Args:
            *names: Columns of the table or of `examples`, or expressions of SQL over them.

        Cost: asks the index; in memory are these columns.

        Raises:
            QueryError: no such column, names the nearest.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][:, -1].columns("example", "position").to_pydict()
            {'example': [0, 1, 2], 'position': [1, 2, 0]}
        """
        if not names:
            raise QueryError('columns() takes the names of columns: x.columns("label").')
        rows = as_array(self._numbers())
        return row_columns.table_of(self._origins(rows), names, count=len(rows))

    def column(self, name: str) -> np.ndarray:
        """Return one of `columns` as an array: one entry for each selected row, in order of `x`.

        NULL is nan in a column of numbers, else None. Cost and errors as `columns`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][1].column("position")
            array([0, 1, 2], dtype=int32)
        """
        values: np.ndarray = self.columns(name).column(0).to_numpy()
        return values

    def _origins(self, rows: np.ndarray) -> list[Origin]:
        x = cast("LazyTensor | RaggedTensor", self)
        return asked(x.source, rows, shown=lambda: repr(x))

    if TYPE_CHECKING:

        def _numbers(self) -> Rows:
            """Return the selected rows, as they come."""
            ...

        def _stored_numbers(self) -> Rows:
            """Return the selected rows, in an order that is good to read them in."""
            ...

        def _of_rows(self, rows: Rows) -> Self:
            """Return rows, one after the other."""
            ...

        def _kept(self, keep: Callable[[np.ndarray], np.ndarray]) -> Self:
            """Return the selection without the rows that are not kept."""
            ...


class RowQueries(AnyRowQueries):
    """Of tensors whose rows have one shape."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _present(self, rows: Rows) -> Rows: ...
        def _view(self, *, lead: Lead) -> Any: ...

    def _numbers(self) -> Rows:
        return self._present(cast("LazyTensor", self).lead.flat())

    def _stored_numbers(self) -> Rows:
        return cast("LazyTensor", self).rows.lead.flat()

    def _of_rows(self, rows: Rows) -> Self:
        return cast("Self", self._view(lead=Dense(rows)))

    def _kept(self, keep: Callable[[np.ndarray], np.ndarray]) -> Self:
        return cast("Self", self._view(lead=kept_rows.of_lead(cast("LazyTensor", self).lead, keep)))


class RaggedRowQueries(AnyRowQueries):
    """Of tensors whose rows are attention patterns: queries, each with all its keys."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _view(self, selection: RaggedSelection) -> Any: ...

    def _numbers(self) -> Rows:
        return cast("RaggedTensor", self).selection.rows

    def _stored_numbers(self) -> Rows:
        return np.sort(as_array(self._numbers()))

    def _of_rows(self, rows: Rows) -> Self:
        selection = cast("RaggedTensor", self).selection
        return cast("Self", self._view(kept_rows.by_row(selection, rows)))

    def _kept(self, keep: Callable[[np.ndarray], np.ndarray]) -> Self:
        selection = cast("RaggedTensor", self).selection
        return cast("Self", self._view(kept_rows.of_ragged(selection, keep)))
