"""Rows of two tensors that are the same rows: of the same examples, at the same positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.computing.row_spaces import same_rows
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.selection import Grid
from lazycache.errors import QueryError
from lazycache.query.contexts import surroundings

if TYPE_CHECKING:
    import torch

    from lazycache.cache.tables.row_origins import Origin, Origins
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

COMPARED_ROWS = 1 << 16
"""Rows whose examples and positions are in memory at a time."""


def paired_rows(a: LazyTensor, b: LazyTensor) -> tuple[Rows, Rows]:
    """Return row numbers of two tensors, the same rows at each place. Reads no shard.

    Rows of one dataset are compared by number, of several by example id and position. What is in
    memory has neither: its rows are paired by their place.

    Raises:
        QueryError: they have different rows; says where.
    """
    mine, other = _rows(a), _rows(b)
    if len(mine) != len(other):
        raise _differ(a, b, f"{len(mine):,} rows and {len(other):,}")
    if a.source.origins is not None and b.source.origins is not None:
        for start, stop in blocks(len(mine), size=COMPARED_ROWS):
            parts = as_array(mine[start:stop]), as_array(other[start:stop])
            how = _difference(a.source.origins, b.source.origins, *parts)
            if how is not None:
                raise _differ(a, b, how)
    if same_rows(a.lead, b.lead):
        # in storage order, which is read without a copy
        mine = other = a.rows.lead.flat()
    return mine, other


def values_beside(x: LazyTensor, y: LazyTensor) -> torch.Tensor:
    """Return what another tensor has of the rows of one, in the order of `x.rows`: [rows, *row].

    Rows are paired as by `paired_rows`: row numbers of two datasets say nothing of each other.

    Raises:
        QueryError: they have different rows; says where.
    """
    if x.source.origins is None or y.source.origins is None:
        if x.rows.shape[0] != y.rows.shape[0]:
            raise _differ(x, y, f"{x.rows.shape[0]:,} rows and {y.rows.shape[0]:,}")
        return y.rows.load().cpu()
    mine, other = map(as_array, paired_rows(x, y))
    rows = as_array(x.rows.lead.flat())
    if not np.array_equal(mine, rows):
        order = np.argsort(mine, kind="stable")
        other = other[order[np.searchsorted(mine[order], rows)]]
    return y.values_of(other).cpu()


def _rows(x: LazyTensor) -> Rows:
    # of the examples table those are left out that the site does not have
    return x.lead.flat() if isinstance(x.lead, Grid) else x.rows.lead.flat()


def _difference(one: Origins, two: Origins, mine: np.ndarray, other: np.ndarray) -> str | None:
    """Return how two rows at one place differ, if there are such."""
    origins = one(mine), two(other)
    if _are_same(*origins):
        return None
    found = [surroundings(origin, len(mine), around=None) for origin in origins]
    sides = [list(zip(s.examples, s.positions, strict=True)) for s in found]
    different = [i for i, pair in enumerate(zip(*sides, strict=True)) if pair[0] != pair[1]]
    if not different:
        return None
    first = different[0]
    return f"{_named(sides[0][first])} in the one stands where the other has " + _named(
        sides[1][first]
    )


def _are_same(one: Sequence[Origin], two: Sequence[Origin]) -> bool:
    """Return whether these are certainly the same rows of the same tables of the same datasets."""
    return len(one) == len(two) and all(
        a.tables.whole is b.tables.whole
        and a.table == b.table
        and np.array_equal(a.rows, b.rows)
        and _members(a.members, b.members)
        for a, b in zip(one, two, strict=True)
    )


def _members(a: np.ndarray | slice, b: np.ndarray | slice) -> bool:
    if isinstance(a, slice) or isinstance(b, slice):
        return isinstance(a, slice) and isinstance(b, slice) and a == b
    return np.array_equal(a, b)


def _named(row: tuple[int, int | None]) -> str:
    example, position = row
    return f"example {example}" + ("" if position is None else f", position {position}")


def _differ(a: LazyTensor, b: LazyTensor, how: str) -> QueryError:
    return QueryError(
        f"{a!r} and {b!r} are not of the same rows: {how}. Select the same rows of both, "
        "cache.where(...) or .rows[...]; what is in memory, .load(), is paired by its place."
    )
