"""Means of groups of rows."""

from __future__ import annotations

from lazycache.cache.tables.groups import GroupResult
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of


def group_mean(
    cache: Cache, site: Site, by: str, *, where: str | None = None, params: Params = None
) -> GroupResult:
    """Return the mean of each group of rows; see `ActivationCache.group_mean`.

    Example:
        >>> from lazycache.samples import small_cache
        >>> found = group_mean(small_cache(), "resid_out_0", "position > 0")
        >>> found.keys, found[True]
        ((False, True), tensor([5.3333, 6.3333], dtype=torch.float64))
    """
    if not isinstance(by, str):
        raise QueryError(
            f"group_mean by a {type(by).__name__}: a column of the tables, or an expression of SQL "
            'over them, "label" or "position // 10".'
        )
    return tensor_of(cache, site, where=where, params=params).group_by(by).mean()
