"""The same sites at another version of their dataset."""

from __future__ import annotations

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.catalog.identity import read_identity
from lazycache.catalog.loading import newer_snapshot
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import SelectionError, StorageError
from lazycache.types import IoCounters


def check_version(version: int | None, *, newest: int, url: str, expired: int = 0) -> None:
    """Refuse a version that a dataset does not have, or no longer; None is the newest.

    Raises:
        SelectionError: says which there are.

    Example:
        >>> check_version(3, newest=5, url="acts")
    """
    if version is not None and not 0 <= version <= newest:
        raise SelectionError(f"{url} has no snapshot {version}: its versions are 0 to {newest}.")
    if version is not None and version < expired:
        raise SelectionError(
            f"Snapshot {version} of {url} has expired: files that only versions before {expired} "
            f"need were removed. Its versions are {expired} to {newest}."
        )


def at_version(sites: StoredSites, version: int) -> StoredSites:
    """Return the sites of a version, with counters of their own.

    Cost: an older version reads nothing, a newer one the log records that are new.

    Raises:
        SelectionError: no such version, or it has expired.
        StorageError: the dataset is no longer there, or another one is.
    """
    known = sites.snapshot if version <= sites.version else _newest(sites)
    check_version(version, newest=known.version, url=sites.url, expired=known.expired)
    return sites.showing(known.at(version), io=IoCounters(progress=sites.io.progress))


def newest(sites: StoredSites) -> StoredSites:
    """Return the sites of the newest version; themselves, if they are that.

    What was read before stays counted. Cost: the log records that are new.

    Raises:
        StorageError: the dataset is no longer there, or another one is.
    """
    snapshot = _newest(sites)
    return sites if snapshot is sites.snapshot else sites.showing(snapshot, io=sites.io)


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


def _newest(sites: StoredSites) -> Snapshot:
    check_same(sites)
    return newer_snapshot(sites.store, sites.snapshot)
