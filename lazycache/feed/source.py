"""The rows that are fed: tensors that have the same rows, read by position in their selection."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.computing.row_spaces import check_aligned, same_rows
from lazycache.cache.files.placed_rows import PlacedRows
from lazycache.cache.reading.reader import Reader
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid
from lazycache.cache.selecting.units import of_map
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.feed import identity
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

    def placed(self, positions: np.ndarray, *, scattered: bool) -> list[PlacedRows] | None:
        """Look up where the rows at positions are, one at least, to be copied in parts.

        None where a site is more than bytes of files of this machine: it is computed, converted,
        or elsewhere.
        """
        found = []
        known: dict[int, np.ndarray] = {}
        for x, numbers in zip(self.sites.values(), self.numbers, strict=True):
            reader = x.source.reader
            spec = x.source.spec
            if (
                not isinstance(reader, Reader)
                or x.dtype != by_name(spec.dtype).torch
                or x.device.type != "cpu"
            ):
                return None
            rows = known.get(id(numbers))
            if rows is None:
                rows = known[id(numbers)] = as_array(numbers.at(positions))
            units = of_map(spec.shape, x.units)
            one = reader.place(x.site, rows, units=units, scattered=scattered)
            if one is None or not units.count:
                return None
            found.append(one)
        return found

    def read_ahead(self, starts: np.ndarray, stops: np.ndarray) -> list[Callable[[], None]]:
        """Have runs of positions read from the disk, without waiting for it.

        Returns what waits for it, for each site that is not in memory.
        """
        waits: list[Callable[[], None]] = []
        for x, numbers in zip(self.sites.values(), self.numbers, strict=True):
            reader = x.source.reader
            if isinstance(reader, Reader) and reader.is_near(x.site):
                first, last = as_array(numbers.at(starts)), as_array(numbers.at(stops - 1))
                runs = zip(first.tolist(), (last + 1).tolist(), strict=True)
                spans = [one for one in runs if one[0] < one[1]]
                if (wait := reader.will_need(x.site, spans)) is not None:
                    waits.append(wait)
        return waits

    def identity(self) -> dict[str, object]:
        """Return what tells these rows from others, in plain numbers and texts."""
        return {
            "sites": list(self.sites),
            "rows": self.rows,
            "row_numbers": zlib.crc32(b"".join(n.fingerprint() for n in _distinct(self.numbers))),
            "values": [identity.of_values(x) for x in self.sites.values()],
            "datasets": sorted(set().union(*map(identity.datasets_of, self.sites.values()))),
            "versions": sorted(set().union(*map(identity.versions_of, self.sites.values()))),
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
    _check_there(tensors, flat)
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


def _check_there(tensors: Mapping[str, LazyTensor], flat: Mapping[str, LazyTensor]) -> None:
    """Check that sites of examples, of which some may be lacking, lack the same ones."""
    if all(y.lead.count == tensors[name].lead.count for name, y in flat.items()):
        return
    (first, x), *others = tensors.items()
    for name, y in others:
        if not np.array_equal(x.covered, y.covered):
            raise SelectionError(
                f"{first!r} and {name!r} cannot be fed together: they have rows of other examples. "
                "Choose those that both have, by where= or an index of examples (see .covered)."
            )


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
