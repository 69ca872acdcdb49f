"""Commits that look after a dataset: who made them, when; and the dataset that they are made of."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lazycache.catalog.checkpoints import after_commit
from lazycache.catalog.loading import load_snapshot, newer_snapshot
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CommitConflictError, CorruptShardError
from lazycache.storage.store import Store
from lazycache.types import Commit


def draft(**ops: Any) -> Commit:
    """Return a commit of this process that adds no rows; its version is that of the log.

    Example:
        >>> draft(sealed=("main",)).sealed
        ('main',)
    """
    return Commit(
        version=0,
        txn=uuid.uuid4().hex,
        writer=f"{platform.node()}:{os.getpid()}",
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run="",
        **ops,
    )


@dataclass(slots=True)
class Dataset:
    """A dataset that is being looked after, and what it holds as far as is known."""

    store: Store
    """Where it is."""
    log: CommitLog
    """Its log."""
    snapshot: Snapshot
    """Its newest version when it was last looked at."""

    @staticmethod
    def read(store: Store) -> Dataset:
        """Read the log of a dataset, as far as there are packs of it from these.

        Raises:
            DatasetNotFoundError: there is none.
            CorruptShardError: the log is damaged.
        """
        return Dataset(store, CommitLog(store), load_snapshot(store))

    def refresh(self) -> None:
        """Take over what others have committed meanwhile."""
        self.snapshot = newer_snapshot(self.store, self.snapshot)

    def commit(self, commit: Commit, *, since: float | None = None) -> Commit:
        """Make a draft the next commit, and take over what others have committed before it.

        A draft that does not fit the dataset as it is now is refused before anything is written.
        `since` is when the first of its files was begun, in seconds since the epoch.

        Raises:
            CommitConflictError: somebody changed what it is about. It is not in the log.
            StorageError: the store failed; it may be in the log.
        """
        after = replace(commit, version=self.snapshot.version + 1)
        try:
            Snapshot.replay(self.snapshot.identity, [after], self.snapshot)
        except CorruptShardError as exc:
            raise CommitConflictError(
                f"Others have changed {self.store.url} meanwhile, and what was to be committed no "
                f"longer fits: {exc} Nothing was changed: begin again."
            ) from exc
        written = self.log.append(
            commit,
            base=self.snapshot.version,
            validate=None,
            dataset=self.snapshot.identity,
            since=since,
        )
        after_commit(self.store, written.version)
        self.refresh()
        return written
