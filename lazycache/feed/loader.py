"""`Loader`: batches of rows for training, in an order that is a function of its arguments."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lazycache.errors import SelectionError
from lazycache.feed import state
from lazycache.feed.batches import Feed, RowStream
from lazycache.feed.loader_faces import as_html, in_words
from lazycache.feed.state import Standing


class Loader(IterableDataset[Any]):
    """Batches of rows of stored activations, as `x.loader(...)` and `cache.loader(...)` give them.

    Iterating is one epoch of this rank's rows; the next iteration is the next epoch, in another
    order. An epoch that was broken off is not gone on with, unless by `load_state_dict`. A batch of
    one site, or of a stack, is a tensor [rows, *row]; with columns, or of several sites, a dict of
    tensors (of text: lists) by name. It is the caller's own.

    Goes into `torch.utils.data.DataLoader(loader, batch_size=None)`, without its workers: reading
    ahead is done here, on threads. These end with the iteration, by `close`, and when nobody uses
    it any more. May be pickled, as an address; not for several threads at once.

    Example:
        >>> from lazycache.samples import small_cache
        >>> loader = small_cache()["resid_out_0"].loader(4, shuffle=False)
        >>> [batch.shape for batch in loader], loader.epoch
        ([torch.Size([4, 2]), torch.Size([2, 2])], 1)
        >>> loader.state_dict()["batches"]
        0
    """

    def __init__(
        self,
        feed: Feed,
        *,
        asked: Mapping[str, Any],
        names: tuple[str, ...],
        column_names: Mapping[str, str],
        norm: Any,
        drop_last: bool,
    ) -> None:
        super().__init__()
        self._feed = feed
        self._asked = dict(asked)
        self._names = names
        self._column_names = dict(column_names)
        self.norm = norm
        """What is done to values: a `Norm`, or the function that was given; of several sites a
        dict of them by name. None: nothing."""
        self._drop_last = drop_last
        self._standing = Standing(0, 0)
        self._goes_on = False
        self._streams: list[weakref.ref[RowStream]] = []
        self._current: weakref.ref[_Batches] | None = None

    @property
    def batch_size(self) -> int:
        """Rows of a batch; the last one has the rest."""
        return self._feed.batch_rows

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that are fed."""
        return tuple(self._feed.source.sites)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that go with them."""
        return tuple(self._column_names)

    @property
    def column_dtypes(self) -> dict[str, str]:
        """What a batch has of each column: the name of a dtype, or `text`."""
        if self._feed.columns is None:
            return {}
        dtypes = self._feed.columns.dtypes
        return {name: dtypes[asked] for name, asked in self._column_names.items()}

    @property
    def rows(self) -> int:
        """Rows of an epoch of this rank."""
        own = self._feed.rank.rows(self.total_rows)
        return min(own, len(self) * self.batch_size)

    @property
    def total_rows(self) -> int:
        """Rows that are selected, those of all ranks."""
        return self._feed.source.rows

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self._feed.rank.rank

    @property
    def world_size(self) -> int:
        """How many ranks share the rows."""
        return self._feed.rank.world_size

    @property
    def epoch(self) -> int:
        """The epoch that is iterated over or, between two, the next one. May be set."""
        return self._standing.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._standing, self._goes_on, self._current = state.begun(epoch), False, None

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors of values in a batch that is a dict."""
        return self._names

    @property
    def device(self) -> torch.device:
        """Where batches are handed out."""
        return self._feed.finish.device or torch.device("cpu")

    @property
    def row_shape(self) -> Any:
        """Shape of a row of what is handed out; of several sites a dict by name."""
        sites = self._feed.source.sites
        shapes = {name: tuple(x.row_shape) for name, x in sites.items()}
        if self._feed.finish.stacked:
            return (len(sites), *next(iter(shapes.values())))
        return shapes if len(shapes) > 1 else next(iter(shapes.values()))

    @property
    def dtype(self) -> Any:
        """Dtype of what is handed out; of several sites a dict by name."""
        found = {
            name: self._feed.finish.dtype_of(place, x.dtype)
            for place, (name, x) in enumerate(self._feed.source.sites.items())
        }
        several = len(found) > 1 and not self._feed.finish.stacked
        return found if several else next(iter(found.values()))

    def __len__(self) -> int:
        """Return how many batches an epoch of this rank has."""
        return self._feed.rank.batches(
            self.total_rows, batch_size=self.batch_size, drop_last=self._drop_last
        )

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of an epoch: the rest of it after `load_state_dict`, else the next.

        Raises:
            SelectionError: in a worker process of a `DataLoader`.
        """
        refuse_workers("loader")
        if self._standing.batches and not self._goes_on:
            self._standing = Standing(self._standing.epoch + 1, 0)
        self._goes_on = False
        batches = _Batches(self, self._standing)
        self._current = weakref.ref(batches)
        return batches

    def stream(self, epoch: int, start: int = 0) -> RowStream:
        """Return the rows of an epoch of this rank from row `start` on, for `.take(n)`.

        Independent of `batch_size` and of iterations; they do not change `state_dict`.

        Cost: a window of rows is read ahead, on a thread that `close` ends.

        Example:
            >>> from lazycache.samples import small_cache
            >>> with small_cache()["resid_out_0"].loader(2, shuffle=False) as loader:
            ...     loader.stream(epoch=0, start=4).take(2)
            tensor([[ 8.,  9.],
                    [10., 11.]])
        """
        stream = RowStream(self._feed, epoch, start, self._wrapped)
        self._streams = [one for one in self._streams if one() is not None]
        self._streams.append(weakref.ref(stream))
        return stream

    def asked(self) -> dict[str, Any]:
        """Return what decides which batches there are, as JSON holds it; what a state names."""
        return dict(self._asked)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON holds it: what was handed out, not what was read ahead.

        Any rank may load it, of the same number of ranks.

        Example:
            >>> from lazycache.samples import small_cache
            >>> loader = small_cache()["resid_out_0"].loader(2)
            >>> batches = iter(loader)
            >>> first, state = next(batches), loader.state_dict()
            >>> rest = list(batches)
            >>> loader.load_state_dict(state)
            >>> [bool((a == b).all()) for a, b in zip(loader, rest, strict=True)]
            [True, True]
        """
        return state.written(self._standing, self._asked)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was taken: the next iteration gives the rest of its epoch.

        Bit for bit what the loader would have handed out. For an example see `state_dict`.

        Cost: one window of rows.

        Raises:
            SelectionError: it is of a loader that hands out other batches; names what differs.
        """
        rank = self._feed.rank
        most = max(len(self), rank.most_batches(self.total_rows, self.batch_size))
        found = state.read(state_dict, self._asked, most=most)
        # a rank may have a batch less than that which the state is of
        self._standing = Standing(found.epoch, min(found.batches, len(self)))
        self._goes_on, self._current = True, None

    def close(self) -> None:
        """End the threads of iterations that are going on, which cannot be gone on with then."""
        for one in self._streams:
            stream = one()
            if stream is not None:
                stream.close()
        self._streams = []
        self._feed.buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streams": [], "_current": None}

    def _repr_html_(self) -> str:
        """Say in a notebook what `repr` says. All text is escaped."""
        return as_html(self, self._feed.order, self.rows * self._feed.source.row_bytes)

    def __repr__(self) -> str:
        nbytes = self.rows * self._feed.source.row_bytes
        rank = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return (
            f"Loader({', '.join((*self.sites, *self.columns))}: {self.rows:,} rows in "
            f"{len(self):,} batches of {self.batch_size:,}, {in_words(self._feed.order)}{rank}, "
            f"{nbytes:,} bytes)"
        )

    def _wrapped(self, values: list[torch.Tensor], columns: Mapping[str, Any]) -> Any:
        """Return a batch: a tensor where it is one, else a dict."""
        if len(values) == 1 and not self._column_names:
            return values[0]
        named: dict[str, Any] = dict(zip(self._names, values, strict=True))
        for name, asked in self._column_names.items():
            named[name] = columns[asked]
        return named

    def _handed_out(self, batches: _Batches, standing: Standing) -> None:
        """Note how far the iteration is, unless another one has begun since."""
        if self._current is not None and self._current() is batches:
            self._standing = standing


def refuse_workers(what: str) -> None:
    """Refuse to iterate over a loader or a mixture, as `what` says, in a worker process.

    Raises:
        SelectionError: this is a worker process of a `DataLoader`.
    """
    if get_worker_info() is not None:
        raise SelectionError(
            f"this {what} reads ahead by itself: DataLoader({what}, batch_size=None, "
            "num_workers=0). Workers would each hand out all rows, through a pipe."
        )


class _Batches(Iterator[Any]):
    """One epoch, from a batch on."""

    def __init__(self, loader: Loader, standing: Standing) -> None:
        self._loader = loader
        self._standing = standing
        self._stream = loader.stream(standing.epoch, standing.batches * loader.batch_size)

    def __next__(self) -> Any:
        done = self._standing
        if done.batches >= len(self._loader):
            self._stream.close()
            self._loader._handed_out(self, Standing(done.epoch + 1, 0))  # noqa: SLF001  # its own
            raise StopIteration
        left = self._loader.rows - done.batches * self._loader.batch_size
        batch = self._stream.take(min(self._loader.batch_size, left))
        self._standing = Standing(done.epoch, done.batches + 1)
        self._loader._handed_out(self, self._standing)  # noqa: SLF001  # its own
        return batch
