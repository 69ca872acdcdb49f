"""The rows in which units are largest, with their examples and positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.aggregates.covering import Covering, covering, statistics_of, unit_numbers
from lazycache.cache.aggregates.extremes import Top
from lazycache.cache.aggregates.row_stream import RowStream, by_rows, numbered, row_parts
from lazycache.cache.aggregates.zones import Order, Search
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.spans import Spans, of_ranges, of_rows
from lazycache.errors import SelectionError
from lazycache.faces.html import card, dtype_name, facts, table

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

    def _repr_html_(self) -> str:
        """Show the best row of each of the first units in a notebook; of one unit all rows."""
        k = len(self.values)
        flat = [m.reshape(k, -1) for m in (self.values, self.rows, self.examples, self.positions)]
        count, named = flat[0].shape[1], list(zip(flat, NAMES, strict=True))
        said = facts([("k", k), ("units", count), ("dtype", dtype_name(self.values.dtype))])
        if count == 1:
            rows = zip(*(_cells(m[:SHOWN, 0], name) for m, name in named), strict=True)
            return card("", said, table(NAMES, rows, more=k - SHOWN), kind="TopK")
        best = zip(range(count), *(_cells(m[0, :SHOWN], name) for m, name in named), strict=False)
        shown = table(("unit", *(f"best {n}" for n in NAMES)), best, more=count - SHOWN)
        return card("", said, shown, kind="TopK")


def _cells(numbers: torch.Tensor, name: str) -> list[Any]:
    """Return values as numbers, and what counts rows as text: an id has no commas."""
    return numbers.tolist() if name == "value" else list(map(str, numbers.tolist()))


NAMES = ("value", "row", "example", "position")

SHOWN = 20
"""Rows, or units, that are shown in a notebook."""

FEW_UNITS = 4
"""Units that are looked for one by one, by their bounds: of more, the rows of all are all rows."""


def topk(x: LazyTensor, k: int, *, largest: bool) -> TopK:
    """Return the k largest or smallest of each unit of all selected rows.

    Raises:
        SelectionError: there are fewer rows.
    """
    stream = by_rows(x)
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= stream.rows:
        raise SelectionError(f"topk({k!r}) of {stream.rows:,} rows: k is from 1 to their number.")
    return _named(x, *best_rows(x, int(k), largest=largest))


def best_rows(
    x: LazyTensor, k: int, *, largest: bool, nans: bool = True
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the k largest or smallest of each unit, and their rows: [k, units] each.

    Of equal values the lower rows. With `nans` NaN is the largest of all, else it is left out; the
    rows of ranks that no value has are then NOWHERE.
    """
    stream = by_rows(x)
    total = Top(k, stream.units, x.dtype, largest=largest)
    selected = _selected(stream) if 0 < stream.units <= FEW_UNITS else None
    if selected is not None:
        order = Order(largest=largest, nans=nans)
        parts = [_of_unit(x, unit, k, selected, order) for unit in range(stream.units)]
        return torch.cat([part[0] for part in parts], 1), np.concatenate([p[1] for p in parts], 1)
    covered = covering(stream) if largest else None
    for rows in row_parts(x) if covered is None else _beside(total, covered, k):
        add_rows(total, stream, rows, nans=nans)
    return total.result()


def _selected(stream: RowStream) -> Spans | None:
    """Return the selected rows, where bounds of them are stored and may save reading some."""
    found = statistics_of(stream.x)
    if found is None or not len(found.starts):
        return None
    if stream.rows < int((found.stops - found.starts).min()):
        return None
    parts = [of_lead_rows(rows) for rows in row_parts(stream.x)]
    spans = of_ranges(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("starts", "stops"))
    )
    # of a row that is selected twice both count
    return spans if spans.count == stream.rows else None


def of_lead_rows(rows: Rows) -> Spans:
    """Return rows of any order as ranges."""
    if isinstance(rows, range) and abs(rows.step) == 1 and len(rows):
        first, last = sorted((rows[0], rows[-1]))
        return Spans(np.array([first]), np.array([last + 1]))
    return of_rows(as_array(rows))


def _of_unit(
    x: LazyTensor, unit: int, k: int, selected: Spans, order: Order
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the best values of one unit, and their rows: [k, 1] each."""
    one = x[(*(slice(None),) * x.lead_ndim, *np.unravel_index(unit, x.row_shape))]
    stream, found, units = by_rows(one), statistics_of(one), unit_numbers(one)
    total = Top(k, 1, x.dtype, largest=order.largest)
    number = torch.zeros(1, dtype=torch.int64) if units is None else units

    def read(rows: Rows) -> None:
        add_rows(total, stream, rows, nans=order.nans)

    assert found is not None, "looked at before"
    Search(found, number, selected, order=order, total=total, k=k, read=read).run()
    return total.result()


def _named(x: LazyTensor, values: torch.Tensor, rows: np.ndarray) -> TopK:
    shape = (len(rows), *x.row_shape)
    examples, positions = x.source.examples().places(rows.reshape(-1))
    numbers = [torch.from_numpy(n.reshape(shape)) for n in (rows, examples, positions)]
    return TopK(values.reshape(shape).to(x.device), *numbers)


def add_rows(total: Top, stream: RowStream, rows: Rows, *, nans: bool = True) -> None:
    """Take the values of rows in; NaN too or not."""

    def found(numbered: tuple[np.ndarray, torch.Tensor]) -> Top:
        numbers, block = numbered
        matrix = stream.matrix(block).cpu()
        valid = None if nans or not matrix.dtype.is_floating_point else ~matrix.isnan().numpy()
        return total.like().add(matrix, numbers, valid=valid)

    # what is found so far is a bar to what comes, though blocks are looked at some ahead
    workers = threads(len(rows) * stream.units * stream.x.dtype.itemsize)
    for part in ordered(found, numbered(stream, rows), workers=workers):
        total.merge(part)


def _beside(total: Top, covered: Covering, k: int) -> Iterator[Rows]:
    """Take in what is stored of whole shards; yield the rows of which nothing was taken in."""
    starts, stops = covered.statistics.tops
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    members = [covered.within(start, stop) for start, stop in spans]
    whole = [part for part, blocks in enumerate(members) if covered.whole[blocks].all()]

    taken = covered.none()
    units = unit_numbers(covered.stream.x)
    for part, stored in zip(whole, covered.statistics.greatest(whole, units), strict=True):
        found = _greatest(covered, stored, members[part], k)
        if found is not None:
            total.add(found[0], found[1], valid=found[1] >= 0)
            taken[members[part]] = True
    yield from covered.only(taken).rest()


def _greatest(
    covered: Covering, stored: tuple[torch.Tensor, np.ndarray], blocks: np.ndarray, k: int
) -> tuple[torch.Tensor, np.ndarray] | None:
    """Return the greatest values of a part of the site, and their rows; None if others count."""
    values, rows = stored
    # a part with fewer rows than ranks has a rank for each
    if (rows[:k] < 0).any() or (len(rows) < k and len(rows) < covered.count(blocks)):
        return None
    # what is not finite comes before or among what is stored
    odd = any(bool((one.nans + one.pos_infs).any()) for one in covered.only(blocks).known())
    return None if odd else (values, rows)
