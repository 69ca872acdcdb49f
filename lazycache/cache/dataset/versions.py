"""The same sites at another version of their dataset."""

from __future__ import annotations

from collections.abc import Sequence

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.catalog.identity import read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import SelectionError, StorageError
from lazycache.types import Commit, IoCounters


def check_version(version: int | None, *, newest: int, url: str) -> None:
    """Refuse a version that a dataset does not have; None is the newest.

    Raises:
        SelectionError: says which there are.

    Example:
        >>> check_version(3, newest=5, url="acts")
    """
    if version is not None and not 0 <= version <= newest:
        raise SelectionError(f"{url} has no snapshot {version}: its versions are 0 to {newest}.")


def at_version(sites: StoredSites, version: int) -> StoredSites:
    """Return the sites of a version, with counters of their own.

    Cost: an older version reads nothing, a newer one the log records that are new.

    Raises:
        SelectionError: no such version.
        StorageError: the dataset is no longer there, or another one is.
    """
    commits = list(sites.snapshot.commits)
    if version > len(commits):
        commits += _newer(sites)
    check_version(version, newest=len(commits), url=sites.url)
    replayed = Snapshot.replay(sites.snapshot.identity, commits[:version])
    return sites.showing(replayed, io=IoCounters())


def newest(sites: StoredSites) -> StoredSites:
    """Return the sites of the newest version; themselves, if they are that.

    What was read before stays counted. Cost: the log records that are new.

    Raises:
        StorageError: the dataset is no longer there, or another one is.
    """
    commits = _newer(sites)
    if not commits:
        return sites
    snapshot = Snapshot.replay(sites.snapshot.identity, commits, sites.snapshot)
    return sites.showing(snapshot, io=sites.io)


def check_same(sites: StoredSites) -> None:
    """Refuse a dataset that was replaced since it was opened. Reads its identity.

    Raises:
        StorageError: another dataset is there.
        DatasetNotFoundError: none is there.
    """
    if read_identity(sites.store).uuid != sites.snapshot.identity.uuid:
        raise StorageError(
            f"{sites.url} is another dataset by now: it was replaced. Open it with lc.open(url)."
        )


def _newer(sites: StoredSites) -> Sequence[Commit]:
    check_same(sites)
    return CommitLog(sites.store).read(after=sites.version)
