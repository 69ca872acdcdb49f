"""`Mixture`: batches with rows of several loaders, as `mix` gives them."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lazycache.faces.html import card, facts, table
from lazycache.feed import state
from lazycache.feed.batches import RowStream
from lazycache.feed.loader import Loader, refuse_workers
from lazycache.feed.merging import merged
from lazycache.feed.mixture_plan import MixturePlan
from lazycache.feed.state import Standing


class Mixture(IterableDataset[Any]):
    """Batches of rows of several loaders, as `lazycache.feed.mix` gives them.

    It is iterated, resumed, closed and given to a `DataLoader` as a `Loader` is; what the loaders
    themselves are asked for meanwhile does not change it, nor it them.

    Example:
        >>> from lazycache.feed import mix
        >>> from lazycache.samples import small_cache
        >>> a, b = (small_cache()["resid_out_0"].loader(1, seed=seed) for seed in (0, 1))
        >>> mixture = mix([a, b], 4)
        >>> [len(batch) for batch in mixture], mixture.epoch
        ([4, 4, 4], 1)
    """

    def __init__(
        self,
        loaders: Sequence[Loader],
        plan: MixturePlan,
        *,
        source: str | None,
        weights: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.loaders = tuple(loaders)
        """What is mixed."""
        self._plan = plan
        self._source = source
        self._weights = None if weights is None else list(weights)
        self._standing = Standing(0, 0)
        self._goes_on = False
        self._turn = 0
        self._streams: weakref.WeakSet[RowStream] = weakref.WeakSet()

    @property
    def batch_size(self) -> int:
        """Rows of a batch; the last one has the rest."""
        return self._plan.batch_size

    @property
    def rows(self) -> int:
        """Rows of an epoch of this rank, of all loaders."""
        return self._plan.total

    @property
    def shares(self) -> tuple[float, ...]:
        """What part of the rows each loader has."""
        return tuple(self._plan.shares.shares.tolist())

    @property
    def epoch(self) -> int:
        """The epoch that is iterated over or, between two, the next one. May be set."""
        return self._standing.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._stand(state.begun(epoch), goes_on=False)

    def __len__(self) -> int:
        """Return how many batches an epoch of this rank has."""
        return self._plan.batches

    def __iter__(self) -> Generator[Any]:
        """Yield the batches of an epoch: the rest of it after `load_state_dict`, else the next.

        Raises:
            SelectionError: in a worker process of a `DataLoader`.
        """
        refuse_workers("mixture")
        standing = self._standing
        if standing.batches and not self._goes_on:
            standing = Standing(standing.epoch + 1, 0)
        self._stand(standing, goes_on=False)
        return self._batches(standing, self._turn)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON holds it; the loaders' own states are not part of it."""
        return state.written(self._standing, self._asked())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was taken: the next iteration gives the rest of its epoch.

        Bit for bit what the mixture would have handed out. Cost: one window of each loader.

        Raises:
            SelectionError: it is of a mixture that hands out other batches; names what differs.

        Example:
            >>> from lazycache.feed import mix
            >>> from lazycache.samples import small_cache
            >>> mixture = mix([small_cache()["resid_out_0"].loader(1)], 2)
            >>> batches = iter(mixture)
            >>> first, state = next(batches), mixture.state_dict()
            >>> rest = list(batches)
            >>> mixture.load_state_dict(state)
            >>> [torch.equal(a, b) for a, b in zip(mixture, rest, strict=True)]
            [True, True]
        """
        found = state.read(state_dict, self._asked(), most=len(self))
        self._stand(found, goes_on=True)

    def close(self) -> None:
        """End the threads of iterations that are going on; the loaders stay as they are."""
        for stream in list(self._streams):
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_streams"}

    def __setstate__(self, known: dict[str, Any]) -> None:
        self.__dict__.update(known, _streams=weakref.WeakSet())

    def __repr__(self) -> str:
        shares = ", ".join(
            f"{share:.3g} of {loader!r}"
            for share, loader in zip(self.shares, self.loaders, strict=True)
        )
        return (
            f"Mixture({self.rows:,} rows in {len(self):,} batches of {self.batch_size:,}: {shares})"
        )

    def _repr_html_(self) -> str:
        """Say the same in a notebook. All text is escaped."""
        said = facts([("rows", self.rows), ("batches", f"{len(self):,} of {self.batch_size:,}")])
        rows = zip(self.shares, map(repr, self.loaders), strict=True)
        shown = table(("share", "loader"), rows, left=("loader",))
        return card(f"{len(self.loaders)} loaders", said, shown, kind="Mixture")

    def _stand(self, standing: Standing, *, goes_on: bool) -> None:
        """Stand somewhere else: iterations that are going on no longer say where."""
        self._standing, self._goes_on = standing, goes_on
        self._turn += 1

    def _asked(self) -> dict[str, Any]:
        """Return what decides which batches there are, as JSON holds it."""
        plan = self._plan
        asked: dict[str, Any] = {
            # as they were given: rows of this rank are not part of it, so any rank may go on
            "weights": self._weights,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
            "until": plan.until,
            "drop_last": plan.drop_last,
            "source": self._source,
        }
        for number, loader in enumerate(self.loaders):
            theirs = loader.asked()
            for own in ("batch_size", "drop_last"):  # of its own batches, not of these
                theirs.pop(own, None)
            asked.update({f"{name} of loader {number}": said for name, said in theirs.items()})
        return asked

    def _batches(self, standing: Standing, turn: int) -> Generator[Any]:
        plan, epoch = self._plan, standing.epoch
        done = plan.before(standing.batches)
        sources = [
            _Passes(self, number, epoch, int(done[number])) for number in range(len(self.loaders))
        ]
        try:
            for batch in range(standing.batches, plan.batches):
                until = plan.before(batch + 1)
                made = self._made(epoch, batch, sources, until - done)
                done = until
                self._note(Standing(epoch, batch + 1), turn)
                yield made
            self._note(Standing(epoch + 1, 0), turn)
        finally:
            for one in sources:
                one.close()

    def _made(self, epoch: int, batch: int, sources: Sequence[_Passes], counts: np.ndarray) -> Any:
        parts = [part for one, n in zip(sources, counts, strict=True) for part in one.take(int(n))]
        places = self._plan.places(epoch, batch, int(counts.sum()))
        made = merged(parts, places)
        if self._source is None:
            return made
        if not isinstance(made, dict):
            made = {self.loaders[0].keys[0]: made}
        of = np.empty(len(places), dtype=np.int64)
        of[places] = np.repeat(np.arange(len(sources)), counts)
        return {**made, self._source: torch.from_numpy(of)}

    def _note(self, standing: Standing, turn: int) -> None:
        """Note how far an iteration is, unless another one has begun since."""
        if turn == self._turn:
            self._standing = standing

    def opened(self, number: int, epoch: int, start: int) -> RowStream:
        """Return rows of a loader, which `close` ends. For this module."""
        stream = self.loaders[number].stream(epoch, start)
        self._streams.add(stream)
        return stream


class _Passes:
    """The rows of one loader in one epoch of a mixture: once, or again and again."""

    def __init__(self, mixture: Mixture, number: int, epoch: int, done: int) -> None:
        self._mixture = mixture
        self._number = number
        self._rows = mixture._plan.rows[number]  # noqa: SLF001  # its own
        # each time in another order, which no other epoch of the mixture has
        self._first = epoch * mixture._plan.passes(number)  # noqa: SLF001
        self._done = done
        self._stream: RowStream | None = None

    def take(self, n: int) -> list[Any]:
        """Return the next `n` rows, as batches."""
        parts = []
        while n:
            number, start = divmod(self._done, self._rows)
            if self._stream is None:
                self._stream = self._mixture.opened(self._number, self._first + number, start)
            some = min(n, self._rows - start)
            parts.append(self._stream.take(some))
            self._done += some
            n -= some
            if start + some == self._rows:
                self.close()
        return parts

    def close(self) -> None:
        """End what reads ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
