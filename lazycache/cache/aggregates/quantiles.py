"""Values of a given rank: medians and quantiles, exact, in memory that does not grow with rows.

Where a few columns fit in memory they are read and sorted, some columns at a time. Otherwise ranks
are found digit by digit: values are keys of 16 to 64 bits, and a pass over the rows counts how many
keys have each first digit, the next one how many of these each second digit, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from lazycache.cache.aggregates.reduce import no_rows
from lazycache.cache.aggregates.row_stream import RowStream
from lazycache.cache.reading.ordering import comparable, key_bits, keys_of, original, values_of_keys
from lazycache.cache.selecting.plan import blocks
from lazycache.errors import SelectionError

Interpolation = Literal["linear", "lower", "higher", "midpoint", "nearest"]
"""How a quantile between two values follows from them; as in torch."""

WORKING_BYTES = 256 << 20
"""Memory for sorted columns, or for counts of digits."""

DIGIT_BITS = (16, 8)
"""Sizes of a digit. A large one needs fewer passes, a small one less memory for each column."""

_TILE_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class Quantile:
    """The reduction to quantiles: float64, with a last dimension if several are asked for."""

    q: tuple[float, ...]
    """From 0 to 1."""
    interpolation: Interpolation
    """Between two values."""
    single: bool
    """Whether one was asked for, and has no dimension of its own."""
    name: str = "quantile"
    """As `Kernel.name`."""
    in_order: bool = False
    """As `Kernel.in_order`."""

    def direct(self, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Return quantiles over dimensions of values that are in memory: [*left, q]."""
        rows = in_front(values, dims)
        ranks = self._ranks(len(rows))
        picked, nan = sorted_ranks(rows, ranks)
        return self._between(picked, nan, ranks, len(rows))

    def streamed(self, stream: RowStream) -> torch.Tensor:
        """Return quantiles of the columns of a stream: [units, q]."""
        ranks = self._ranks(stream.rows)
        picked, nan = ranked(stream, ranks)
        return self._between(picked, nan, ranks, stream.rows)

    def _ranks(self, rows: int) -> list[int]:
        if not rows:
            raise no_rows(self.name)
        ends = [f(p) for p in self._places(rows).tolist() for f in (math.floor, math.ceil)]
        return sorted(set(map(int, ends)))

    def _places(self, rows: int) -> torch.Tensor:
        places = torch.tensor(self.q, dtype=torch.float64) * (rows - 1)
        rounded = {"lower": torch.floor, "higher": torch.ceil, "nearest": torch.round}
        return rounded.get(self.interpolation, torch.clone)(places)

    def _between(
        self, picked: torch.Tensor, nan: torch.Tensor, ranks: Sequence[int], rows: int
    ) -> torch.Tensor:
        """Return [*left, q] of the values of ranks: [ranks, *left]."""
        places, known = self._places(rows), torch.tensor(ranks)
        low = picked[torch.searchsorted(known, places.floor().long())].double()
        high = picked[torch.searchsorted(known, places.ceil().long())].double()
        weight = places - places.floor()
        if self.interpolation == "midpoint":
            weight = torch.full_like(weight, 0.5)
        weight = weight.reshape(-1, *(1,) * (picked.ndim - 1)).to(picked.device)
        if self.interpolation in {"linear", "midpoint"}:
            low = torch.lerp(low, high, weight)
        found = low.masked_fill(nan, torch.nan).movedim(0, -1)
        return found[..., 0] if self.single else found


@dataclass(frozen=True, slots=True)
class Median:
    """The reduction to medians, of two the lower, in the dtype of the values; as in torch."""

    name: str = "median"
    """As `Kernel.name`."""
    in_order: bool = False
    """As `Kernel.in_order`."""

    def direct(self, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Return medians over dimensions of values that are in memory."""
        rows = in_front(values, dims)
        if not len(rows):
            raise no_rows(self.name)
        picked, nan = sorted_ranks(rows, [(len(rows) - 1) // 2])
        return _with_nan(picked[0], nan)

    def streamed(self, stream: RowStream) -> torch.Tensor:
        """Return medians of the columns of a stream: [units]."""
        if not stream.rows:
            raise no_rows(self.name)
        picked, nan = ranked(stream, [(stream.rows - 1) // 2])
        return _with_nan(picked[0], nan)


def quantile(q: float | Sequence[float] | torch.Tensor, interpolation: str) -> Quantile:
    """Return the reduction.

    Raises:
        SelectionError: `q` is not from 0 to 1, or there is no such interpolation.
    """
    if interpolation not in get_args(Interpolation):
        raise SelectionError(
            f"interpolation {interpolation!r}: one of {', '.join(get_args(Interpolation))}."
        )
    try:
        asked = torch.as_tensor(q, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        asked = torch.empty(0)
    if asked.ndim > 1 or not asked.numel() or not bool(((asked >= 0) & (asked <= 1)).all()):
        raise SelectionError(f"quantile({q!r}): a number from 0 to 1, or some of them in a list.")
    return Quantile(tuple(asked.reshape(-1).tolist()), interpolation, single=not asked.ndim)  # type: ignore[arg-type]  # looked at above


def in_front(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Return values with some dimensions as one, in front: [rows, *left]."""
    moved = values.movedim(dims, tuple(range(len(dims))))
    left = moved.shape[len(dims) :]
    return moved.reshape(math.prod(moved.shape[: len(dims)]), *left)


def sorted_ranks(rows: torch.Tensor, ranks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of ranks along the first dimension, [ranks, *left], and where NaN is."""
    order = comparable(rows).sort(0).values
    # NaN sorts behind everything
    nan = order[-1].isnan() if order.dtype.is_floating_point else torch.zeros_like(order[-1]).bool()
    return original(order[torch.tensor(ranks)], rows.dtype), nan


def ranked(stream: RowStream, ranks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of ranks of the columns of a stream, [ranks, units], and where NaN is.

    Cost: the fewest passes over the rows that `WORKING_BYTES` allow, of one of both ways.
    """
    width = 3 * stream.rows * stream.x.dtype.itemsize + 16 * stream.rows
    most = max(1, WORKING_BYTES // max(1, width))
    digits = min((_passes(stream, len(ranks), bits), bits) for bits in DIGIT_BITS)
    if width <= WORKING_BYTES and -(-stream.units // most) <= digits[0]:
        parts = [
            sorted_ranks(_columns(stream, start, stop), ranks)
            for start, stop in _groups(stream.units, most)
        ]
    else:
        most = _group(stream, len(ranks), digits[1])
        parts = [
            _by_digits(stream, start, stop, ranks, bits=digits[1])
            for start, stop in _groups(stream.units, most)
        ]
    if not parts:
        return torch.empty(len(ranks), 0, dtype=stream.x.dtype), torch.empty(0, dtype=torch.bool)
    values, nans = zip(*parts, strict=True)
    return torch.cat(values, 1), torch.cat(nans)


def _groups(units: int, most: int) -> Iterator[tuple[int, int]]:
    for start in range(0, units, most):
        yield start, min(units, start + most)


def _group(stream: RowStream, ranks: int, bits: int) -> int:
    """Return how many columns have room for their counts."""
    several = 1 if key_bits(stream.x.dtype) <= bits else ranks
    return max(1, WORKING_BYTES // (8 * several << bits))


def _passes(stream: RowStream, ranks: int, bits: int) -> int:
    groups = -(-stream.units // _group(stream, ranks, bits))
    return groups * -(-key_bits(stream.x.dtype) // bits)


def _matrices(stream: RowStream, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Yield [rows, columns] of some columns."""
    narrow = stream.columns(start, stop)
    if narrow is not None:
        yield from narrow.map(lambda matrix: matrix)
    else:
        yield from stream.map(lambda matrix: matrix[:, start:stop])


def _columns(stream: RowStream, start: int, stop: int) -> torch.Tensor:
    """Return some columns in memory, each in one piece: [rows, columns]."""
    x = stream.x
    out = torch.empty((stop - start, stream.rows), dtype=x.dtype, device=x.device)
    done = 0
    for matrix in _matrices(stream, start, stop):
        out[:, done : done + len(matrix)] = matrix.T
        done += len(matrix)
    return out.T


def _by_digits(
    stream: RowStream, start: int, stop: int, ranks: Sequence[int], *, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the values of ranks of some columns in as many passes as a key has digits."""
    width = key_bits(stream.x.dtype)
    left = torch.tensor(ranks)[:, None].repeat(1, stop - start)
    # the digits that are known of each: one prefix at first, which has no digits
    prefix = torch.zeros_like(left)
    nan = torch.zeros(stop - start, dtype=torch.bool)
    for done in range(0, width, bits):
        shift = max(0, width - done - bits)
        counts, found = _counted(
            stream, start, stop, prefix[:1] if not done else prefix, done, shift
        )
        nan |= found
        prefix, left = _narrowed(counts, prefix, left, digits=width - done - shift, first=not done)
    return values_of_keys(prefix, stream.x.dtype).to(stream.x.device), nan.to(stream.x.device)


def _counted(
    stream: RowStream, start: int, stop: int, prefix: torch.Tensor, done: int, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the next digit of keys that begin with a prefix, for each prefix of each column.

    Returns int64[prefixes, columns, digits], and which columns have NaN.
    """
    x, columns = stream.x, stop - start
    width = key_bits(x.dtype)
    digits = width - shift - done
    size = 1 << digits
    counts = torch.zeros(len(prefix) * columns * size, dtype=torch.int64)
    nan = torch.zeros(columns, dtype=torch.bool)
    begins = torch.arange(columns) * size
    for matrix in _matrices(stream, start, stop):
        for first, last in blocks(len(matrix), size=_TILE_VALUES // max(1, columns)):
            here = matrix[first:last].cpu()
            keys = keys_of(here)
            if here.dtype.is_floating_point and not done:
                nan |= comparable(here).isnan().any(0)
            digit = (keys >> shift) + (size >> 1) if not done else (keys >> shift) & (size - 1)
            for number, one in enumerate(prefix if done else [None]):
                _count(counts, digit, keys, one, begins + number * columns * size, shift + digits)
    return counts.reshape(len(prefix), columns, size), nan


def _count(
    counts: torch.Tensor,
    digit: torch.Tensor,
    keys: torch.Tensor,
    prefix: torch.Tensor | None,
    begins: torch.Tensor,
    above: int,
) -> None:
    places = digit + begins
    flat = places.reshape(-1) if prefix is None else places[(keys >> above) == prefix]
    counts.scatter_add_(0, flat, torch.ones(1, dtype=torch.int64).expand(len(flat)))


def _narrowed(
    counts: torch.Tensor, prefix: torch.Tensor, left: torch.Tensor, *, digits: int, first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prefixes that are a digit longer, and ranks among the keys that begin with them."""
    before = counts.cumsum(2)
    before = before.expand(len(left), *before.shape[1:])
    digit = torch.searchsorted(before.contiguous(), left[..., None], right=True)
    below = torch.where(
        digit > 0, before.gather(2, (digit - 1).clamp(min=0)), torch.zeros_like(digit)
    )
    digit, below = digit[..., 0], below[..., 0]
    if first:
        return digit - (1 << (digits - 1)), left - below
    return (prefix << digits) | digit, left - below


def _with_nan(values: torch.Tensor, nan: torch.Tensor) -> torch.Tensor:
    if not values.dtype.is_floating_point:
        return values
    return torch.where(nan, torch.full_like(values, torch.nan), values)
