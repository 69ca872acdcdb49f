"""What a selection is like, unit by unit: counts, and numbers of its finite values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from lazycache.cache.aggregates.covering import covering
from lazycache.cache.aggregates.reduce import accumulated, no_rows, tiles
from lazycache.cache.aggregates.row_stream import RowStream
from lazycache.cache.reading.known import Known, merged
from lazycache.cache.reading.ordering import comparable, original
from lazycache.faces.html import Html, card, dtype_name, facts, table

SHOWN = 8
"""Units that the text of statistics shows."""

HEADS = ("nans", "infs", "min", "max", "mean", "std", "sum")


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Numbers of each unit over all rows: what is not finite is counted, and in no other number.

    Each is [*units of a row]. Of a unit without any finite value min, max, mean and std are nan.
    """

    rows: int
    """How many values each unit has, finite or not."""
    nans: torch.Tensor
    """int64: values that are NaN."""
    pos_infs: torch.Tensor
    """int64: values that are infinite."""
    neg_infs: torch.Tensor
    """int64: values that are minus infinity."""
    min: torch.Tensor
    """The least, in the dtype of the values."""
    max: torch.Tensor
    """The greatest."""
    mean: torch.Tensor
    """float64."""
    std: torch.Tensor
    """float64: the root of the variance, which is divided by one less than the count."""
    sum: torch.Tensor
    """float64, or int64 of integers and bools."""

    @property
    def finite(self) -> torch.Tensor:
        """int64: how many values are finite."""
        return self.rows - self.nans - self.pos_infs - self.neg_infs

    def __repr__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        """Show the first units as a table in a notebook."""
        said = facts(
            [
                ("rows", self.rows),
                ("units", self.mean.numel()),
                ("dtype", dtype_name(self.min.dtype)),
            ]
        )
        return card("", said, _table(self), kind="Statistics")


def _shown_units(s: Statistics) -> Iterator[int | None]:
    """Yield the units that are shown: the first ones and the last; None for those between."""
    count = s.mean.numel()
    yield from range(min(count, SHOWN - 1))
    if count > SHOWN:
        yield None
    if count >= SHOWN:
        yield count - 1


def _name(s: Statistics, unit: int) -> str:
    place = torch.unravel_index(torch.tensor(unit), s.mean.shape or (1,))
    return ", ".join(str(int(i)) for i in place) if s.mean.shape else "all"


def of_stream(stream: RowStream) -> Statistics:
    """Return the statistics of the columns of a stream.

    Raises:
        SelectionError: there are no rows.
    """
    found = known_of_stream(stream)
    if found is None:
        raise no_rows("statistics")
    return of_known(found, shape=stream.kept, device=stream.x.device)


def known_of_stream(stream: RowStream) -> Known | None:
    """Return what is stored of whole blocks and what is read of the others, as one group."""
    covered = covering(stream)
    stored: Iterable[Known] = () if covered is None else covered.known()
    total = folded(merged([known]) for known in stored)
    parts = None if covered is None else covered.rest()
    return folded(stream.map(known_of_matrix, parts), total)


def folded(parts: Iterable[Known | None], total: Known | None = None) -> Known | None:
    """Return parts as one group; None of nothing."""
    for part in parts:
        if part is not None:
            total = part if total is None else merged([total, part])
    return total


def known_of_matrix(matrix: torch.Tensor) -> Known | None:
    """Return the numbers of a matrix [rows, units] as one group; None of no rows."""
    parts = [known_of_tile(tile) for tile in tiles(matrix) if len(tile)]
    return merged(parts) if parts else None


def known_of_tile(tile: torch.Tensor) -> Known:
    """Return the numbers of some rows, at least one, as one group.

    Example:
        >>> known = known_of_tile(torch.tensor([[1.0], [torch.inf], [4.0]]))
        >>> known.pos_infs.item(), known.mean.item(), known.m2.item()
        (1, 2.5, 4.5)
    """
    # in the memory of this machine, where what is stored is
    tile = tile.cpu()
    wide = tile.to(torch.float64)
    total = wide.sum(0, keepdim=True)
    # one look at the sums says of nearly every tile that all of it is finite
    if bool(total.isfinite().all()):
        none = torch.zeros(total.shape, dtype=torch.int64)
        return _known(tile, wide, total, finite=None, odd=(none, none, none))
    finite = wide.isfinite()
    kinds = (wide.isnan(), wide == torch.inf, wide == -torch.inf)
    nans, pos_infs, neg_infs = (kind.sum(0, keepdim=True) for kind in kinds)
    clean = wide.where(finite, 0.0).sum(0, keepdim=True)
    return _known(tile, wide, clean, finite=finite, odd=(nans, pos_infs, neg_infs))


def _known(
    tile: torch.Tensor,
    wide: torch.Tensor,
    total: torch.Tensor,
    *,
    finite: torch.Tensor | None,
    odd: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> Known:
    """Return numbers of a tile of which the sums are known, and where it is finite: None, all."""
    mean = total / (len(tile) if finite is None else finite.sum(0, keepdim=True))
    near = wide - mean if finite is None else (wide - mean).where(finite, 0.0)
    exact = accumulated(tile.dtype)
    return Known(
        rows=torch.tensor([[len(tile)]]),
        nans=odd[0],
        pos_infs=odd[1],
        neg_infs=odd[2],
        min=_least(tile, finite, "min"),
        max=_least(tile, finite, "max"),
        sum=total if exact.is_floating_point else tile.to(exact).sum(0, keepdim=True),
        mean=mean,
        m2=near.square_().sum(0, keepdim=True),
    )


def _least(tile: torch.Tensor, finite: torch.Tensor | None, op: str) -> torch.Tensor:
    values = comparable(tile)
    if finite is not None:
        values = values.masked_fill(~finite, torch.inf if op == "min" else -torch.inf)
    found = values.amin(0, keepdim=True) if op == "min" else values.amax(0, keepdim=True)
    if finite is not None:
        found = found.masked_fill(~finite.any(0, keepdim=True), torch.nan)
    return original(found, tile.dtype)


def of_known(found: Known, *, shape: tuple[int, ...], device: torch.device) -> Statistics:
    """Return the statistics that one group of numbers says."""

    def placed(numbers: torch.Tensor) -> torch.Tensor:
        return numbers[0].reshape(shape).to(device)

    spread = found.m2 / (found.finite - 1).clamp(min=0)
    return Statistics(
        rows=found.count,
        nans=placed(found.nans),
        pos_infs=placed(found.pos_infs),
        neg_infs=placed(found.neg_infs),
        min=placed(found.min),
        max=placed(found.max),
        mean=placed(found.mean),
        std=placed(spread.where(found.finite > 0, torch.nan).sqrt()),
        sum=placed(found.sum),
    )


def _lines(s: Statistics) -> Iterator[str]:
    count = s.mean.numel()
    yield f"Statistics({s.rows:,} rows, {count:,} units, {str(s.min.dtype).removeprefix('torch.')})"
    yield f"{'unit':>12}" + "".join(f"{head:>13}" for head in HEADS)
    numbers = [s.nans, s.pos_infs + s.neg_infs, s.min, s.max, s.mean, s.std, s.sum]
    flat = [one.reshape(-1) for one in numbers]
    for unit in _shown_units(s):
        if unit is None:
            yield f"{'...':>12}"
        else:
            yield f"{_name(s, unit):>12}" + "".join(f"{one[unit].item():>13.6g}" for one in flat)


def _table(s: Statistics) -> Html:
    numbers = [s.nans, s.pos_infs + s.neg_infs, s.min, s.max, s.mean, s.std, s.sum]
    flat = [one.reshape(-1) for one in numbers]
    rows = (
        ["…"] + [""] * len(flat)
        if unit is None
        else [_name(s, unit), *(one[unit].item() for one in flat)]
        for unit in _shown_units(s)
    )
    return table(("unit", *HEADS), rows)
