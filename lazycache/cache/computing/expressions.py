"""Lazy tensors made of lazy tensors: what is computed is said here, and done when it is read.

`map_rows` computes rows from rows; the operators are in `arithmetic.py`. Nothing is read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from lazycache.cache.computing.derived_reader import DerivedReader
from lazycache.cache.computing.operands import RowsOf
from lazycache.cache.computing.program import Leaf, Node
from lazycache.cache.computing.row_spaces import Numbered
from lazycache.cache.reading.source import Fixed
from lazycache.cache.selecting.examples import ExampleMap, one_row_each
from lazycache.cache.selecting.selection import Grid, Lead
from lazycache.cache.tables.row_origins import through
from lazycache.codec.dtypes import by_name, of_torch
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

PROBED = 2
"""Rows of zeros that tell what a function makes of rows; of one, a result could be of all rows."""


def map_rows(
    x: LazyTensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    row_shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    foreign: bool = False,
) -> LazyTensor:
    """Return `function` of the rows of `x`, computed when they are read. Reads nothing.

    It is given [n, *row] of any number of rows, in any order, which it must not write to unless it
    is `foreign`, and gives [n, *row_shape] of `dtype`, whose rows follow from one row each. The
    result has the leading dimensions of `x`: its examples, lengths and row numbers.

    Raises:
        UnsupportedDtypeError: a dtype that datasets do not hold.

    Example:
        >>> from lazycache.samples import small_cache
        >>> norms = map_rows(
        ...     small_cache()["resid_out_0"], lambda rows: rows.norm(dim=-1), (), torch.float32
        ... )
        >>> norms[1].load()
        tensor([ 6.4031,  9.2195, 12.0416])
    """
    called = partial(_of_one, function) if not x.lead_ndim else function
    node = Node(called, (node_of(x),), foreign=foreign)
    return derived(x, node, row_shape, dtype)


def _of_one(function: Callable[[torch.Tensor], torch.Tensor], row: torch.Tensor) -> torch.Tensor:
    # a function of rows is given a dimension of rows, also where there is one row
    return function(row[None])[0]


def map_with(
    x: LazyTensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
) -> LazyTensor:
    """Return a function of the user's of the rows of `x`; see `Operators.map`."""
    if shape is None or dtype is None:
        probe = torch.zeros((PROBED, *x.row_shape), dtype=x.dtype, device=x.device)
        with torch.no_grad():
            found = function(probe)
        if not isinstance(found, torch.Tensor) or found.shape[:1] != (PROBED,):
            got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise SelectionError(
                f"map: the function gave {got} for {PROBED} rows [{PROBED}, *row]; it has to give "
                f"a tensor with a result for each row, [{PROBED}, *result]."
            )
        shape = tuple(found.shape[1:]) if shape is None else shape
        dtype = found.dtype if dtype is None else dtype
    return map_rows(x, function, tuple(shape), dtype, foreign=True)


def converted(x: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """Return `x` in another dtype, of the values that it has in its own."""
    node = Node(_Converted(dtype, x.device), (node_of(x),), elementwise=True)
    return derived(x, node, x.row_shape, dtype)


def derived(
    x: LazyTensor,
    root: Node,
    row_shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    rows: Numbered | None = None,
) -> LazyTensor:
    """Return a program with the leading dimensions of `x`, whose rows are numbered as those of `x`.

    Or as `rows`, if they are given: then they are no rows of a table.
    """
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

    known = of_torch(dtype)
    spec = replace(
        x.source.spec,
        dtype=known.name,
        shape=tuple(row_shape),
        row_bytes=math.prod(row_shape) * known.itemsize,
    )
    anew = rows is not None and rows.lead is not x.lead
    base = RowsOf(x, rows.of(x.lead.flat())) if anew and rows is not None else RowsOf(x)
    reader = DerivedReader(root, spec=spec, device=x.device, single=not x.lead_ndim, base=base)
    source = replace(x.source, reader=reader, spec=spec, reopen=None)
    lead = x.known_lead
    if anew and rows is not None:
        lead = rows.lead
        origins = through(source.origins, rows.of(x.lead.flat()))
        source = replace(source, examples=examples_of(lead), called=None, origins=origins)
    return LazyTensor(source, lead=lead, device=None if x.device.type == "cpu" else x.device)


def examples_of(lead: Lead) -> Callable[[], ExampleMap]:
    """Return what gives the examples of rows that are numbered anew; one each where it is dense."""
    if isinstance(lead, Grid):
        return Fixed(lead.map)
    return partial(one_row_each, lead.count)


def node_of(x: LazyTensor) -> Node | Leaf:
    """Return what a program takes for the rows of `x`: if they are computed, their own program."""
    reader = x.source.reader
    if not isinstance(reader, DerivedReader) or x.units is not None:
        return RowsOf(x)
    if reader.single != (not x.lead_ndim):
        return RowsOf(x)
    if x.dtype != by_name(x.source.spec.dtype).torch or x.device != reader.device:
        return Node(_Converted(x.dtype, x.device), (reader.root,), elementwise=True)
    return reader.root


@dataclass(frozen=True, slots=True)
class _Converted:
    """What `.to` does."""

    dtype: torch.dtype
    device: torch.device

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(dtype=self.dtype, device=self.device)
