"""The commit log: what makes written files part of the dataset, in one order for everybody.

A commit is one object, `_log/<version>.json`, that is created only if there is none. So of several
writers one gets a version and the others move on to the next; no lock is held by anybody, and a
writer that is killed leaves its commit whole or not at all.

Torn records (see `records`) come only from a kill on a file system without hard links. As the last
record one is ignored: it may be on its way. Once somebody has committed after it, it is an empty
commit for ever; nobody was told that it succeeded.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from lazycache.catalog import records
from lazycache.catalog.conflicts import check_compatible
from lazycache.catalog.identity import create_dataset, read_identity
from lazycache.errors import CommitConflictError, CorruptShardError, StorageError
from lazycache.storage.layout import IDENTITY, LOG_PREFIX, log_path, parse_log_path, parse_pack_path
from lazycache.storage.retrying import patiently
from lazycache.storage.store import ObjectInfo, Store
from lazycache.types import Commit

__all__ = ["CommitLog", "create_dataset", "read_identity"]

_ATTEMPTS = 1000  # lost races in a row before giving up: about 25 seconds
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_TORN_PATIENCE_S = 2.0  # how long a record in writing may take to become whole
_PARALLEL_GETS = 16


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a log consists of."""

    sizes: list[int]
    """Bytes of each record, from that of version 1 on; -1: not known."""
    packs: dict[tuple[int, int], int]
    """First and last version of each pack, and its bytes."""


class CommitLog:
    """The log of one dataset. Holds no state: any number of threads and processes may use it.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://log-doctest", create=True, storage_options=None)
        >>> identity = create_dataset(store)
        >>> log = CommitLog(store)
        >>> draft = Commit(version=0, txn="1f", writer="me", time="2026-01-01", run="main")
        >>> log.append(draft, base=0, validate=None).version
        1
        >>> [commit.txn for commit in log.read()]
        ['1f']
        >>> for info in list(store.list("")):
        ...     store.delete(info.path)
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def store(self) -> Store:
        """Where the dataset is."""
        return self._store

    def read(self, after: int = 0) -> list[Commit]:
        """Return the commits after version `after`, in order, without a hole.

        Costs one listing of the log and one read per commit; remote reads run in parallel. Every
        torn record that is passed over is told in a `RuntimeWarning`.

        Raises:
            CorruptShardError: a record is damaged, says what cannot be, or is missing.
            FormatVersionError: a record needs a newer lazycache.
        """
        return self.read_whole(after, self.contents(after))

    def contents(self, after: int = 0) -> Contents:
        """Return what is in the folder of the log. Costs a listing.

        Raises:
            CorruptShardError: a record after version `after` is missing.
        """
        sizes: dict[int, int] = {}
        packs: dict[tuple[int, int], int] = {}
        for info in self._store.list(LOG_PREFIX):
            if version := parse_log_path(info.path):
                _check_size(info)
                sizes[version] = info.size
            elif span := parse_pack_path(info.path):
                packs[span] = info.size
        self._check_whole(sorted(version for version in sizes if version > after), after=after)
        last = max(sizes, default=0)
        return Contents([sizes.get(version, -1) for version in range(1, last + 1)], packs)

    def read_whole(self, after: int, contents: Contents) -> list[Commit]:
        """Return the commits after version `after` of a log with these contents; as `read`."""
        last = max(after, len(contents.sizes))
        commits = self._read_all(range(after + 1, last + 1))
        for version, commit in enumerate(commits, after + 1):
            if commit is None:
                self._warn_torn(version, last=version == last)
        if commits and commits[-1] is None:
            commits.pop()
        return [commit or records.void(after + 1 + i) for i, commit in enumerate(commits)]

    def read_range(self, first: int, last: int) -> list[Commit]:
        """Return commits `first` to `last`, which are there; a torn one counts as empty.

        Costs one read per commit. Raises as `read` does.
        """
        found = self._read_all(range(first, last + 1))
        return [commit or records.void(first + i) for i, commit in enumerate(found)]

    def records(self, first: int, last: int) -> list[bytes]:
        """Return the bytes of records `first` to `last`, which are there; raises as `read`."""
        return self._all(self._get, range(first, last + 1))

    def _check_whole(self, versions: Sequence[int], *, after: int) -> None:
        """Raise if a record before the last is missing, before any is read."""
        expected = after + 1
        for version in versions:
            # a listing may miss a record that appears while it runs: a look at it decides
            while expected < version and self._store.exists(log_path(expected)):
                expected += 1
            if expected < version:
                which = f"{expected} of {self._store.url} is"
                if version - expected > 1:
                    which = f"{expected} to {version - 1} of {self._store.url} are"
                raise CorruptShardError(
                    f"Log record {which} missing, but {version} is there. Copy the log again from "
                    "where the dataset came from, or remove what is no record of it."
                )
            expected = version + 1

    def _warn_torn(self, version: int, *, last: bool) -> None:
        why = (
            "its writer is still writing it, or was killed"
            if last
            else "its writer was killed, or it was copied in part. Nothing of it is in the dataset"
        )
        warnings.warn(
            f"Log record {version} of {self._store.url} is torn and passed over: {why}.",
            RuntimeWarning,
            stacklevel=4,
        )

    def append(
        self, draft: Commit, *, base: int, validate: Callable[[Commit], None] | None
    ) -> Commit:
        """Make `draft` the commit after everything that is there; return it with its version.

        `base` is the version that the draft was made against. Each commit that others added
        since is checked against the draft, then handed to `validate`, which may raise. Asking
        again with the same `txn` and `base` after an error is safe: nothing is added twice.

        Costs one write and one look at `base`; per commit of others one read.

        Raises:
            CommitConflictError: the draft contradicts a commit of others, or lost every race.
            StorageError: the store failed; if the record arrived all the same, no error.
        """
        assert draft.txn, "a commit has an id of its own"
        self._check_base(base)
        for attempt in range(_ATTEMPTS):
            if (mine := self._try(draft, base + 1)) is not None:
                return mine
            for theirs in self._newer(base):
                if theirs.txn == draft.txn:
                    return theirs
                check_compatible(draft, theirs)
                if validate is not None:
                    validate(theirs)
                base = theirs.version
            longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(attempt, 10))
            time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, not a secret
        raise CommitConflictError(
            f"Other writers were faster {_ATTEMPTS} times in a row at {self._store.url}. "
            "Commit less often: fewer, larger commits."
        )

    def _check_base(self, base: int) -> None:
        """Refuse to leave a hole: the dataset may have been replaced since it was opened."""
        if not self._store.exists(log_path(base) if base else IDENTITY):
            raise CommitConflictError(
                f"Version {base} of {self._store.url}, which this commit is based on, is no longer "
                "there: the dataset was removed or replaced. Open it again."
            )

    def _try(self, draft: Commit, version: int) -> Commit | None:
        """Write the draft as `version`: the commit, or None if somebody else has that version."""
        record = records.encode(replace(draft, version=version))
        try:
            commit = records.decode(record, version=version)
        except CorruptShardError as exc:  # never write what nobody could read
            raise StorageError(f"This commit cannot be written. {exc}") from exc
        return commit if patiently(lambda: self._created(record, version)) else None

    def _created(self, record: bytes, version: int) -> bool:
        """Whether this record is that version now; safe to ask again after an error."""
        try:
            return self._store.put_if_absent(log_path(version), record)
        except StorageError:
            if self._arrived(record, version):
                return True
            raise

    def _arrived(self, record: bytes, version: int) -> bool:
        """Whether a write that failed (a deadline, a lost answer) was done nevertheless."""
        try:
            return self._store.get(log_path(version)) == record
        except (FileNotFoundError, StorageError):  # the first failure is what the caller hears of
            return False

    def _newer(self, base: int) -> Iterator[Commit]:
        """Commits after `base`, one by one, as long as there are more."""
        while (commit := self._whole(base + 1)) is not None:
            yield commit
            base = commit.version

    def _whole(self, version: int) -> Commit | None:
        """Return a commit, waiting a while for a torn record; None if there is no record."""
        patience = time.monotonic() + _TORN_PATIENCE_S
        while True:
            try:
                record = self._store.get(log_path(version))
            except FileNotFoundError:
                return None
            if not records.is_torn(record):
                return records.decode(record, version=version)
            if time.monotonic() > patience:
                return records.void(version)
            time.sleep(_PAUSE_S)

    def _read_all(self, versions: Sequence[int]) -> list[Commit | None]:
        """Read records; None for a torn one."""
        return self._all(self._read_one, versions)

    def _all(self, read: Callable[[int], T], versions: Sequence[int]) -> list[T]:
        if self._store.local_path(IDENTITY) is not None or len(versions) < 2:  # noqa: PLR2004
            return [read(version) for version in versions]
        with ThreadPoolExecutor(_PARALLEL_GETS) as pool:
            return list(pool.map(read, versions))

    def _read_one(self, version: int) -> Commit | None:
        record = self._get(version)
        return None if records.is_torn(record) else records.decode(record, version=version)

    def _get(self, version: int) -> bytes:
        try:
            return self._store.get(log_path(version))
        except FileNotFoundError as exc:
            raise CorruptShardError(
                f"Log record {version} of {self._store.url} is missing, but later ones are there."
            ) from exc


def _check_size(info: ObjectInfo) -> None:
    """Refuse a record that is larger than any, before it is read."""
    if info.size > records.MOST_BYTES:
        raise CorruptShardError(
            f"{info.path} has {info.size:,} bytes; a record of the log has {records.MOST_BYTES:,} "
            "at most. Copy the log again from where the dataset came from."
        )
