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
from collections.abc import Callable, Iterator
from dataclasses import replace

from lazycache.catalog import records
from lazycache.catalog.conflicts import check_compatible
from lazycache.catalog.identity import create_dataset, read_identity
from lazycache.catalog.log_reading import LogReader
from lazycache.catalog.named_files import check_still_there
from lazycache.errors import (
    CommitConflictError,
    CorruptShardError,
    DatasetNotFoundError,
    StorageError,
)
from lazycache.storage.layout import IDENTITY, log_path
from lazycache.storage.retrying import patiently
from lazycache.types import Commit, Identity

__all__ = ["CommitLog", "create_dataset", "read_identity"]

_ATTEMPTS = 1000  # lost races in a row before giving up: about 25 seconds
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_TORN_PATIENCE_S = 2.0  # how long a record in writing may take to become whole


class CommitLog(LogReader):
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

    def append(
        self,
        draft: Commit,
        *,
        base: int,
        validate: Callable[[Commit], Commit | None] | None,
        dataset: Identity | None = None,
        since: float | None = None,
    ) -> Commit:
        """Make `draft` the commit after everything that is there; return it with its version.

        `base` is the version that the draft was made against. Each commit that others added
        since is checked against the draft, then handed to `validate`, which may raise, or return
        the draft that takes its place. Asking again with the same `txn` and `base` after an error
        is safe: nothing is added twice. `dataset` is the one that the draft is for: not one that
        has taken its place meanwhile. `since` is when its first file was begun, in seconds since
        the epoch: after an hour `gc` may have taken them for those of a killed writer.

        Costs one write, one look at `base` and one at `dataset`; per commit of others one read;
        after an hour, a look at each file.

        Raises:
            CommitConflictError: the draft contradicts a commit of others, its files are gone, or it
                lost every race.
            StorageError: the store failed; if the record arrived all the same, no error.
        """
        assert draft.txn, "a commit has an id of its own"
        self._check_base(base, dataset)
        if since is not None:
            check_still_there(self._store, draft, since=since)
        for attempt in range(_ATTEMPTS):
            if (mine := self._try(draft, base + 1)) is not None:
                return mine
            for theirs in self._newer(base):
                if theirs.txn == draft.txn:
                    return theirs
                check_compatible(draft, theirs)
                if validate is not None:
                    draft = validate(theirs) or draft
                base = theirs.version
            longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(attempt, 10))
            time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, not a secret
        raise CommitConflictError(
            f"Other writers were faster {_ATTEMPTS} times in a row at {self._store.url}. "
            "Commit less often: fewer, larger commits."
        )

    def _check_base(self, base: int, dataset: Identity | None) -> None:
        """Refuse to leave a hole, or to add to another dataset: it may have been replaced."""
        there = self._store.exists(log_path(base) if base else IDENTITY)
        if not there or (dataset is not None and not self._is_there(dataset)):
            raise CommitConflictError(
                f"Version {base} of {self._store.url}, which this commit is based on, is no longer "
                "there: the dataset was removed or replaced. Open it again."
            )

    def _is_there(self, dataset: Identity) -> bool:
        """Whether the place still holds this dataset."""
        try:
            return read_identity(self._store).uuid == dataset.uuid
        except DatasetNotFoundError:
            return False

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
