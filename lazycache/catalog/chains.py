"""Files of one site, or of one table, in row order: what packs name is placed when asked for.

A chain is the files that packs name, then those of the records after them. The first are looked at
when somebody wants them, so that opening a long log does not decode what is not read. Pure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lazycache.catalog.parts import Parts
from lazycache.errors import CorruptShardError
from lazycache.types import Commit, Drop, ShardRef, TableFileRef

Key = tuple[str, str]
"""`("site", name)` or `("table", name)`: whose files."""

Ref = ShardRef | TableFileRef


@dataclass(frozen=True, slots=True)
class CommitLine:
    """What one commit was, in short."""

    version: int
    """Its version."""
    txn: str
    """Unique id of it; empty if its record is torn."""
    writer: str
    """Who wrote it."""
    time: str
    """UTC, ISO 8601."""
    run: str
    """The run that its rows belong to."""
    shards: int
    """Activation files that it names."""
    nbytes: int
    """Their bytes."""


class Source(Protocol):
    """Commits that follow each other, of which a snapshot asks only what it needs."""

    @property
    def first(self) -> int:
        """Version of its first commit."""
        ...

    @property
    def last(self) -> int:
        """Version of its last commit."""
        ...

    @property
    def keys(self) -> Iterable[Key]:
        """The sites and tables that it has files of."""
        ...

    def rows(self) -> Iterator[tuple[str, Sequence[int], Sequence[int], Sequence[str]]]:
        """Yield for each table the versions that add rows, how many rows, and of which run."""
        ...

    def notes(self) -> Sequence[Commit]:
        """Return the commits that say anything else than files, without their files."""
        ...

    def rewrites(self) -> Sequence[int]:
        """Return the versions that replace files."""
        ...

    def refs(self, key: Key, first: int, last: int) -> Iterator[tuple[int, Ref | Drop]]:
        """Yield version and file, or drop, of what commits `first` to `last` say, in order."""
        ...

    def lines(self, first: int, last: int) -> list[CommitLine]:
        """Return what commits were, in short."""
        ...

    def commits(self, first: int, last: int) -> list[Commit]:
        """Return whole commits; reads their records."""
        ...

    def plain(self) -> Source:
        """Return the same made of the records alone; reads them."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Some commits of a source."""

    source: Source
    """Where they are."""
    first: int
    """Version of the first."""
    last: int
    """Version of the last."""

    def refs(self, key: Key) -> Iterator[tuple[int, Ref | Drop]]:
        """Yield what they say of a site or table."""
        return self.source.refs(key, self.first, self.last)


class Placed(Protocol):
    """A file and where its rows are."""

    @property
    def row_start(self) -> int:
        """Its first row, counted from the first row of the table."""
        ...

    @property
    def ref(self) -> Ref:
        """The file as its commit names it."""
        ...

    @property
    def base(self) -> int:
        """Version of the commit whose first row its own `row_start` counts from."""
        ...


T = TypeVar("T", bound=Placed)


class Packed(Generic[T]):
    """The files that segments name, placed at the first use; later ones cost nothing."""

    def __init__(
        self,
        key: Key,
        segments: Sequence[Segment],
        *,
        parts: Parts,
        make: Callable[[Ref, int, int], T | None],
        check: Callable[[Sequence[T]], None],
    ) -> None:
        self.key = key
        self.segments = tuple(segments)
        self.last = self.segments[-1].last
        """Rows of later commits are behind all of its own."""
        self._parts, self._make, self._check = parts, make, check
        self._files: tuple[T, ...] | None = None

    def files(self) -> tuple[T, ...]:
        """Return them in row order.

        Costs one read per pack at the first use, and time in proportion to the files. Packs that
        contradict themselves are passed over with a `RuntimeWarning`, and the records are read.

        Raises:
            CorruptShardError: the records contradict each other.
        """
        if self._files is None:
            try:
                self._files = self._placed(self.segments)
            except CorruptShardError as exc:
                self._files = self._unpacked()
                warnings.warn(
                    f"Packs of the log are passed over, its records are read: {exc}",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return self._files

    def _unpacked(self) -> tuple[T, ...]:
        """Place what the records say: what is wrong may be the log, or what packs say of rows."""
        plain = [Segment(one.source.plain(), one.first, one.last) for one in self.segments]
        try:
            return self._placed(plain)
        except CorruptShardError as exc:
            raise CorruptShardError(
                f"{exc} If the packs of the log (_log/pack-*) are wrong, delete them."
            ) from exc

    def _placed(self, segments: Sequence[Segment]) -> tuple[T, ...]:
        known: dict[str, T | None] = {}
        for version, what in (one for segment in segments for one in segment.refs(self.key)):
            if isinstance(what, Drop):
                drop_from(known, what, version=version)
            elif what.path in known:
                raise CorruptShardError(
                    f"Commit {version} names {what.path!r}, which is named before."
                )
            else:
                known[what.path] = self._one(what, version)
        files = [one for one in known.values() if one is not None]
        # a file without rows comes before the one that begins at the same row
        files.sort(key=lambda one: (one.row_start, one.ref.rows > 0))
        self._check(files)
        return tuple(files)

    def _one(self, ref: Ref, version: int) -> T | None:
        """Return a file where it is now; None if the run of its rows was removed later."""
        removed = self._parts.gone.get(version if ref.covers is None else ref.covers, 0)
        start = 0 if removed > version else self._parts.start_of(ref, version=version)
        one = self._make(ref, start, version)  # checks it, also if it is no longer needed
        return None if removed > version else one


def drop_from(known: dict[str, T | None], drop: Drop, *, version: int) -> None:
    """Take the files of a drop away.

    Raises:
        CorruptShardError: one of them is not there.
    """
    for path in drop.paths:
        if path not in known:
            raise CorruptShardError(
                f"Commit {version} replaces {path!r}, which is not there to replace."
            )
        del known[path]


@dataclass(frozen=True, slots=True)
class Chain(Generic[T]):
    """The files of a site or table at one version."""

    base: Packed[T] | None = None
    """Those that packs name; None if there are no packs."""
    tail: tuple[T, ...] = ()
    """Those behind them, in row order."""

    def files(self) -> tuple[T, ...]:
        """Return all files in row order; raises and costs as `Packed.files`."""
        if self.base is None:
            return self.tail
        return (*self.base.files(), *self.tail) if self.tail else self.base.files()


class OpenChain(Generic[T]):
    """A `Chain` that still changes."""

    def __init__(self, before: Chain[T]) -> None:
        self._before = before
        self._base = before.base
        self._tail: list[T] | None = None

    def whole(self) -> list[T]:
        """Return all files, to be changed. What packs name is placed."""
        tail = self._mine()
        if self._base is not None:
            tail[:0] = self._base.files()
            self._base = None
        return tail

    def behind(self, version: int) -> list[T]:
        """Return the files, to be changed, of which one whose base is this commit may be one."""
        if self._base is None or version <= self._base.last:
            return self.whole()
        return self._mine()

    def _mine(self) -> list[T]:
        if self._tail is None:
            self._tail = list(self._before.tail)
        return self._tail

    def rest_on(self, base: Packed[T]) -> None:
        """Stand on packs; there is nothing behind them yet."""
        self._base, self._tail = base, []

    def closed(self) -> Chain[T]:
        """Return it as it is now."""
        if self._tail is None and self._base is self._before.base:
            return self._before
        return Chain(self._base, tuple(self._mine()))
