"""Rows of an epoch in order, read ahead in groups and cut into as many as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, words_of
from lazycache.errors import SelectionError, StorageError
from lazycache.feed.buffers import Buffers
from lazycache.feed.finishing import Finish, Finished
from lazycache.feed.order import Order
from lazycache.feed.prefetch import Ahead
from lazycache.feed.ranks import Rank
from lazycache.feed.source import RowSource
from lazycache.feed.windows import Window, windows

if TYPE_CHECKING:
    from lazycache.feed.columns import ColumnReader, Columns

GROUP_BYTES = 8 << 20
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
    buffers: Buffers = field(init=False)
    """Memory for values that are copied."""

    def __post_init__(self) -> None:
        # what is ahead, what is being made, and what the caller holds
        most = len(self.source.sites) * (self.groups_ahead + 2)
        object.__setattr__(self, "buffers", Buffers(most))

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
            return self._gathered(made, start)
        ready = Ahead(made, most=1, name="feed-windows")
        return Ahead(self._gathered(ready, start), most=self.groups_ahead, name="feed-groups")

    def _gathered(self, ready: Iterator[Window], start: int) -> Iterator[Group]:
        try:
            for window in ready:
                for rows in self._cuts(max(start, window.first), window):
                    yield self._group(window, rows)
        finally:
            if isinstance(ready, Ahead):
                ready.close()

    def _cuts(self, first: int, window: Window) -> Iterator[slice]:
        """Cut the window, from row `first` of the epoch on, where groups end."""
        size = self.group_rows
        while first < window.stop:
            stop = min(window.stop, first - first % size + size)
            yield slice(first - window.first, stop - window.first)
            first = stop

    def _group(self, window: Window, rows: slice) -> Group:
        if window.placed is not None:
            values = [one.take(rows, self.buffers.take) for one in window.placed]
        elif window.values is not None and window.ranks is not None:
            values = [_picked(value, window.ranks[rows]) for value in window.values]
        else:
            values = self.source.values(window.positions[rows])
        return Group(self.finish(values), rows, window.columns)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows that were read together."""

    values: Finished
    """Of each site."""
    at: slice
    """Which rows of the window they are."""
    columns: Columns | None
    """What goes with the rows of the window."""

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.at.stop - self.at.start)

    def cut(self, first: int, stop: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """Return values and columns of some of the rows."""
        named: dict[str, Any] = {}
        if self.columns is not None:
            named = self.columns.take(slice(self.at.start + first, self.at.start + stop))
        return [value[first:stop] for value in self.values.get()], named


class RowStream:
    """The rows of one epoch of one rank from a row on, for `take`.

    Not for several threads at once.
    """

    def __init__(self, feed: Feed, epoch: int, start: int, wrap: Callable[..., Any]) -> None:
        self._groups = feed.groups(epoch, start)
        self._left = max(0, feed.rank.rows(feed.order.rows) - start)
        self._wrap, self._take = wrap, feed.buffers.take
        self._group: Group | None = None
        self._done = 0
        self._closed = False

    def take(self, n: int) -> Any:
        """Return the next `n` rows, fewer at the end: what a batch is, in memory of its own.

        Raises:
            SelectionError: no row is left, or none is asked for.
            StorageError: it was closed, or an error ended it.
        """
        if min(n, self._left) < 1 and not self._closed:
            raise SelectionError(f"take({n!r}): {self._left:,} rows are left of this epoch.")
        try:
            parts = list(self._parts(min(n, self._left)))
        except BaseException:
            # rows may have come that were not handed out: what follows would be others
            self.close()
            raise
        if len(parts) == 1:
            return self._wrap(*parts[0])
        values = [self._one(some) for some in zip(*(part[0] for part in parts), strict=True)]
        names = parts[0][1]
        return self._wrap(values, {name: _joined([p[1][name] for p in parts]) for name in names})

    def _one(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Join rows of several groups, in memory that was in use before: new one takes longer."""
        first = parts[0]
        if first.device.type != "cpu":
            return torch.cat(parts)
        rows = sum(map(len, parts))
        raw = self._take(rows * first[0].nbytes)
        return torch.cat(parts, out=as_tensor(raw, first.dtype, (rows, *first.shape[1:])))

    def _parts(self, n: int) -> Iterator[tuple[list[torch.Tensor], dict[str, Any]]]:
        self._check_open()
        while n:
            group = self._current()
            stop = min(group.rows, self._done + n)
            part = group.cut(self._done, stop)
            n -= stop - self._done
            self._left -= stop - self._done
            self._done = stop
            yield part

    def _current(self) -> Group:
        """Return the group that has rows left."""
        if self._group is None or self._done == self._group.rows:
            self._group, self._done = next(self._groups, None), 0
        if self._group is None:
            # its thread was stopped from elsewhere: rows are left
            self._closed = True
            self._check_open()
        assert self._group is not None
        return self._group

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("this iteration was closed, or an error ended it: begin another.")

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
