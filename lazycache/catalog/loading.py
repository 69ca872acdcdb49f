"""From a store to a snapshot: packs of the log as far as there are any, then its records."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from lazycache.catalog.chains import Segment
from lazycache.catalog.identity import read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.log_reading import Contents
from lazycache.catalog.packed_replaying import replay_packed
from lazycache.catalog.packs import TRAILER_BYTES, Pack, covering
from lazycache.catalog.recorded import Recorded
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, LazycacheError
from lazycache.storage.layout import IDENTITY, pack_path
from lazycache.storage.store import Store
from lazycache.types import Identity

_HEAD_GUESS = 256 << 10  # bytes: the head of some thousand commits
_MOST_HEAD = 256 << 20
_KEPT_BYTES = 1 << 20  # a pack up to here is read at once
_PARALLEL = 16

Span = tuple[int, int]


def load_snapshot(store: Store, identity: Identity | None = None) -> Snapshot:
    """Return what a dataset holds now.

    Costs the identity, if it is not given, a listing of the log, one read for each pack, and one
    for each record behind the packs (less than a hundred, where each commit packs). What files a
    site or table has is read from the packs when somebody asks for it. A pack that is damaged, or
    is not of these records, is told in a `RuntimeWarning`, and others or the records are read.

    Raises:
        DatasetNotFoundError: there is no dataset.
        CorruptShardError: a record is damaged, says what cannot be, or is missing.
        FormatVersionError: a newer lazycache wrote it.
        StorageError: the store failed.

    Example:
        >>> from lazycache.catalog.identity import create_dataset
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://loading-doctest", create=True, storage_options=None)
        >>> _ = create_dataset(store)
        >>> load_snapshot(store).version
        0
    """
    identity = identity or read_identity(store)
    log = CommitLog(store)
    contents = log.contents()
    packs = Packs(store, log, uuid=identity.uuid, contents=contents)
    while True:
        segments = packs.segments()
        try:
            snapshot = replay_packed(identity, segments)
        except LazycacheError as exc:
            used = [one.source for one in segments if isinstance(one.source, Pack)]
            if not used:
                raise
            packs.pass_over(used, exc)
        else:
            rest = log.read_whole(snapshot.version, contents)
            return Snapshot.replay(identity, rest, snapshot)


def newer_snapshot(store: Store, snapshot: Snapshot) -> Snapshot:
    """Return what a dataset holds now, which held `snapshot`; the same object if nothing is new.

    Costs one look at the next record if there is none; else a look and a read for each, or a
    listing of the log where they are many.

    Raises:
        CorruptShardError: a new record is damaged, says what cannot be, or is missing.
        FormatVersionError: a newer lazycache wrote it.
        StorageError: the store failed.
    """
    commits = CommitLog(store).read_new(snapshot.version)
    return Snapshot.replay(snapshot.identity, commits, snapshot)


class Packs:
    """The packs of a log that fit its records; each is read at most once.

    Args:
        store: Where the dataset is.
        log: Its log.
        uuid: Of the dataset; packs of others are not used.
        contents: Of the log; packs of other records are not used.
    """

    def __init__(self, store: Store, log: CommitLog, *, uuid: str, contents: Contents) -> None:
        self._store, self._log, self._uuid = store, log, uuid
        self._bytes, self._sizes = contents.packs, np.array(contents.sizes, np.int64)
        self._good = sorted(span for span in contents.packs if span[1] <= len(contents.sizes))
        self._read: dict[Span, Pack] = {}

    def plan(self, first: int, last: int) -> list[tuple[Pack | None, int, int]]:
        """Return which packs have which of some commits; None of those that are in none."""
        while True:
            plan = list(covering(self._good, first, last))
            wanted = [self._good[at] for at, _, _ in plan if at >= 0]
            if self._have([span for span in wanted if span not in self._read]):
                good = self._good
                return [(self._read[good[at]] if at >= 0 else None, a, b) for at, a, b in plan]

    def segments(self) -> list[Segment]:
        """Return what packs have of the first commits; where there is none between two, records."""
        plan = self.plan(1, len(self._sizes))
        while plan and plan[-1][0] is None:
            plan.pop()
        read = self._log.read_range
        return [Segment(one or Recorded(read(a, b)), a, b) for one, a, b in plan]

    def _have(self, spans: Sequence[Span]) -> bool:
        """Read packs; False if one is not good, and so others are needed."""
        whole = True
        for span, pack in self._each(spans):
            if isinstance(pack, Pack):
                self._read[span] = pack
            else:
                whole = False
                self._warn(pack_path(*span), pack)
                self._good.remove(span)
        return whole

    def _each(self, spans: Sequence[Span]) -> Iterator[tuple[Span, Pack | Exception]]:
        if len(spans) < 2 or self._store.local_path(IDENTITY) is not None:  # noqa: PLR2004
            yield from ((span, self._one(span)) for span in spans)
            return
        with ThreadPoolExecutor(_PARALLEL) as pool:
            yield from zip(spans, pool.map(self._one, spans), strict=True)

    def _one(self, span: Span) -> Pack | Exception:
        try:
            return self._opened(span)
        except (LazycacheError, FileNotFoundError) as exc:
            return exc

    def _opened(self, span: Span) -> Pack:
        path, size = pack_path(*span), self._bytes[span]
        kept = self._store.get(path) if size <= _KEPT_BYTES else None
        read = partial(_kept, kept) if kept is not None else partial(_ranged, self._store, path)
        head = _head(read, size if kept is None else len(kept), path)
        pack = Pack(path, head, read=read, size=size, plain=self._log.read_range)
        first, last = span
        if (pack.head.uuid, pack.first, pack.last) != (self._uuid, first, last):
            raise CorruptShardError(f"{path!r} is of another dataset, or of other commits.")
        if not np.array_equal(pack.head.sizes, self._sizes[first - 1 : last]):
            raise CorruptShardError(f"{path!r} is of other records than those that are there.")
        return pack

    def pass_over(self, packs: Sequence[Pack], why: Exception) -> None:
        """Do not use packs that contradict themselves or each other."""
        for pack in packs:
            self._good.remove((pack.first, pack.last))
        self._warn(", ".join(pack.path for pack in packs), why)

    @staticmethod
    def _warn(path: str, why: Exception) -> None:
        warnings.warn(
            f"{path} is passed over, the records of the log are read: {why} It may be deleted.",
            RuntimeWarning,
            stacklevel=2,
        )


def _kept(data: bytes, start: int, stop: int) -> bytes:
    return data[start:stop]


def _ranged(store: Store, path: str, start: int, stop: int) -> bytes:
    return store.get_ranges(path, [(start, stop)])[0]


def _head(read: partial[bytes], size: int, path: str) -> bytes:
    """Return the first line of a pack, whose checksum is right."""
    data = read(0, min(size, _HEAD_GUESS))
    if b"\n" not in data[:-TRAILER_BYTES]:
        data = read(0, min(size, _MOST_HEAD))
    end = data.find(b"\n")
    line, crc = data[:end], data[end + 1 : end + TRAILER_BYTES]
    if end < 0 or crc != b"%08x\n" % zlib.crc32(line):
        raise CorruptShardError(f"The head of {path!r} is damaged.")
    return line
