"""What is selected as a stream of matrices, to be reduced along its rows, as often as is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.late_bars import late_bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from lazycache.cache.tensor.lazy_tensor import LazyTensor

    Result = TypeVar("Result")

BLOCK_BYTES = 16 << 20
"""Values that are in memory at a time, counted in float64."""

NUMBERED_ROWS = 1 << 20
"""Row numbers that are in memory at a time, where the rows are no range."""


@dataclass(frozen=True, eq=False)
class RowStream:
    """A lazy tensor as matrices [rows, kept]: one dimension or all leading ones become the rows.

    Without slots, for what is worked out once.
    """

    x: LazyTensor
    """What is selected."""
    by_rows: bool
    """Whether all leading dimensions become rows; else the first dimension does."""
    reduced: tuple[int, ...]
    """Of the dimensions that follow these: those that become further rows, ascending."""

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Shape of what is left."""
        return tuple(n for d, n in enumerate(self._entry) if d not in self.reduced)

    @property
    def units(self) -> int:
        """How many columns the matrices have."""
        return math.prod(self.kept)

    @cached_property
    def rows(self) -> int:
        """How many rows all matrices have together."""
        return self._entries * math.prod(self._entry[d] for d in self.reduced)

    @property
    def _entries(self) -> int:
        if not self.by_rows:
            return self.x.shape[0]
        lead = self.x.lead
        return lead.count if isinstance(lead, Grid) else sum(map(len, row_parts(self.x)))

    @property
    def _entry(self) -> tuple[int, ...]:
        return self.x.row_shape if self.by_rows else tuple(self.x.shape[1:])

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield entries to be read and dropped, never kept: they may be the file itself."""
        # of all parts one bar, where each of them would have its own
        with late_bar(f"reading {self.x.site}", total=self.x.nbytes) as bar:
            for block in self._blocks():
                yield block
                bar.advance(block.nbytes)

    def _blocks(self) -> Iterator[torch.Tensor]:
        x = self.x
        if self.by_rows:
            yield from self.blocks_of(row_parts(x))
            return
        for part in x.lead.blocks(rows=self.block_rows):
            yield x.values_of(part.flat()).reshape(*part.shape, *x.row_shape)

    def blocks_of(self, parts: Iterable[Rows]) -> Iterator[torch.Tensor]:
        """Yield the values of absolute rows; as `blocks`."""
        for rows in parts:
            yield from self.x.scan(rows, block_rows=self.block_rows)

    def matrix(self, block: torch.Tensor) -> torch.Tensor:
        """Return [rows, kept] of a block: its reduced units are further rows, in order."""
        moved = block.movedim([d + 1 for d in self.reduced], list(range(1, len(self.reduced) + 1)))
        # not -1: of no units there may be rows all the same
        return moved.reshape(
            len(block) * math.prod(self._entry[d] for d in self.reduced), self.units
        )

    def map(
        self, work: Callable[[torch.Tensor], Result], parts: Iterable[Rows] | None = None
    ) -> Iterator[Result]:
        """Yield `work(matrix)` of all blocks, or of those of some rows, in order."""
        blocks = self.blocks() if parts is None else self.blocks_of(parts)
        return ordered(
            lambda block: work(self.matrix(block)), blocks, workers=threads(self.x.nbytes)
        )

    def columns(self, start: int, stop: int) -> RowStream | None:
        """Return the stream of some columns, where others need not be read for it; else None."""
        if self.reduced or len(self._entry) != 1:
            return None
        if (start, stop) == (0, self.units):
            return self
        return replace(self, x=self.x[..., start:stop])

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // (8 * max(1, math.prod(self.x.row_shape))))


def numbered(stream: RowStream, rows: Rows) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield the numbers and the values of rows, in blocks to be read and dropped."""
    at = 0
    for block in stream.blocks_of([rows]):
        yield as_array(rows[at : at + len(block)]), block
        at += len(block)


def row_parts(x: LazyTensor) -> Iterator[Rows]:
    """Yield the rows of a selection that are there, some at a time: in storage order if it is all.

    In memory are the numbers of a million rows at most, of examples that were not selected by
    number; none for a range.
    """
    lead = x.lead
    if isinstance(lead, Dense):
        found = x.rows.lead
        assert isinstance(found, Dense)
        yield found.flat()
        return
    whole = _whole(lead)
    if whole is not None:
        yield whole
        return
    for part in lead.blocks(rows=NUMBERED_ROWS):
        yield part.flat()


def _whole(grid: Grid) -> range | None:
    """Return all rows of a site as a range, if they are selected and there is no hole."""
    examples = grid.map
    if not grid.is_whole or not len(examples.stored):
        return None
    sizes = np.diff(np.append(examples.logical, examples.total))
    first, stop = int(examples.stored.min()), int((examples.stored + sizes).max())
    return range(first, stop) if stop - first == examples.total else None


def by_rows(x: LazyTensor, reduced: tuple[int, ...] = ()) -> RowStream:
    """Return all rows of `x`, and `reduced` of the dimensions of a row."""
    return RowStream(x, by_rows=True, reduced=reduced)


def by_first(x: LazyTensor, reduced: tuple[int, ...]) -> RowStream:
    """Return the entries of the first dimension of `x`, and `reduced` of what follows it."""
    return RowStream(x, by_rows=False, reduced=reduced)


def distinct(lead: Lead) -> bool:
    """Whether no row is selected twice."""
    if isinstance(lead, Grid):
        chosen = lead.examples
        return isinstance(chosen, range) or len(np.unique(chosen)) == len(chosen)
    rows = lead.flat()
    if isinstance(rows, range) or bool((rows[1:] > rows[:-1]).all()):
        return True
    return len(np.unique(rows)) == len(rows)
