"""What a question is about: a tensor of a cache, by its name or as it is, and some of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.joined.join import join
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import QueryError, SelectionError

Site: TypeAlias = "str | LazyTensor | RaggedTensor | torch.Tensor"
"""What can be asked about: a key of the cache, or a tensor, `a - b` for example."""

Params: TypeAlias = "Sequence[Any] | Mapping[str, Any] | None"
"""Values for the parameters of a condition."""


class Cache(Protocol):
    """What questions need of an `ActivationCache`, which is a stage above this one."""

    @property
    def datasets(self) -> tuple[StoredSites, ...]:
        """The datasets behind it."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return what is under a key."""
        ...

    def sql(self, query: str, params: Params = None) -> Any:
        """Return the result of a query; see `ActivationCache.sql`."""
        ...


def tensor_of(
    cache: Cache, site: Site, *, where: str | None = None, params: Params = None
) -> LazyTensor:
    """Return what is asked about: its rows have one shape. Reads no shard for a name.

    Args:
        cache: Where a name is looked up.
        site: A key of the cache or a tensor; one in memory is taken as it is.
        where: A condition in SQL on its rows; None for all.
        params: Values for the parameters of the condition.

    Raises:
        SiteNotFoundError: no such key; names the nearest.
        QueryError: it is no tensor, or one of attention patterns; or the condition cannot be asked.

    Example:
        >>> from lazycache.samples import small_cache
        >>> tensor_of(small_cache(), "resid_out_0", where="position > 0").shape
        torch.Size([2, 2, 2])
    """
    found = any_tensor_of(cache, site, where=where, params=params)
    if isinstance(found, RaggedTensor):
        raise QueryError(
            f"{found.site} has rows of different width, attention patterns: ask "
            "cache.attention(...) or cache.mean_attention(...), or reduce them first, "
            "x.max(-1) for example."
        )
    return found


def any_tensor_of(
    cache: Cache, site: Site, *, where: str | None = None, params: Params = None
) -> LazyTensor | RaggedTensor:
    """Return what is asked about, attention patterns too; else as `tensor_of`."""
    found = cache[site] if isinstance(site, str) else site
    if isinstance(found, torch.Tensor):
        if not found.ndim:
            raise QueryError(f"{_named(site)} is a single number: it has no rows to ask about.")
        found = join([found])
    if not isinstance(found, LazyTensor | RaggedTensor):
        raise QueryError(
            f"{_named(site)} is a {type(found).__name__}, not a tensor: ask about a site, or about "
            "a tensor that was made of sites."
        )
    return found if where is None else found.where(where, params)


def unit_of(x: LazyTensor, unit: int | Sequence[int] | None) -> LazyTensor:
    """Return one unit of every row; of sites of one number per row None is that number.

    Raises:
        QueryError: not one index for each dimension of a row.
        SelectionError: outside of the shape.

    Example:
        >>> from lazycache.samples import small_cache
        >>> unit_of(small_cache()["resid_out_0"], 1).shape
        torch.Size([3, 3])
    """
    given = unit.tolist() if isinstance(unit, torch.Tensor | np.ndarray) else unit
    place = () if given is None else tuple(given) if isinstance(given, Sequence) else (given,)
    if any(isinstance(one, bool) or not isinstance(one, int | np.integer) for one in place):
        raise QueryError(f"unit {unit!r}: a number, or one for each dimension of a row.")
    if len(place) != len(x.row_shape):
        raise QueryError(f"A unit of {x.site} is {_indices(x.row_shape)}: {len(place)} given.")
    if any(not -size <= one < size for one, size in zip(place, x.row_shape, strict=True)):
        raise SelectionError(
            f"{x.site} has no unit {','.join(map(str, place))}: it is {_indices(x.row_shape)}."
        )
    return x[(*(slice(None),) * x.lead_ndim, *place)]


def _indices(shape: Sequence[int]) -> str:
    """Say which numbers a unit is.

    Example:
        >>> _indices((1536,)), _indices((12, 32))
        ('one number, 0 to 1535', '2 numbers, 0 to 11 and 0 to 31')
    """
    count = "one number" if len(shape) == 1 else f"{len(shape)} numbers"
    return f"{count}, {' and '.join(f'0 to {size - 1}' for size in shape)}"


def _named(site: Site) -> str:
    return repr(site) if isinstance(site, str) else "this"
