"""Groups of the rows of a lazy tensor, and what is computed of each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from lazycache.cache.aggregates.group_sums import HELD, group_accumulator
from lazycache.cache.selecting.plan import Rows
from lazycache.cache.tables import row_columns
from lazycache.cache.tables.groups import LINES, ByKey, GroupResult, encoded, numbered
from lazycache.cache.tables.row_origins import Origin
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.faces.html import card, facts, table
from lazycache.one_thread import one_thread

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

X = TypeVar("X")

BLOCK_BYTES = 16 << 20
"""Values that are in memory at a time, counted in float64."""


class Groups(ByKey[X]):
    """Groups of rows: `groups["x"]` is lazy; `groups.mean()` reads all rows once, in blocks.

    Made by `x.group_by(column)`. Results of mean, var, std and norm are float64, of sum float64
    (int64 for integers and bools), of min and max the dtype of the values, as those of the tensor.

    Example:
        >>> from lazycache.samples import small_cache
        >>> groups = small_cache()["resid_out_0"].group_by("example < 2")
        >>> groups.keys, groups.count()[True].item(), groups[False].load()
        ((False, True), 5, tensor([[10., 11.]]))
    """

    def __init__(self, x: X, rows: Rows, keys: tuple[Any, ...], codes: np.ndarray) -> None:
        super().__init__(keys)
        self._x = x
        self._rows = rows
        self._codes = codes

    @staticmethod
    def by(x: X, rows: Rows, origins: Sequence[Origin], column: str) -> Groups[X]:
        """Return the groups of rows of `x` by a column of their tables."""
        found = row_columns.table_of(origins, [column], count=len(rows), encode=encoded)
        keys, codes = numbered(found.column(0))
        return Groups(x, rows, keys, codes)

    def part(self, place: int) -> X:
        """Return the rows of the group of a place, one after the other, lazily."""
        order, ends = self._order
        places = order[ends[place] : ends[place + 1]]
        rows = self._rows
        chosen = rows.start + rows.step * places if isinstance(rows, range) else rows[places]
        return cast("X", cast("Any", self._x)._of_rows(chosen))  # noqa: SLF001  # its mixin

    def count(self) -> GroupResult:
        """Return how many rows each group has: int64[groups]. Reads nothing."""
        return GroupResult(self.keys, self._counts)

    def mean(self) -> GroupResult:
        """Return the mean of each group: float64[groups, *row].

        Cost: reads the rows once, in blocks of some MB, whatever the number of groups; in memory
        are the results (of `var` and `std` three times).

        Raises:
            MemoryBudgetError: the results are larger than the budget of implicit loads.
            SelectionError: rows differ in shape, as those of attention patterns do.
        """
        return self._reduced("mean")

    def sum(self) -> GroupResult:
        """Return the sum of each group: float64, int64 for integers and bools. Else as `mean`."""
        return self._reduced("sum")

    def min(self) -> GroupResult:
        """Return the smallest values of each group, in the dtype of the values. Else as `mean`."""
        return self._reduced("min")

    def max(self) -> GroupResult:
        """Return the largest values of each group, in the dtype of the values. Else as `mean`."""
        return self._reduced("max")

    def var(self, correction: float = 1) -> GroupResult:
        """Return the variance of each group, divided by its count minus `correction`; as `mean`."""
        return self._reduced("var", correction=correction)

    def std(self, correction: float = 1) -> GroupResult:
        """Return the square root of `var`."""
        return self._reduced("std", correction=correction)

    def norm(self) -> GroupResult:
        """Return the Euclidean norm over the rows of each group: float64. Else as `mean`."""
        return self._reduced("norm")

    def __repr__(self) -> str:
        return f"Groups({len(self):,} of {len(self._rows):,} rows of {self._x!r})"

    def _repr_html_(self) -> str:
        """Show the groups and their rows in a notebook. All text is escaped."""
        counts = zip(map(str, self.keys[:LINES]), self._counts.tolist(), strict=False)
        shown = table(("group", "rows"), counts, left=("group",), more=len(self) - LINES)
        title = f"{len(self):,} of {len(self._rows):,} rows"
        return card(title, facts([("of", repr(self._x))]), shown, kind="Groups")

    @cached_property
    def _counts(self) -> torch.Tensor:
        return torch.from_numpy(np.bincount(self._codes, minlength=len(self)))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the rows, group after group, and where in these each group begins."""
        order = np.argsort(self._codes, kind="stable")
        return order, np.concatenate([[0], np.cumsum(self._counts.numpy())])

    def _reduced(self, op: str, *, correction: float = 1) -> GroupResult:
        x = cast("LazyTensor", self._x)
        if not hasattr(x, "row_shape"):
            raise SelectionError(f"{op} of rows of different width: groups[key] has their rows.")
        units = math.prod(x.row_shape)
        self._check_budget(op, units, x.budget_bytes)
        counts = self._counts.to(x.device)
        total = group_accumulator(op, counts, units, x.dtype, correction=correction)
        codes, done = torch.from_numpy(self._codes).to(x.device), 0
        for block in x.rows.scan(self._rows, block_rows=max(1, BLOCK_BYTES // (8 * max(1, units)))):
            # torch shares even a few rows of a group among its threads, at ten times the price
            with one_thread():
                total.add(block.reshape(len(block), units), codes[done : done + len(block)])
            done += len(block)
        return GroupResult(self.keys, total.result().reshape(len(self), *x.row_shape))

    def _check_budget(self, op: str, units: int, budget: int) -> None:
        need = HELD.get(op, 1) * len(self) * units * 8
        if need > budget:
            raise MemoryBudgetError(
                f"{op} of {len(self):,} groups of {units:,} units needs {need:,} bytes in memory, "
                f"{budget:,} are allowed. Select units, x[..., :64], or group by what has fewer "
                "values."
            )
