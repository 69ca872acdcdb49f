"""How much activations change from one model to another, or from one site to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.computing.arithmetic import elementwise, of_pairs
from lazycache.cache.computing.expressions import map_rows
from lazycache.cache.computing.row_spaces import same_rows
from lazycache.cache.selecting.selection import Grid
from lazycache.errors import QueryError, SelectionError
from lazycache.faces.html import card
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.comparing.difference_summaries import (
    DifferenceSummary,
    PairGroups,
    cosines_of,
    grouped,
    norms_of,
    summary_of,
)
from lazycache.query.hits import Hits
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

_NARROW = {torch.int8, torch.uint8, torch.int16, torch.uint16, torch.bool}


def diff(
    cache: Cache,
    other: Cache,
    site: Site,
    *,
    other_site: Site | None = None,
    by: str | None = None,
    where: str | None = None,
    params: Params = None,
) -> Difference:
    """Return the change of a site from one cache to another; see `ActivationCache.diff`."""
    if other_site is None and not isinstance(site, str):
        raise QueryError(
            "diff of a tensor needs the tensor that it is compared with: other_site=tensor. Of "
            "two caches it takes the name of a site."
        )
    if not callable(getattr(other, "sql", None)):
        raise QueryError(
            f"diff(other, site) takes a cache as `other`, not a {type(other).__name__}: of one "
            "cache, cache.diff(cache, site, other_site=...)."
        )
    x = tensor_of(cache, site)
    y = tensor_of(other, site if other_site is None else other_site)
    _check(x, y)
    dtype = _wide(x, y)
    pair = of_pairs(partial(_paired, dtype), x, y, (2, *x.row_shape), dtype)
    delta = elementwise(_change, (x.to(dtype), y.to(dtype)))
    if where is not None:
        pair, delta = pair.where(where, params), delta.where(where, params)
    groups = None if by is None else grouped(pair, by)
    return Difference(delta, pair, cache, groups)


def _check(x: LazyTensor, y: LazyTensor) -> None:
    if x.row_shape != y.row_shape:
        raise QueryError(
            f"diff of {x!r} and {y!r}: their rows have the shapes {list(x.row_shape)} and "
            f"{list(y.row_shape)}. Select or project them to one, x[..., :64] or x.map(...)."
        )
    if not x.lead_ndim or not y.lead_ndim:
        raise QueryError("diff of one row: x - y is the difference.")
    a, b = x.lead, y.lead
    one = isinstance(a, Grid) and isinstance(b, Grid) and a.map is b.map
    # of one table of one dataset, the numbers of the rows say it; other numbers are paired, or not
    known = _is_in_memory(x, y) or (one and a.shape == b.shape and same_rows(a, b))
    if not known and a.shape == b.shape:
        _check_places(x, y)


def _is_in_memory(x: LazyTensor, y: LazyTensor) -> bool:
    return x.source.origins is None or y.source.origins is None


def _check_places(x: LazyTensor, y: LazyTensor) -> None:
    """Refuse rows of other examples or positions: of `last-2` and `first-2`, both have two."""
    names = ["example"] if EXAMPLES in {x.source.spec.table, y.source.spec.table} else _PLACES
    tables = x.columns(*names), y.columns(*names)
    if tables[0].num_rows != tables[1].num_rows:
        return  # pairing says of which examples
    for name in names:
        mine, theirs = (table.column(name).to_numpy() for table in tables)
        different = np.flatnonzero(mine != theirs)
        if len(different):
            i = int(different[0])
            raise SelectionError(
                f"{x!r} and {y!r} have different rows: row {i} is {name} {mine[i]} in the one and "
                f"{name} {theirs[i]} in the other ({len(different):,} such rows). Choose the rows "
                "that both have: diff of cache.where(...) and other.where(...)."
            )


_PLACES = ["example", "position"]


def _wide(x: LazyTensor, y: LazyTensor) -> torch.dtype:
    """Return the dtype of a change: float32 holds what is narrower, float64 all else."""
    kinds = {x.dtype, y.dtype}
    narrow = all(k in _NARROW or (k.is_floating_point and k.itemsize <= _SINGLE) for k in kinds)
    return torch.float32 if narrow else torch.float64


_SINGLE = 4


def _change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return after - before


def _paired(dtype: torch.dtype, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return torch.stack([before.to(dtype), after.to(dtype)], 1)


@dataclass(frozen=True, eq=False)
class Difference:
    """The change of a site from one side to the other: after minus before, row by row, lazily.

    Without slots, for the summary, which is worked out once.
    """

    delta: LazyTensor
    """The change: after - before, in float32, or float64 of wider values."""
    pair: LazyTensor
    """Both sides: [..., 2, *row], before and after."""
    _cache: Cache = field(repr=False)
    _groups: PairGroups | None = field(repr=False)

    @property
    def norms(self) -> LazyTensor:
        """The Euclidean norm of the change of each row: float64, lazy."""
        return map_rows(self.pair, norms_of, (), torch.float64)

    @property
    def cosines(self) -> LazyTensor:
        """The cosine between both sides of each row: float64, lazy; NaN where one is zero."""
        return map_rows(self.pair, cosines_of, (), torch.float64)

    def top_k(self, k: int = 20, *, largest: bool = True, context: int = 10) -> Hits:
        """Return the rows that change most (or least), by their norm; rows with NaN are none.

        Arguments and errors as `ActivationCache.top_k`.

        Cost: reads both sides once, in blocks.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> change = cache.diff(cache, "resid_out_0", other_site=cache["resid_out_0"] * 2)
            >>> change.top_k(1)[0].value  # that of [10, 11], which becomes [20, 22]
            14.866068747318506
        """
        from lazycache.query.finding.top import top_k

        found: Hits = top_k(self._cache, self.norms, k=k, largest=largest, context=context)
        return found

    @cached_property
    def summary(self) -> DifferenceSummary:
        """How much rows change, overall, by unit and by group.

        Cost: reads both sides once, in blocks, and keeps the numbers.

        Raises:
            SelectionError: there are no rows.
        """
        return summary_of(self.pair, self._groups)

    def __repr__(self) -> str:
        return f"Difference({self.delta!r})"

    def _repr_html_(self) -> str:
        """Say what is compared in a notebook; its summary too where that was worked out."""
        known = self.__dict__.get("summary")
        summary = "" if known is None else known._repr_html_()
        return card("after - before", self.delta._repr_html_(), summary, kind="Difference")
