"""The files that a commit names: which they are, and whether they are still there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from lazycache.catalog.entry_records import entry_lengths
from lazycache.errors import CommitConflictError
from lazycache.storage.layout import IDENTITY
from lazycache.storage.store import Store
from lazycache.types import Commit

LATE_S = 3600.0
"""Age of files from which on a commit looks whether somebody has cleaned them up."""

_PARALLEL_LOOKS = 16


def named_files(commit: Commit) -> list[tuple[str, int]]:
    """Return the files that a commit names as its own, with their lengths. Pure.

    Example:
        >>> named_files(Commit(version=1, txn="t", writer="w", time="now", run="main"))
        []
    """
    files = [(file.path, file.length) for file in commit.tables]
    files += entry_lengths(commit.entries)
    files += [(shard.path, shard.length) for shard in commit.shards]
    stats = [shard.stats for shard in commit.shards if shard.stats is not None]
    files += [(one.path, one.length) for one in stats]
    return files + [(array.path, array.length) for array in commit.arrays]


def check_still_there(store: Store, commit: Commit, *, since: float) -> None:
    """Refuse to commit files that `gc` has taken for those of a killed writer.

    Args:
        store: Where they are.
        commit: What is to be committed.
        since: When the first of them was begun, in seconds since the epoch.

    Cost: nothing for files of the last hour; else one look at each, 16 at a time.

    Raises:
        CommitConflictError: a file is gone.
        StorageError: the store failed.
    """
    if time.time() - since < LATE_S:
        return
    paths = [path for path, _ in named_files(commit)]
    with ThreadPoolExecutor(1 if store.local_path(IDENTITY) else _PARALLEL_LOOKS) as pool:
        gone = [
            path
            for path, there in zip(paths, pool.map(store.exists, paths), strict=True)
            if not there
        ]
    if gone:
        raise CommitConflictError(
            f"{len(gone)} of the {len(paths)} files of this commit are gone from {store.url}, "
            f"{gone[0]!r} first: they were begun more than an hour ago, and gc was run with less "
            "grace than that. None of this commit is in the dataset. Write it again, commit more "
            "often, and give gc a longer grace_seconds."
        )
