"""The rows that are fed: tensors that have the same rows, read by position in their selection."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.computing.row_spaces import check_aligned, same_rows
from lazycache.cache.reading.address import Address
from lazycache.cache.reading.reader import Reader
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.feed.nearness import is_near
from lazycache.feed.row_numbers import RowNumbers


@dataclass(frozen=True, eq=False)
class RowSource:
    """Sites by name, each as one dimension of rows: at a position, the same row of all of them."""

    sites: Mapping[str, LazyTensor]
    """What is read: [rows, *row] each."""
    numbers: tuple[RowNumbers, ...]
    """Absolute rows of each site by position."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.numbers[0].count

    @property
    def first(self) -> LazyTensor:
        """The tensor whose tables are asked for columns."""
        return next(iter(self.sites.values()))

    @property
    def widest_row(self) -> int:
        """Stored bytes of what is selected of a row of the widest site."""
        return max(map(row_bytes, self.sites.values()))

    @property
    def row_bytes(self) -> int:
        """Stored bytes of what is selected of a row of all sites."""
        return sum(map(row_bytes, self.sites.values()))

    @property
    def is_near(self) -> bool:
        """Whether scattered rows are cheap: everything is in memory or mapped."""
        return all(map(is_near, self.sites.values()))

    def values(self, positions: np.ndarray) -> list[torch.Tensor]:
        """Read the rows at positions, in their order: [n, *row] of each site, the caller's own."""
        known: dict[int, Rows] = {}
        found = []
        for x, numbers in zip(self.sites.values(), self.numbers, strict=True):
            rows = known.setdefault(id(numbers), numbers.at(positions))
            found.append(x.values_of(rows))
        return found

    def read_ahead(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Have runs of positions read from the disk, without waiting for it."""
        for x, numbers in zip(self.sites.values(), self.numbers, strict=True):
            if isinstance(x.source.reader, Reader) and x.source.reader.is_near(x.site):
                first, last = as_array(numbers.at(starts)), as_array(numbers.at(stops - 1))
                spans = zip(first.tolist(), (last + 1).tolist(), strict=True)
                x.source.reader.will_need(x.site, [one for one in spans if one[0] < one[1]])

    def identity(self) -> dict[str, object]:
        """Return what tells these rows from others, in plain numbers and texts."""
        return {
            "sites": list(self.sites),
            "rows": self.rows,
            "row_numbers": zlib.crc32(b"".join(n.fingerprint() for n in _distinct(self.numbers))),
            "datasets": sorted({_dataset_of(x) for x in self.sites.values()}),
        }


def of_tensors(tensors: Mapping[str, LazyTensor]) -> RowSource:
    """Return tensors as a source of rows; rows of one are paired with those of the others.

    Sites of the same rows are read in storage order, others example after example.

    Raises:
        SelectionError: they do not have the same rows; says where they differ.
    """
    (first, x), *others = tensors.items()
    for name, y in others:
        _check_same(first, x, name, y)
    flat = {name: y.rows for name, y in tensors.items()}
    if not all(same_rows(flat[first].lead, y.lead) for y in flat.values()) and any(
        isinstance(y.lead, Grid) for y in tensors.values()
    ):
        flat = {name: _in_order(y) for name, y in tensors.items()}
    shared: list[tuple[LazyTensor, RowNumbers]] = []
    return RowSource(flat, tuple(_numbers_of(y, shared) for y in flat.values()))


def row_bytes(x: LazyTensor) -> int:
    """Return stored bytes of what is selected of a row, whatever dtype it is read as."""
    return max(1, math.prod(x.row_shape) * by_name(x.source.spec.dtype).itemsize)


def _check_same(first: str, x: LazyTensor, name: str, y: LazyTensor) -> None:
    both = f"{first!r} and {name!r} cannot be fed together"
    if x.lead.count != y.lead.count:
        raise SelectionError(f"{both}: they have {x.lead.count:,} and {y.lead.count:,} rows.")
    try:
        check_aligned(x, y)
    except SelectionError as exc:
        raise SelectionError(f"{both}: {exc}") from exc


def _in_order(x: LazyTensor) -> LazyTensor:
    """Return the rows of a tensor example after example."""
    return LazyTensor(
        x.source, lead=Dense(x.lead.flat()), units=x.units, dtype=x.dtype, device=x.device
    )


def _numbers_of(x: LazyTensor, shared: list[tuple[LazyTensor, RowNumbers]]) -> RowNumbers:
    """Return the row numbers of a tensor, once for all that have the same."""
    for y, numbers in shared:
        if same_rows(x.lead, y.lead):
            return numbers
    numbers = RowNumbers.of(x.lead.flat())
    shared.append((x, numbers))
    return numbers


def _distinct(numbers: Sequence[RowNumbers]) -> list[RowNumbers]:
    return list({id(one): one for one in numbers}.values())


def _dataset_of(x: LazyTensor) -> str:
    address = x.source.reopen
    if isinstance(address, Address):
        return f"{address.uuid} version {address.version}"
    return "computed" if x.source.origins is not None else "in memory"
