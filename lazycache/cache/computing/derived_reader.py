"""A reader whose rows are computed when they are read, from the rows of other tensors.

Reading some rows reads these rows of the operands and nothing else; of an elementwise program, some
units read these units only. What is computed is dropped with the block: nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lazycache.cache.computing.operands import Operand, RowsOf
from lazycache.cache.computing.program import Node, evaluate, leaves, steps
from lazycache.cache.computing.shared_operands import Loaded, RowsFor
from lazycache.cache.files.gather import empty
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.reading.costs import Tally, summed
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.selecting.plan import Rows, blocks
from lazycache.cache.selecting.units import Units, all_units, places_of
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.types import SiteSpec

BLOCK_VALUES = 1 << 20
"""Values of the widest operand that are computed at once: 2 to 8 MB, so that they stay near."""


class DerivedReader(WorkedOut):
    """Rows of a program over operands. Thread-safe: it holds nothing but what it was made of."""

    def __init__(
        self,
        root: Node,
        *,
        spec: SiteSpec,
        device: torch.device,
        single: bool = False,
        base: RowsOf,
    ) -> None:
        self.root = root
        """The program."""
        self.spec = spec
        """What a row is."""
        self.device = device
        """Where it is computed."""
        self.single = single
        """Whether there is one row, which the functions take without a dimension of rows."""
        self.base = base
        """The tensor whose examples and positions its rows have."""

    @property
    def title(self) -> str:
        """What it is called where it is shown: what its rows are computed from."""
        read: Iterator[Any] = leaves(self._steps)
        sites = dict.fromkeys(leaf.x.site for leaf in read if isinstance(leaf, RowsOf))
        return f"computed from {', '.join(sites)}"

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one site
        """Return for each row whether its base has it: bool[n]. Reads nothing."""
        return self.base.covered(rows)

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002  # one site
        """Return first rows and stops of the runs of rows that its base has."""
        return self.base.covered_spans()

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return rows: [n, *units], computed block by block; the caller's own.

        Cost: the rows of the operands, a block at a time, and the result.
        """
        del site
        chosen = self._units(units)
        size = self._block_rows(chosen)
        if len(rows) <= size:
            return self._values(rows, chosen, own=True)
        out = self._empty((len(rows), *chosen.shape))

        def fill(block: tuple[int, int]) -> None:
            out[slice(*block)] = self._values(rows[slice(*block)], chosen)

        # a function of the user's need not bear several threads
        workers = 1 if self._has_foreign else threads(out.nbytes)
        for _ in ordered(fill, blocks(len(rows), size=size), workers=workers):
            pass
        return out

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield the rows in order, in blocks that stay in the processor's cache."""
        del site
        chosen = self._units(units)
        for start, stop in blocks(len(rows), size=min(block_rows, self._block_rows(chosen))):
            yield self._values(rows[start:stop], chosen)

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what the operands would read, block by block. Reads nothing."""
        del site
        chosen, shape = self._units(units), self.spec.shape
        step = self._block_rows(chosen)
        step = step if block_rows is None else max(1, min(block_rows, step))
        narrow = chosen if self._elementwise and chosen is not all_units(shape) else None
        found: Iterator[Any] = leaves(self._steps)
        return summed(_cost_of(leaf, rows, narrow, shape, step=step) for leaf in found)

    def _values(self, rows: Rows, units: Units, *, own: bool = False) -> torch.Tensor:
        read: list[Any] = []
        whole = units is all_units(self.spec.shape)
        narrow = None if whole or not self._elementwise else units

        def value_of(operand: Operand) -> Any:
            value = operand.value(rows, narrow, self.spec.shape, single=self.single)
            read.append(value)
            return value

        # never in the autocast of the caller, nor in the gradients
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = evaluate(self._steps, value_of)
        if self.single:
            found = found[None]
        if narrow is None:
            self._check(found, len(rows))
        found = found.to(by_name(self.spec.dtype).torch)
        found = found if whole or narrow is not None else picked(found, units)
        if not own:
            return found
        # what a function of the user's gives may be memory that it goes on using
        return found.clone() if self._has_foreign else _apart(found, read)

    def _check(self, found: torch.Tensor, rows: int) -> None:
        want = (rows, *self.spec.shape)
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != want:
            got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise SelectionError(
                f"the function of {self.spec.name!r} gave {got} for {rows:,} rows, where its first "
                f"rows told {list(want)}: it has to give each row a result of one shape."
            )

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = by_name(self.spec.dtype).torch
        if self.device.type == "cpu":
            return empty(shape, dtype)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _block_rows(self, units: Units) -> int:
        narrow = self._elementwise and units is not all_units(self.spec.shape)
        widest = units.count if narrow else max(math.prod(self.spec.shape), self._widest)
        return max(1, BLOCK_VALUES // max(1, widest))

    @cached_property
    def _steps(self) -> list[Node]:
        return steps(self.root)

    @cached_property
    def _elementwise(self) -> bool:
        return all(node.elementwise for node in self._steps)

    @cached_property
    def _has_foreign(self) -> bool:
        return any(node.foreign for node in self._steps)

    @cached_property
    def _widest(self) -> int:
        found: Iterator[Any] = leaves(self._steps)
        return max((math.prod(leaf.row_shape) for leaf in found), default=1)


def _cost_of(
    operand: Operand, rows: Rows, units: Units | None, shape: tuple[int, ...], *, step: int
) -> Tally:
    if isinstance(operand, RowsOf):
        return operand.cost(rows, units, shape, step=step)
    if isinstance(operand, RowsFor):
        return operand.cost(rows, step=step)
    # the other ones are in memory
    return operand.cost() if isinstance(operand, Loaded) else Tally()


def _apart(values: torch.Tensor, read: list[Any]) -> torch.Tensor:
    """Return values in memory of their own: a function may hand on what it was given."""
    memory = {t.untyped_storage().data_ptr() for t in read if isinstance(t, torch.Tensor)}
    handed_on = values.untyped_storage().data_ptr() in memory
    return values.clone() if handed_on else values.contiguous()


def picked(values: torch.Tensor, units: Units) -> torch.Tensor:
    """Return units of rows that are in memory: [n, *units.shape]."""
    places = torch.from_numpy(places_of(units)).to(values.device)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    return flat[:, places].reshape(len(values), *units.shape)
