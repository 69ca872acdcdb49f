"""Whether two lazy tensors have the same rows, and rows numbered anew where they are not.

Values of two tensors are paired up by place. That they belong together is checked where both know
whose they are: misaligned activations are the classic error that nothing shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.computing.operands import rows_at
from lazycache.cache.selecting.examples import of_lengths
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

_BY_PLACE = (
    "To pair values by their place all the same, use .rows of both, load one of them, or take "
    "single examples."
)


def check_aligned(x: LazyTensor, y: LazyTensor) -> None:
    """Refuse two tensors of which entries at one place are of different examples.

    Lead shapes agree or one is 1. The runs of the one may be others than those of the other, each
    run for one: of two models that saw the same examples.

    Raises:
        SelectionError: says where they differ.
    """
    a, b = x.lead, y.lead
    if not isinstance(a, Grid) or not isinstance(b, Grid):
        if x.is_ragged or y.is_ragged:
            raise _differ(x, y, "the one has examples of different length, the other has not")
        return
    if len(a.examples) != len(b.examples):
        return  # one example for all
    if a.map is not b.map or not _same_numbers(a.examples, b.examples):
        _check_examples(x, y, a, b)
    if a.shape[1] == b.shape[1]:
        _check_lengths(x, y, a.lengths(), b.lengths())
    elif (np.minimum(a.lengths(), 1) != np.minimum(b.lengths(), 1)).any():
        raise _differ(x, y, "there are examples of which only one has rows")


def _check_lengths(x: LazyTensor, y: LazyTensor, a: np.ndarray, b: np.ndarray) -> None:
    different = np.flatnonzero(a != b)
    if len(different):
        i = int(different[0])
        raise _differ(
            x, y, f"example {i} has {a[i]} rows and {b[i]} ({len(different):,} such examples)"
        )


def _check_examples(x: LazyTensor, y: LazyTensor, a: Grid, b: Grid) -> None:
    mine, other = _ids(a), _ids(b)
    different = np.flatnonzero(mine[1] != other[1])
    if len(different):
        i = int(different[0])
        raise _differ(
            x,
            y,
            f"entry {i} is example {mine[1][i]} in the one and {other[1][i]} in the other "
            f"({len(different):,} such entries)",
        )
    pairs = np.unique(np.stack([mine[0], other[0]]), axis=1)
    if any(len(np.unique(side)) < len(side) for side in pairs):
        raise _differ(x, y, "examples of one run in the one are of several runs in the other")


def _ids(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    chosen = as_array(grid.examples)
    return grid.map.run[chosen], grid.map.example[chosen]


def _differ(x: LazyTensor, y: LazyTensor, how: str) -> SelectionError:
    return SelectionError(f"{x!r} and {y!r} have different rows: {how}. {_BY_PLACE}")


def same_rows(a: Lead, b: Lead) -> bool:
    """Whether the rows at each place, which are as many, have the same number in both."""
    if a is b:
        return True
    if isinstance(a, Grid) and isinstance(b, Grid) and a.map is b.map and a.window == b.window:
        return _same_numbers(a.examples, b.examples)
    return _same_numbers(a.flat(), b.flat())


def _same_numbers(a: Rows, b: Rows) -> bool:
    if isinstance(a, range) and isinstance(b, range):
        return a == b
    return np.array_equal(as_array(a), as_array(b))


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """Rows of a selection numbered 0, 1, 2, ... in storage order."""

    lead: Lead
    """The selection over these numbers."""
    order: np.ndarray | None
    """int64[n]: place, example after example, of each number; None: the number itself."""

    def of(self, flat: Rows) -> Rows:
        """Return for each number what `flat` has at its place."""
        return flat if self.order is None else rows_at(flat, self.order)

    def places(self, numbers: Rows) -> np.ndarray:
        """Return the places of numbers: int64[n]."""
        numbers = as_array(numbers)
        return numbers if self.order is None else self.order[numbers]


def numbered(lead: Lead) -> Numbered:
    """Return the rows of a selection numbered anew; the selection itself if they are already.

    Cost: a number for each row, where they do not follow each other.
    """
    flat = lead.flat()
    if _same_numbers(flat, range(len(flat))):
        return Numbered(lead, None)
    if isinstance(lead, Dense):
        numbers = np.arange(lead.count, dtype=np.int64).reshape(lead.shape)
        return Numbered(Dense(range(lead.count) if lead.ndim == 1 else numbers), None)
    return number_rows(flat, lead.lengths(), *_ids(lead))


def number_rows(flat: Rows, lengths: np.ndarray, run: np.ndarray, example: np.ndarray) -> Numbered:
    """Return rows, example after example, numbered 0, 1, 2, ... in storage order."""
    order = _order(flat)
    made = of_lengths(lengths, run=run, example=example)
    if order is not None:
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        made = replace(made, logical=np.arange(len(rank)), stored=rank)
    return Numbered(Grid(made, range(len(made))), order)


def _order(flat: Rows) -> np.ndarray | None:
    if isinstance(flat, range):
        return None if flat.step > 0 else np.arange(len(flat))[::-1].copy()
    if bool((flat[1:] >= flat[:-1]).all()):
        return None
    return np.argsort(flat, kind="stable")


def coordinates(lead: Lead, places: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the index of each place in the leading dimensions: int64[n] for each dimension."""
    if isinstance(lead, Grid):
        ends = np.cumsum(lead.lengths())
        example = np.searchsorted(ends, places, side="right")
        return example, places - (ends - lead.lengths())[example]
    found: tuple[np.ndarray, ...] = np.unravel_index(places, lead.shape)
    return found
