"""The rows in which units are largest, with their examples and positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.aggregates.covering import Covering, covering, unit_numbers
from lazycache.cache.aggregates.extremes import Top
from lazycache.cache.aggregates.row_stream import RowStream, by_rows, row_parts
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.reading.stored_statistics import READERS
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k largest (or smallest) values of each unit, best first, and the rows that have them.

    Each is [k, *units of a row]: `values[0, 5]` is the best value of unit 5, and it is in
    `cache[site][examples[0, 5], positions[0, 5], 5]`.
    """

    values: torch.Tensor
    """In the dtype of the tensor."""
    rows: torch.Tensor
    """int64: numbers of rows in their table, as `row` in SQL."""
    examples: torch.Tensor
    """int64: the examples of the rows, as the first dimension of the whole site counts them."""
    positions: torch.Tensor
    """int64: the rows in their examples, as its second dimension counts them."""

    def __repr__(self) -> str:
        k, *units = self.values.shape
        lines = [f"TopK(k={k}, units={tuple(units)}, dtype={self.values.dtype})"]
        flat = [m.reshape(k, -1) for m in (self.values, self.rows, self.examples, self.positions)]
        if flat[0].shape[1] == 1:
            lines.append(f"{'value':>12} {'row':>10} {'example':>8} {'position':>8}")
            for value, row, example, position in zip(
                *(m[:, 0].tolist() for m in flat), strict=True
            ):
                lines.append(f"{value:>12.6g} {row:>10} {example:>8} {position:>8}")
        return "\n".join(lines)


def topk(x: LazyTensor, k: int, *, largest: bool) -> TopK:
    """Return the k largest or smallest of each unit of all selected rows.

    Raises:
        SelectionError: there are fewer rows.
    """
    stream = by_rows(x)
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= stream.rows:
        raise SelectionError(f"topk({k!r}) of {stream.rows:,} rows: k is from 1 to their number.")
    total = Top(k, stream.units, x.dtype, largest=largest)
    covered = covering(stream) if largest else None
    for rows in row_parts(x) if covered is None else _beside(total, covered, k):
        _add(total, stream, rows)
    values, rows_ = total.result()
    return _named(x, values, rows_)


def _named(x: LazyTensor, values: torch.Tensor, rows: np.ndarray) -> TopK:
    shape = (len(rows), *x.row_shape)
    examples, positions = x.source.examples().places(rows.reshape(-1))
    numbers = [torch.from_numpy(n.reshape(shape)) for n in (rows, examples, positions)]
    return TopK(values.reshape(shape).to(x.device), *numbers)


def _add(total: Top, stream: RowStream, rows: Rows) -> None:
    """Take the values of rows in."""

    def found(numbered: tuple[np.ndarray, torch.Tensor]) -> Top:
        numbers, block = numbered
        return total.like().add(stream.matrix(block).cpu(), numbers)

    # what is found so far is a bar to what comes, though blocks are looked at some ahead
    workers = threads(len(rows) * stream.units * stream.x.dtype.itemsize)
    for part in ordered(found, _numbered(stream, rows), workers=workers):
        total.merge(part)


def _numbered(stream: RowStream, rows: Rows) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    at = 0
    for block in stream.blocks_of([rows]):
        yield as_array(rows[at : at + len(block)]), block
        at += len(block)


def _beside(total: Top, covered: Covering, k: int) -> Iterator[Rows]:
    """Take in what is stored of whole shards; yield the rows of which nothing was taken in."""
    starts, stops = covered.statistics.tops
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    members = [covered.within(start, stop) for start, stop in spans]
    whole = [part for part, blocks in enumerate(members) if covered.whole[blocks].all()]

    def look(part: int) -> tuple[torch.Tensor, np.ndarray] | None:
        return _greatest(covered, part, members[part], k)

    taken = covered.none()
    for part, found in zip(
        whole, ordered(look, whole, workers=min(READERS, len(whole))), strict=True
    ):
        if found is not None:
            total.add(found[0], found[1], valid=found[1] >= 0)
            taken[members[part]] = True
    yield from covered.only(taken).rest()


def _greatest(
    covered: Covering, part: int, blocks: np.ndarray, k: int
) -> tuple[torch.Tensor, np.ndarray] | None:
    """Return the greatest values of a part of the site, and their rows; None if others count."""
    values, rows = covered.statistics.top(part)
    chosen = unit_numbers(covered.stream.x)
    if chosen is not None:
        values, rows = values[:, chosen], rows[:, chosen.numpy()]
    # a part with fewer rows than ranks has a rank for each
    if (rows[:k] < 0).any() or (len(rows) < k and len(rows) < covered.count(blocks)):
        return None
    # what is not finite comes before or among what is stored
    odd = any(bool((one.nans + one.pos_infs).any()) for one in covered.only(blocks).known())
    return None if odd else (values, rows)
