"""`lc.open`: from an address to the cache. Loads what reads, and nothing of what captures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch

from lazycache.cache.dataset.connection import Connection
from lazycache.cache.dataset.stored_sites import BUDGET_BYTES, StoredSites
from lazycache.cache.dataset.versions import check_version
from lazycache.cache.reading.address import Address
from lazycache.cache.reading.reader import Reader
from lazycache.catalog.identity import read_identity
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import StorageError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.storage.layout import IDENTITY
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store
from lazycache.types import IoCounters


def open(  # noqa: A001  # lc.open reads as what it does; the builtin is not used here
    url: Url,
    *,
    snapshot: int | None = None,
    where: str | None = None,
    device: torch.device | str = "cpu",
    check: bool = False,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> ActivationCache:
    """Open a dataset to read it.

    Args:
        url: Its folder or URL.
        snapshot: Version to read; None is the newest.
        where: Condition in SQL on the rows to show; as `ActivationCache.where`. None: all rows.
        device: Where values are loaded to.
        check: Compare the checksum of every chunk when it is first touched (about 2 GB/s, once).
        progress: Whether reads that take longer than two seconds show a bar where a person can see
            it; `cache.progress` changes it.
        storage_options: Handed to fsspec.

    Returns:
        The cache: its sites as lazy tensors, then the values that were saved or persisted.

    Raises:
        DatasetNotFoundError: there is no dataset; says what is there instead.
        FormatVersionError: a newer lazycache wrote it.
        CorruptShardError: the log is damaged.
        SelectionError: no such snapshot, or files that it needs may be gone.
        QueryError: `where` names no column, or is not one expression.

    Cost: reads the identity and the log: a listing, its packs, and one small file for each commit
    behind them; no activation and no table. A condition asks the tables. Of the library itself only
    what reads is loaded.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> list(lc.open(url))
        ['0:out']
    """
    stored = _stored(url, snapshot, check=check, storage_options=storage_options)
    cache = ActivationCache(stored=stored if where is None else stored.where(where, closing=True))
    cache.progress = progress
    if torch.device(device).type != "cpu":
        cache.to(device)
    return cache


def reopen(address: Address) -> StoredSites:
    """Return the sites at an address: what was pickled of a cache, or of a lazy tensor.

    All that was pickled with one address shares what is opened here, as long as it is used.

    Raises:
        DatasetNotFoundError: there is no dataset.
        StorageError: there is another dataset, or not this version of it.
    """
    key = address.key
    with _LOCK:
        known = _REOPENED.get(key)
        if known is not None and not known.closed:
            return known
        sites = _REOPENED[key] = _again(address)
    return sites


def _again(address: Address) -> StoredSites:
    options = address.storage_options
    store = open_store(address.url, create=False, storage_options=options)
    if read_identity(store).uuid != address.uuid:
        raise StorageError(
            f"{store.url} is another dataset than the one that was pickled: it was replaced. Open "
            "it with lc.open(url)."
        )
    sites = _stored(
        address.url,
        address.version,
        check=address.check,
        storage_options=options,
        budget_bytes=address.budget_bytes,
    )
    for condition, params in address.where:
        sites = sites.where(condition, params, closing=True)
    return sites


def _stored(
    url: Url,
    version: int | None,
    *,
    check: bool,
    storage_options: Mapping[str, Any] | None,
    budget_bytes: int = BUDGET_BYTES,
) -> StoredSites:
    """Return the sites of a version of a dataset; None is the newest."""
    store = open_store(url, create=False, storage_options=storage_options)
    newest = load_snapshot(store)
    check_version(version, newest=newest.version, url=store.url, expired=newest.expired)
    return StoredSites(
        store,
        newest if version is None else newest.at(version),
        io=IoCounters(),
        check=check,
        budget_bytes=budget_bytes,
        connect=answering,
        # what a store calls itself lacks passwords; a folder is known by its absolute path
        location=None if store.local_path(IDENTITY) else os.fspath(url),
        storage_options=storage_options,
    )


_LOCK = threading.Lock()
_REOPENED: WeakValueDictionary[str, StoredSites] = WeakValueDictionary()


def answering(
    snapshot: Snapshot,
    reader: Reader,
    store: Store,
    *,
    kept: Mapping[str, tuple[Any, Any]] | None,
    statistics: Callable[[str], Any],
) -> Connection:
    """Return what answers SQL, of the rows that are kept. Loads DuckDB: reading does without it."""
    from lazycache.query.sql import connection

    return connection.connect(snapshot, reader, store, kept=kept, statistics=statistics)
