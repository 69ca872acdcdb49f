"""The order in which rows are handed out: a function of numbers, never a list of rows. Pure.

Rows of a selection are counted 0 to n - 1 (*positions*). An epoch hands them out in a sequence; any
stretch of it is computed where it is needed, so that a run is resumed anywhere at once and 10^12
rows need no more memory than a thousand. Whatever reads the rows, the order is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

STORED, BLOCKS, ROWS = "stored", "blocks", "rows"
"""As stored; blocks of rows permuted, and rows in windows of blocks; every row by itself."""

_MOST_SORTED, _MOST_LISTED = 1 << 18, 1 << 16
_ROUNDS = 8
_ALL = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def key_of(*numbers: int) -> int:
    """Return one 64-bit number that stands for several; other numbers give another one.

    Example:
        >>> key_of(0, 1) == key_of(0, 1), key_of(0, 1) == key_of(1, 0)
        (True, False)
    """
    key = 0
    for number in numbers:
        # a number of any size, 64 bits at a time
        for part in range(max(1, -(-number.bit_length() // 64))):
            bits = (number >> 64 * part) & _ALL
            key = int(_mixed(np.array([(key * int(_GOLDEN) + bits + 1) & _ALL], np.uint64))[0])
    return key


class Permutation:
    """A permutation of 0 to n - 1 that a key chooses: computed for any places.

    Up to 2^18 numbers are listed, sorted by a random number of each: every order is as likely as
    any other. Of more it is a Feistel network over pairs of numbers, of which there are n and
    hardly more; what falls outside is put through again until it falls inside. The same on every
    machine.

    Cost: of up to 2^18 numbers 8 bytes and some 50 ns each, once. Of more, per number some thirty
    operations of numpy; memory for the numbers asked for and at most a few MiB of tables.

    Example:
        >>> shuffled = Permutation(5, key_of(0))
        >>> places = shuffled(np.arange(5))
        >>> sorted(places.tolist()), shuffled.inverse(places).tolist()
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """

    __slots__ = ("_keys", "_listed", "_sizes", "_tables", "n")

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        """How many numbers."""
        high = max(1, math.isqrt(max(0, n - 1)) + 1)
        self._sizes = (np.uint64(high), np.uint64(max(1, -(-n // high))))
        self._keys = list(_mixed((np.arange(_ROUNDS, dtype=np.uint64) + np.uint64(key)) * _GOLDEN))
        self._tables: list[np.ndarray | None] = [None] * _ROUNDS
        self._listed: np.ndarray | None = None
        if n <= _MOST_SORTED:
            # no two are the same, so there is one order whoever sorts
            noise = _mixed((np.arange(n, dtype=np.uint64) + self._keys[0]) * _GOLDEN)
            self._listed = np.argsort(noise).astype(np.int64, copy=False)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers at places, int64[m] each in 0 to n - 1."""
        if self._listed is None:
            return self._walked(places, range(len(self._keys)))
        numbers: np.ndarray = self._listed.take(places)
        return numbers

    def inverse(self, numbers: np.ndarray) -> np.ndarray:
        """Return the places at which numbers are: int64[m]."""
        if self._listed is None:
            return self._walked(numbers, range(len(self._keys) - 1, -1, -1))
        places = np.empty_like(self._listed)
        places[self._listed] = np.arange(self.n)
        found: np.ndarray = places.take(numbers)
        return found

    def _walked(self, numbers: np.ndarray, rounds: range) -> np.ndarray:
        found = self._once(numbers, rounds)
        outside = np.flatnonzero(found >= self.n)
        while outside.size:
            again = self._once(found[outside], rounds)
            found[outside] = again
            outside = outside[again >= self.n]
        return found

    def _once(self, numbers: np.ndarray, rounds: range) -> np.ndarray:
        pairs = self._sizes[1]
        high = numbers.astype(np.uint64) // pairs
        low = numbers.view(np.uint64) - high * pairs
        for number in rounds:
            # each half in turn is moved by what the other one is: undone in reverse order
            half, other, size = (high, low, 0) if number % 2 == 0 else (low, high, 1)
            noise = self._noise(number, other, self._sizes[1 - size], self._sizes[size])
            # unsigned numbers wrap: the lesser of both is the one inside
            if rounds.step > 0:
                half += noise
                np.minimum(half, half - self._sizes[size], out=half)
            else:
                half -= noise
                np.minimum(half, half + self._sizes[size], out=half)
        high *= pairs
        high += low
        return high.view(np.int64)

    def _noise(
        self, number: int, half: np.ndarray, size: np.uint64, wanted: np.uint64
    ) -> np.ndarray:
        """Return a random number below `wanted` for each half, which is below `size`."""
        if size > _MOST_LISTED:
            return _below(wanted, half, self._keys[number])
        table = self._tables[number]
        if table is None:
            table = _below(wanted, np.arange(size, dtype=np.uint64), self._keys[number])
            self._tables[number] = table
        found: np.ndarray = table.take(half.view(np.int64))
        return found


def _below(wanted: np.uint64, numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    half = np.uint64(32)
    return ((_mixed((numbers + key) * _GOLDEN) >> half) * wanted) >> half


def _mixed(numbers: np.ndarray) -> np.ndarray:
    # the finaliser of splitmix64: every bit depends on every bit
    for shift, factor in zip((30, 27), _MIX, strict=True):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * factor
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of the order; `of_epoch` gives it."""

    rows: int
    """Rows of the selection, of all ranks."""
    kind: str
    """`STORED`, `BLOCKS` or `ROWS`."""
    block_rows: int
    """Consecutive rows that stay together until the window; of `BLOCKS`."""
    window_rows: int
    """Rows that are permuted among each other, about, and for which columns are read at once."""
    seed: int
    """Chooses the order, with the epoch."""

    def of_epoch(self, epoch: int, *, rank: int = 0, world_size: int = 1) -> EpochOrder:
        """Return the order of one epoch of one rank.

        Example:
            >>> order = Order(rows=7, kind=BLOCKS, block_rows=2, window_rows=4, seed=0)
            >>> ranks = [order.of_epoch(0, rank=r, world_size=2) for r in range(2)]
            >>> found = [rank.positions(0, rank.rows).tolist() for rank in ranks]
            >>> [len(one) for one in found], sorted(sum(found, []))
            ([3, 4], [0, 1, 2, 3, 4, 5, 6])
        """
        start, stop = rank * self.rows // world_size, (rank + 1) * self.rows // world_size
        return EpochOrder(self, epoch, start, stop)


class EpochOrder:
    """The rows that one rank hands out in one epoch, in order, numbered from 0.

    They are cut into *windows* of about `window_rows`. Before rows are permuted inside a window,
    they are its *members*: whole blocks, one behind the other, which are read together.
    """

    def __init__(self, order: Order, epoch: int, start: int, stop: int) -> None:
        self.rows = stop - start
        """How many."""
        self._order = order
        self._epoch = epoch
        self._start = start
        windows = max(1, -(-self.rows // max(1, order.window_rows)))
        # as even as whole blocks allow: no small rest that would hardly be mixed
        even, unit = -(-self.rows // windows), order.block_rows if order.kind == BLOCKS else 1
        self.window_rows = max(1, -(-even // unit) * unit)
        """Rows of each window; the last one has the rest."""
        self._inside: tuple[int, Permutation] | None = None

    def window(self, row: int) -> tuple[int, int]:
        """Return first row and stop of the window in which a row is."""
        first = row - row % self.window_rows
        return first, min(self.rows, first + self.window_rows)

    def members(self, first: int, stop: int) -> np.ndarray:
        """Return the positions of rows as they are before windows are permuted: int64[n]."""
        order, low, high = self._order, self._start + first, self._start + stop
        if order.kind != BLOCKS or first == stop:
            return self._placed(np.arange(low, high, dtype=np.int64))
        # whole blocks at once: a tenth of the time of row by row
        ends = self._unshortened(np.array([low, high - 1])) // order.block_rows
        blocks = self._blocks(np.arange(ends[0], ends[1] + 1))
        rows = (blocks[:, None] * order.block_rows + np.arange(order.block_rows)).reshape(-1)
        rows = rows[int(self._unshortened(np.array([low]))[0] - ends[0] * order.block_rows) :]
        if order.rows % order.block_rows:
            rows = rows[rows < order.rows]  # the last block is short
        return rows[: high - low]

    def runs(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return first positions and stops of the runs that the members are: int64[runs] each."""
        if self._order.kind == STORED:
            return np.array([self._start + first]), np.array([self._start + stop])
        unit = self._order.block_rows if self._order.kind == BLOCKS else 1
        ends = self._unshortened(np.array([self._start + first, self._start + stop - 1])) // unit
        blocks = np.sort(self._blocks(np.arange(ends[0], ends[1] + 1)))
        return blocks * unit, np.minimum(self._order.rows, (blocks + 1) * unit)

    def places(self, first: int, stop: int) -> np.ndarray:
        """Return for rows of one window which of its members they are: int64[n], from 0."""
        window = first - first % self.window_rows
        places = np.arange(first - window, stop - window, dtype=np.int64)
        return self._permuted(window)(places) if self._order.kind == BLOCKS else places

    def positions(self, first: int, stop: int) -> np.ndarray:
        """Return the positions of rows `first` to `stop`, of any windows: int64[n].

        Example:
            >>> order = Order(rows=4, kind=STORED, block_rows=1, window_rows=2, seed=0)
            >>> order.of_epoch(0).positions(1, 4)
            array([1, 2, 3])
        """
        if self._order.kind != BLOCKS:
            return self.members(first, stop)
        parts = [np.empty(0, dtype=np.int64)]
        while first < stop:
            window, end = self.window(first)
            places = self.places(first, min(end, stop))
            if first == window and end <= stop:
                parts.append(self.members(window, end).take(places))
            else:
                parts.append(self.placed(window, places))
            end = min(end, stop)
            first = end
        return parts[1] if len(parts) == 2 else np.concatenate(parts)  # noqa: PLR2004  # one

    def placed(self, window: int, places: np.ndarray) -> np.ndarray:
        """Return the positions of members of the window that begins at a row: int64[n]."""
        return self._placed(self._start + window + places)

    def _permuted(self, window: int) -> Permutation:
        """Return the permutation of the members of a window that begins at a row."""
        known = self._inside
        if known is None or known[0] != window:
            first, stop = self.window(window)
            key = key_of(self._order.seed, self._epoch, 1, self._start + window)
            # replaced as a whole: two threads may ask
            known = self._inside = (window, Permutation(stop - first, key))
        return known[1]

    def _placed(self, places: np.ndarray) -> np.ndarray:
        """Return the positions at places of the sequence of permuted blocks of all ranks."""
        order = self._order
        if order.kind == STORED:
            return places
        if order.kind == ROWS:
            return self._blocks(places)
        block, inside = np.divmod(self._unshortened(places), order.block_rows)
        positions: np.ndarray = self._blocks(block) * order.block_rows + inside
        return positions

    def _unshortened(self, places: np.ndarray) -> np.ndarray:
        """Return the places as they were if the last block, too, had all its rows."""
        if self._order.kind != BLOCKS:
            return places
        # what comes after the short one lies that much earlier
        return np.where(places >= self._short_stop, places + self._lacking, places)

    @cached_property
    def _blocks(self) -> Permutation:
        order = self._order
        size = order.block_rows if order.kind == BLOCKS else 1
        return Permutation(-(-order.rows // size), key_of(order.seed, self._epoch, 0))

    @cached_property
    def _lacking(self) -> int:
        return -self._order.rows % self._order.block_rows

    @cached_property
    def _short_stop(self) -> int:
        """The place behind the last block, which may be short, where the permutation put it."""
        last = np.array([self._blocks.n - 1], dtype=np.int64)
        place = int(self._blocks.inverse(last)[0])
        return (place + 1) * self._order.block_rows - self._lacking
