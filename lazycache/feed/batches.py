"""Rows of an epoch in order, read ahead in groups and cut into as many as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, words_of
from lazycache.errors import StorageError
from lazycache.feed.finishing import Finish, Finished
from lazycache.feed.order import EpochOrder, Order
from lazycache.feed.prefetch import Ahead
from lazycache.feed.ranks import Rank
from lazycache.feed.source import RowSource
from lazycache.feed.windows import Window, windows

if TYPE_CHECKING:
    from lazycache.feed.columns import ColumnReader, Columns

ORDERED_ROWS = 1 << 15
"""Rows whose order is worked out at once: few enough for a cache, so many that calls are cheap."""

GROUP_BYTES = 4 << 20
"""Batches smaller than this are gathered several at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """What is fed and how; all that the threads know."""

    source: RowSource
    """The rows."""
    order: Order
    """Their order."""
    rank: Rank
    """Whose part of them."""
    columns: ColumnReader | None
    """Reads what goes with them."""
    finish: Finish
    """Makes values what the caller asked for."""
    batch_rows: int
    """Rows that are mostly asked for at once."""
    prefetch_bytes: int
    """Bytes that are read before they are asked for; 0: no thread."""

    @property
    def group_rows(self) -> int:
        """Rows that are gathered at once: whole batches."""
        batch_bytes = self.batch_rows * self.source.row_bytes
        most = min(GROUP_BYTES, self.prefetch_bytes // 2 or GROUP_BYTES)
        return self.batch_rows * max(1, most // batch_bytes)

    @property
    def groups_ahead(self) -> int:
        """Groups that are ready at most."""
        return max(1, self.prefetch_bytes // (self.group_rows * self.source.row_bytes))

    def groups(self, epoch: int, start: int) -> Iterator[Group]:
        """Return the groups of an epoch from row `start` on, in order."""
        order = self.order.of_epoch(epoch, rank=self.rank.rank, world_size=self.rank.world_size)
        made = windows(self.source, order, self.columns, kind=self.order.kind, start=start)
        if not self.prefetch_bytes:
            return self._gathered(order, made, start)
        ready = Ahead(made, most=1, name="feed-windows")
        return Ahead(
            self._gathered(order, ready, start), most=self.groups_ahead, name="feed-groups"
        )

    def _gathered(self, order: EpochOrder, ready: Iterator[Window], start: int) -> Iterator[Group]:
        try:
            for window in ready:
                first = max(start, window.first)
                for places, positions in self._stretches(order, window, first):
                    for at in self._cuts(first, len(positions)):
                        yield self._group(window, places[at], positions[at])
                    first += len(positions)
        finally:
            if isinstance(ready, Ahead):
                ready.close()

    def _stretches(
        self, order: EpochOrder, window: Window, first: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places among the members and positions of rows of many groups at a time."""
        size = max(1, ORDERED_ROWS // self.group_rows) * self.group_rows
        while first < window.stop:
            stop = min(window.stop, first - first % size + size)
            places = order.places(first, stop)
            yield places, order.placed(window.first, places)
            first = stop

    def _cuts(self, first: int, rows: int) -> Iterator[slice]:
        """Cut rows from `first` on where groups end."""
        size, done = self.group_rows, 0
        while done < rows:
            stop = min(rows, done + size - (first + done) % size)
            yield slice(done, stop)
            done = stop

    def _group(self, window: Window, places: np.ndarray, positions: np.ndarray) -> Group:
        if window.values is None:
            values = self.source.values(positions)
        else:
            members = window.members(places)
            values = [_picked(value, members) for value in window.values]
        index = None if window.columns is None else window.members(places)
        return Group(self.finish(values), len(places), window.columns, index)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows that were read together."""

    values: Finished
    """Of each site."""
    rows: int
    """How many."""
    columns: Columns | None
    """What goes with the rows of the window."""
    index: np.ndarray | None
    """int64[rows]: which of these are the group's."""

    def cut(self, first: int, stop: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """Return values and columns of some of the rows."""
        named: dict[str, Any] = {}
        if self.columns is not None and self.index is not None:
            named = self.columns.take(self.index[first:stop])
        return [value[first:stop] for value in self.values.get()], named


class RowStream:
    """The rows of one epoch of one rank from a row on, for `take`.

    Not for several threads at once.
    """

    def __init__(self, feed: Feed, epoch: int, start: int, wrap: Callable[..., Any]) -> None:
        self._groups = feed.groups(epoch, start)
        self._wrap = wrap
        self._group: Group | None = None
        self._done = 0
        self._closed = False

    def take(self, n: int) -> Any:
        """Return the next `n` rows, fewer at the end: what a batch is, in memory of its own.

        Raises:
            StorageError: it was closed.
        """
        parts = list(self._parts(n))
        if len(parts) == 1:
            return self._wrap(*parts[0])
        values = [torch.cat(some) for some in zip(*(part[0] for part in parts), strict=True)]
        names = parts[0][1] if parts else {}
        return self._wrap(values, {name: _joined([p[1][name] for p in parts]) for name in names})

    def _parts(self, n: int) -> Iterator[tuple[list[torch.Tensor], dict[str, Any]]]:
        while n:
            group = self._current()
            if group is None:
                return
            stop = min(group.rows, self._done + n)
            part = group.cut(self._done, stop)
            n -= stop - self._done
            self._done = stop
            yield part

    def _current(self) -> Group | None:
        """Return the group that has rows left."""
        if self._closed:
            raise StorageError("this loader was closed: iterate over it again.")
        if self._group is None or self._done == self._group.rows:
            self._group, self._done = next(self._groups, None), 0
        return self._group

    def close(self) -> None:
        """End its threads. Batches that were handed out stay."""
        self._closed, self._group = True, None
        close = getattr(self._groups, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _picked(values: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """Return rows of a tensor at places; of any dtype."""
    if values.device.type != "cpu":
        return values[torch.from_numpy(places).to(values.device)]
    words = words_of(values.reshape(len(values), -1)).take(places, axis=0)
    shape = (len(places), *values.shape[1:])
    return as_tensor(words.reshape(-1).view(np.uint8), values.dtype, shape)


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    return [value for part in parts for value in part]
