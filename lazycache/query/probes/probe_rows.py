"""The rows that a probe learns from and those that it is tested on: never of one example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from lazycache.cache.files.parallel import PIECE_VALUES, ordered, threads
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.sampling import places
from lazycache.cache.selecting.selection import Grid
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import MemoryBudgetError, QueryError
from lazycache.query.probes.probe_targets import Targets

Result = TypeVar("Result")

HELD_BYTES = 1 << 30
"""Rows of so many bytes are read once and held in their dtype; of more, each pass reads them."""

BLOCK_VALUES = 1 << 20
"""Values that a thread takes at a time."""

WIDE_VALUES = 1 << 17
"""Values that are in float64 at a time: 1 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some rows with their targets, in storage order."""

    x: LazyTensor
    """What they are read from."""
    rows: Rows
    """Their numbers in it."""
    names: Rows
    """Their numbers in what was asked about, for messages."""
    targets: torch.Tensor
    """int64[n] or float64[n]."""
    examples: int
    """How many examples they are of."""

    @property
    def units(self) -> int:
        """How many numbers a row has."""
        return math.prod(self.x.row_shape)

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield float64[n, units] and the targets of these rows.

        Raises:
            QueryError: a value is not finite; says where.
        """
        size = max(1, WIDE_VALUES // max(1, self.units))
        for done, block in self._stored(size):
            yield self._wide(block, done)

    def map(self, work: Callable[[torch.Tensor, torch.Tensor], Result]) -> Iterator[Result]:
        """Yield what `work` makes of some rows and their targets, in order; as `blocks`.

        On a few threads, in pieces that stay in the processor's cache and on their thread.
        """
        size = max(1, PIECE_VALUES // max(1, self.units))

        def of(item: tuple[int, torch.Tensor]) -> list[Result]:
            done, block = item
            return [
                work(*self._wide(block[start:stop], done + start))
                for start, stop in blocks(len(block), size=size)
            ]

        nbytes = len(self.rows) * self.units * self.x.dtype.itemsize
        items = self._stored(max(size, BLOCK_VALUES // max(1, self.units)))
        for found in ordered(of, items, workers=threads(nbytes)):
            yield from found

    def _stored(self, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the number of rows before some rows, and these as they are stored."""
        done = 0
        for block in self.x.scan(self.rows, block_rows=size):
            yield done, block.reshape(len(block), self.units)
            done += len(block)

    def _wide(self, block: torch.Tensor, done: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = block.cpu().double()
        # one look at the sum says of nearly every block that all of it is finite
        if not bool(values.sum().isfinite()):
            self._check(values, done)
        return values, self.targets[done : done + len(values)]

    def _check(self, values: torch.Tensor, done: int) -> None:
        bad = (~values.isfinite().all(1)).nonzero()
        if len(bad):
            row = int(as_array(self.names)[done + int(bad[0])])
            raise QueryError(
                f"probe: row {row} of {self.x.site} has values that are NaN or infinite, from "
                "which nothing is learned. Leave such rows out by where=, or clean them, "
                "x.map(torch.nan_to_num)."
            )

    def held(self) -> Part:
        """Return it with its rows in memory, where they are not too many."""
        nbytes = len(self.rows) * self.units * self.x.dtype.itemsize
        if nbytes > min(HELD_BYTES, self.x.budget_bytes):
            return self
        values = from_tensor(self.x.values_of(self.rows), name=self.x.site)
        return replace(self, x=values, rows=range(len(self.rows)))


def check_memory(x: LazyTensor) -> None:
    """Refuse rows of so many units that a matrix of them does not fit.

    Raises:
        MemoryBudgetError: says how much it would be.
    """
    units = math.prod(x.row_shape)
    need = 4 * 8 * units * units
    if need > x.budget_bytes:
        raise MemoryBudgetError(
            f"a probe of {units:,} units needs {need:,} bytes for how they go together, "
            f"{x.budget_bytes:,} are allowed. Select units, x[..., :1024], or project them, x @ p."
        )


def split(x: LazyTensor, targets: Targets, test: float, seed: int) -> tuple[Part, Part]:
    """Return the rows to learn from and those to test on, all rows of an example on one side.

    Raises:
        QueryError: too few examples, or `test` is no share.
    """
    if isinstance(test, bool) or not isinstance(test, int | float) or not 0 <= test < 1:
        raise QueryError(f"probe(test={test!r}): the share of examples to test on, 0 to 1.")
    rows = x.rows.lead.flat()
    if not targets.known.all():
        rows = as_array(rows)[targets.known]
    found, number = np.unique(_examples(x, as_array(rows)), return_inverse=True)
    count = len(found)
    if count < (2 if test else 1):
        raise QueryError(
            f"probe of {count} examples that have a target ({len(rows):,} rows): two are needed, "
            "one to learn from and one to test on; test=0 learns from all. Rows of one id, of "
            "whatever run, are never on both sides."
        )
    apart = min(count - 1, max(1, round(test * count))) if test else 0
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[places(count, apart, seed=seed)] = True
    tested = chosen[number]
    return (
        _part(x, rows, targets, ~tested, count - apart),
        _part(x, rows, targets, tested, apart),
    )


def _part(x: LazyTensor, rows: Rows, targets: Targets, mask: np.ndarray, examples: int) -> Part:
    chosen = rows if mask.all() else as_array(rows)[mask]
    return Part(x.rows, chosen, chosen, targets.values[torch.from_numpy(mask)], examples)


def _examples(x: LazyTensor, rows: np.ndarray) -> np.ndarray:
    """Return the id of the example of each row: int64[n]; of tensors in memory, its place.

    One id is one example in all runs and datasets: the same text seen by another model is the same
    text. Where it is not, keeping both on one side costs nothing.
    """
    if x.source.origins is None:
        examples = x.lead.map if isinstance(x.lead, Grid) else x.source.examples()
        return examples.places(rows)[0]
    found = np.empty(len(rows), dtype=np.int64)
    for one in x.source.origins(rows):
        examples = one.tables.whole.examples_of(one.table)
        found[one.members] = examples.example[examples.places(one.rows)[0]]
    return found
