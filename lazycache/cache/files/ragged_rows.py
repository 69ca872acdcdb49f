"""Rows of ragged sites: where each begins by the widths before it in its chunk, and its bytes.

A row is [heads, width], and the rows of a chunk lie one behind the other. Reading some of them
costs the widths of their chunks, four bytes a row and kept once they are read, and then the bytes
of these rows, or of the heads that are wanted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lazycache.cache.selecting.plan import SitePlan
from lazycache.errors import CorruptShardError

KEPT_BYTES = 64 << 20
"""Widths that are kept in memory, eight bytes a row."""

ReadWidths = Callable[[SitePlan, Sequence[int]], Sequence[np.ndarray]]
"""Gives the widths of the rows of chunks, int32[rows] each."""

Ends = Callable[[SitePlan, Sequence[int]], Mapping[int, np.ndarray]]
"""Gives for each chunk the sum of widths before each row, and of all: int64[rows + 1]."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of which rows to read."""

    rows: np.ndarray
    """int64[n]: absolute rows."""
    owner: np.ndarray
    """int64[n]: number of what each belongs to; rows of two owners are never in one block."""
    heads: np.ndarray
    """int64[h]: heads, in any order; at least one."""
    low: np.ndarray
    """int64[owners]: the first key of the rows of each owner."""
    high: np.ndarray
    """int64[owners]: the key after the last; beyond the width of a row there is none."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one width that lie one behind the other, and are asked for one after the other."""

    at: int
    """Place of its first row in `Wanted.rows`."""
    rows: int
    """How many rows."""
    chunk: int
    """Place of the chunk in the columns of the plan."""
    offset: int
    """First byte in the shard."""
    width: int
    """Width of each row."""
    low: int
    """First key."""
    high: int
    """The key after the last; beyond `low`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Values of some rows, to be copied and dropped: they may be the file itself."""

    at: int
    """Place of the first row in `Wanted.rows`."""
    heads: slice
    """Places of the heads in `Wanted.heads`."""
    low: int
    """The first key."""
    values: np.ndarray
    """[rows, heads, keys] as unsigned words."""


class Widths:
    """Ends of rows by chunk, least recently used first to go. Thread-safe."""

    def __init__(self) -> None:
        self._ends: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def ends(
        self, plan: SitePlan, chunks: Sequence[int], read: ReadWidths
    ) -> dict[int, np.ndarray]:
        """Return for each chunk the sum of widths before each row, and of all: int64[rows + 1].

        `read` gives what is not known yet.

        Raises:
            CorruptShardError: the widths of a chunk do not add up to what the log recorded.
        """
        found: dict[int, np.ndarray] = {}
        with self._lock:
            for chunk in chunks:
                known = self._ends.get((plan.spec.name, chunk))
                if known is not None:
                    self._ends.move_to_end((plan.spec.name, chunk))
                    found[chunk] = known
        unknown = [chunk for chunk in chunks if chunk not in found]
        for chunk, widths in zip(unknown, read(plan, unknown), strict=True):
            found[chunk] = summed(plan, chunk, widths)
            self._keep((plan.spec.name, chunk), found[chunk])
        return found

    def _keep(self, key: tuple[str, int], ends: np.ndarray) -> None:
        with self._lock:
            if key not in self._ends:
                self._bytes += ends.nbytes
            self._ends[key] = ends
            while self._bytes > KEPT_BYTES and len(self._ends) > 1:
                self._bytes -= self._ends.popitem(last=False)[1].nbytes


def summed(plan: SitePlan, chunk: int, widths: np.ndarray) -> np.ndarray:
    """Return the sum of widths before each row of a chunk, and of all: int64[rows + 1].

    Raises:
        CorruptShardError: they do not add up to what the log recorded.
    """
    ends = np.zeros(len(widths) + 1, dtype=np.int64)
    np.cumsum(widths, dtype=np.int64, out=ends[1:])
    if int(widths.min()) < 1 or int(ends[-1]) * plan.spec.row_bytes != int(plan.nbytes[chunk]):
        raise CorruptShardError(
            f"shard {plan.shards[int(plan.shard[chunk])].path} of site {plan.spec.name!r}: the "
            f"widths of rows {plan.starts[chunk]:,} to {plan.stops[chunk]:,} do not add up to what "
            "the log recorded: restore the file from a copy."
        )
    return ends


def placed(
    plan: SitePlan, ends_of: Ends, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return chunk, place in the chunk, byte offset in the shard and width of each row.

    Raises:
        SelectionError: the site does not have one of the rows.
        CorruptShardError: the widths are not what the log recorded.
    """
    chunk, place = plan.places(rows)
    offset, width = np.empty_like(place), np.empty_like(place)
    order = np.argsort(chunk, kind="stable")
    present, first = np.unique(chunk[order], return_index=True)
    ends = ends_of(plan, present.tolist())
    for number, members in zip(
        present.tolist(), np.split(order, first[1:]) if len(first) else (), strict=True
    ):
        begins, here = ends[number], place[members]
        offset[members] = plan.offsets[number] + begins[here] * plan.spec.row_bytes
        width[members] = begins[here + 1] - begins[here]
    return chunk, place, offset, width


def runs(plan: SitePlan, ends_of: Ends, wanted: Wanted) -> Iterator[Run]:
    """Yield the rows that are wanted, as few runs as there are; none for rows without such keys.

    Raises as `placed` does.
    """
    if not len(wanted.rows):
        return
    chunk, place, offset, width = placed(plan, ends_of, wanted.rows)
    same = (chunk[1:] == chunk[:-1]) & (place[1:] == place[:-1] + 1) & (width[1:] == width[:-1])
    same &= wanted.owner[1:] == wanted.owner[:-1]
    bounds = [0, *(np.flatnonzero(~same) + 1).tolist(), len(chunk)]
    for at, stop in pairwise(bounds):
        owner = wanted.owner[at]
        low, high = int(wanted.low[owner]), int(min(wanted.high[owner], width[at]))
        if low < high:
            lies = (int(chunk[at]), int(offset[at]), int(width[at]))
            yield Run(at, stop - at, *lies, low, high)
