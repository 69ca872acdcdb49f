"""A cache of some rows: what a condition of SQL keeps of the datasets behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lazycache.cache.tables.conditions import Params
from lazycache.errors import QueryError
from lazycache.mapping.over_datasets import OverDatasets


class Restricting(OverDatasets):
    """Chooses rows by what the tables say of them."""

    if TYPE_CHECKING:

        def copy(self) -> Self: ...  # noqa: D102  # the cache's own

    def where(self, condition: str, params: Params = None) -> Self:
        """Return a cache of the rows that a condition of SQL is true of, lazily.

        `cache.where("label = 'x' AND position > 0")`: columns are those of `tokens` and, by run and
        example, those of `examples`; sites are columns too, `unit(resid_out_0, 3) > 1`. Rows for
        which the condition is NULL are not kept. A `where` of a `where` keeps what satisfies both.

        A condition on columns of `examples` alone (and `run`, `example`) chooses examples, with all
        that belongs to them. Any other chooses rows of `tokens`, and the examples that have such a
        row. Sites of other tables, pooled ones or calls say, have the rows of these examples that
        satisfy it too, if their table has its columns; else all rows of these examples. Examples
        that are left keep their order: `x[i]` is the i-th of them, in every site. Of attention
        patterns rows are queries; their keys stay.

        SQL on the result sees these rows only. Values in memory have no rows: their keys, and those
        of values that were stored beside the sites, are not in the result. The strategies are.

        Args:
            condition: One expression.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping).

        Cost: asks the index now, and holds what is kept as ranges of rows. No shard is read, unless
        the condition names a site. SQL on the result costs 8 bytes for each kept row.

        Raises:
            QueryError: no such column, names the nearest; not one expression; or there is no
                dataset behind this cache.

        Example:
            >>> from lazycache.samples import small_cache
            >>> later = small_cache().where("position > 0")
            >>> later["resid_out_0"].lengths, later.sql("SELECT count(*) FROM tokens").fetchall()
            (array([1, 2]), [(3,)])
        """
        if not self.datasets:
            raise QueryError(
                "where() asks the tables of a dataset, and this cache is in memory: "
                "cache.save(url), then lc.open(url).where(...); or index the tensors."
            )
        made = {id(one): one.where(condition, params) for one in self.datasets}
        found: Self = self.copy()
        found._keep_stored()
        found.replace_datasets(made)
        return found

    def _keep_stored(self) -> None:
        """Drop what has no rows of a dataset."""
        self.segments = {key: one for key, one in self.segments.items() if one.is_stored}
