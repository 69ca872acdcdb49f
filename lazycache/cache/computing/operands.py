"""What a program reads: rows of lazy tensors, and values that its rows share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lazycache.cache.reading.costs import Tally, summed
from lazycache.cache.reading.reader import Reader
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.units import Units, of_map, places_of

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Dtypes of values as words, by their size."""


class Operand(Protocol):
    """A leaf of a program that the reader of derived rows can read."""

    @property
    def key(self) -> object:
        """Operands of one key have the same values."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what it has for each row."""
        ...

    def value(
        self, rows: Rows, units: Units | None, shape: tuple[int, ...], *, single: bool
    ) -> Any:
        """Return what the program takes: [n, *row_shape], or a value for all rows.

        With `units`, which are those of rows of `shape`: [n, *units.shape]. If `single`, the one
        row without its dimension. Not to be written to: it may be the file itself.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RowsOf:
    """The rows of a lazy tensor."""

    x: LazyTensor
    """Its dtype, device and units count, its selection of rows does not."""
    at: Rows | None = None
    """Its row for each row of the program; None where they are the same."""

    @property
    def key(self) -> object:
        """The same reader, site, units, dtype, device and rows."""
        x = self.x
        at = None if self.at is None else id(self.at)
        return (id(x.source.reader), x.site, id(x.units), x.dtype, x.device, at)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row of it."""
        return self.x.row_shape

    def value(
        self, rows: Rows, units: Units | None, shape: tuple[int, ...], *, single: bool
    ) -> torch.Tensor:
        """Return [n, *row_shape], or [n, *units.shape]; not to be written to."""
        mine = rows if self.at is None else rows_at(self.at, rows)
        if units is not None and self.row_shape != shape:
            values = widened(self._read(mine, None), units, shape)
        else:
            values = self._read(mine, units)
        return values[0] if single else values

    def own(self, rows: Rows, units: Units | None) -> torch.Tensor:
        """Return rows of the tensor, or units of them; the caller's own."""
        x = self.x
        if units is None:
            return x.values_of(rows)
        values = x.source.reader.read(x.site, rows, units=self._chosen(units))
        return values.to(device=x.device, dtype=x.dtype)

    def scan(self, rows: Rows, units: Units | None, *, block_rows: int) -> Iterator[torch.Tensor]:
        """Yield rows of the tensor, or units of them, to be read and dropped."""
        x = self.x
        reader, chosen = x.source.reader, self._chosen(units)
        for block in reader.scan(x.site, rows, units=chosen, block_rows=block_rows):
            yield block.to(device=x.device, dtype=x.dtype)

    def own_cost(self, rows: Rows, units: Units | None) -> Tally:
        """Return what `own` would read."""
        if units is None:
            return self.x.cost_of(rows)
        return self.x.source.reader.cost(self.x.site, rows, units=self._chosen(units))

    def scan_cost(self, rows: Rows, units: Units | None, *, block_rows: int) -> Tally:
        """Return what `scan` would read."""
        reader, chosen = self.x.source.reader, self._chosen(units)
        return reader.cost(self.x.site, rows, units=chosen, block_rows=block_rows)

    def cost(self, rows: Rows, units: Units | None, shape: tuple[int, ...], *, step: int) -> Tally:
        """Return what `value` would read of rows that are asked for `step` at a time."""
        mine = rows if self.at is None else rows_at(self.at, rows)
        chosen = self._chosen(None if self.row_shape != shape else units)
        reader, site = self.x.source.reader, self.x.site
        if isinstance(reader, Reader) and site not in getattr(reader, "computed", ()):
            return reader.cost(site, mine, units=chosen, block_rows=step)
        return summed(
            reader.cost(site, mine[start:stop], units=chosen, block_rows=stop - start)
            for start, stop in blocks(len(mine), size=step)
        )

    def _read(self, rows: Rows, units: Units | None) -> torch.Tensor:
        found = list(self.scan(rows, units, block_rows=max(1, len(rows))))
        if len(found) == 1:
            return found[0]
        # as words: torch cannot concatenate some dtypes
        words = [block.view(WORDS[self.x.dtype.itemsize]) for block in found]
        return torch.cat(words).view(self.x.dtype) if found else self.own(rows, units)

    def _chosen(self, units: Units | None) -> Units:
        whole, mine = self.x.source.spec.shape, self.x.units
        if units is None or mine is None:
            return units or of_map(whole, mine)
        return of_map(whole, mine.reshape(-1)[places_of(units)].reshape(units.shape))

    def covered(self, rows: np.ndarray) -> np.ndarray:
        """Return for each row whether it is there: bool[n]. Reads nothing."""
        mine = as_array(rows if self.at is None else rows_at(self.at, rows))
        return self.x.source.reader.covered(self.x.site, mine)

    def covered_spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the runs of rows that are there."""
        if self.at is None:
            return self.x.source.reader.covered_spans(self.x.site)
        return np.zeros(1, dtype=np.int64), np.array([len(self.at)], dtype=np.int64)


def rows_at(rows: Rows, places: Rows) -> Rows:
    """Return rows at places of a list of rows; a range where both are evenly spaced.

    Example:
        >>> rows_at(range(10, 20), range(2, 4))
        range(12, 14)
    """
    if isinstance(places, range):
        if not len(places):
            return range(0)
        last = places[-1] + (1 if places.step > 0 else -1)
        return rows[slice(places.start, None if last < 0 else last, places.step)]
    if isinstance(rows, range):
        moved: Any = rows.start + places * rows.step
        return moved  # type: ignore[no-any-return]
    return rows[places]


def widened(values: torch.Tensor, units: Units, shape: tuple[int, ...]) -> torch.Tensor:
    """Return units of rows of `shape`, to which [n, *row] broadcasts: [n, *units.shape]."""
    wide = values.expand(len(values), *shape).reshape(len(values), math.prod(shape))
    places = torch.from_numpy(places_of(units)).to(values.device)
    return wide[:, places].reshape(len(values), *units.shape)
