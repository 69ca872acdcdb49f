"""`cache.save` and `cache.persist`: from a cache to the files of a dataset."""

from __future__ import annotations

import errno
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.dataset.versions import check_same
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.values.value_trees import Encoder, as_text
from lazycache.catalog.checkpoints import after_commit
from lazycache.catalog.entry_records import MOST_TREE_BYTES
from lazycache.catalog.fields import checked_name
from lazycache.catalog.identity import check_decides, has_card, read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.staging import StagedStore, publish
from lazycache.catalog.target import find_target
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    DatasetNotFoundError,
    LazycacheError,
    ReadOnlyError,
    StorageError,
    UnsupportedDtypeError,
)
from lazycache.mapping.contents import Contents
from lazycache.rewriting import rewrite
from lazycache.row_values import add_sites, as_sites
from lazycache.storage.layout import CARD, FILE_PREFIXES, IDENTITY, LOG_PREFIX
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store
from lazycache.types import Commit, EntryRef
from lazycache.writer.entry_files import EntryFiles, Value

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP}


def save(
    contents: Contents,
    url: Url,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write what a cache has to a new dataset; see `ActivationCache.save`."""
    values = _encoded(contents.values.items())
    store = open_store(url, create=True, storage_options=storage_options)
    _check_not_behind(store, contents.datasets)
    target = find_target(store, resume=False, overwrite=overwrite)
    if target.snapshot is not None or target.replace:
        check_decides(store)
    replaced = _objects(store) if target.replace else []
    staged = StagedStore(store)
    try:
        commits = _rewritten(contents, staged)
        refs = EntryFiles(staged).write(values)
    except BaseException:
        staged.discard()
        raise
    named = _with_entries(commits, refs)
    try:
        publish(store, named, create=target.snapshot is None, replaced=replaced)
    except BaseException:
        if not _may_be_named(store, named):
            staged.discard()
        raise


def persist(sites: StoredSites, values: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    """Add values to the dataset behind a cache; return the version and which are sites there.

    See `ActivationCache.persist`.
    """
    columns = as_sites(sites, values)
    encoded = _encoded((name, value) for name, value in values.items() if name not in columns)
    if not values:
        return sites.version, frozenset()
    check_same(sites)
    return _added(sites, columns, encoded), frozenset(columns)


def _added(sites: StoredSites, columns: Mapping[str, LazyTensor], encoded: Sequence[Value]) -> int:
    """Store sites and values as one commit; return its version."""
    files = EntryFiles(sites.store)
    try:
        if columns:
            check_decides(sites.store)
        refs = files.write(encoded)
    except StorageError as exc:
        files.delete()
        raise _told(exc, sites) from exc
    except BaseException:
        files.delete()
        raise
    try:
        return add_sites(sites, columns, refs) if columns else _append(sites, refs)
    except BaseException as exc:
        if not _may_be_named(sites.store, entries=refs):
            files.delete()
        if columns and isinstance(exc, StorageError):
            raise _told(exc, sites) from exc
        raise


def _append(sites: StoredSites, entries: Sequence[EntryRef]) -> int:
    written = CommitLog(sites.store).append(
        _commit(entries), base=sites.version, validate=None, dataset=sites.snapshot.identity
    )
    after_commit(sites.store, written.version)
    return written.version


def _may_be_named(
    store: Store, commits: Sequence[Commit] = (), entries: Sequence[EntryRef] = ()
) -> bool:
    """Whether a record of the log is one of these commits, or names entries, now or later."""
    if store.local_path(IDENTITY) is None:  # a write that failed may still be on its way
        return True
    ours = {commit.txn for commit in commits}
    try:
        return any(
            commit.txn in ours or any(entry in commit.entries for entry in entries)
            for commit in CommitLog(store).read()
        )
    except (LazycacheError, OSError):
        return True


def _rewritten(contents: Contents, staged: StagedStore) -> list[Commit]:
    """Write the sites that a cache shows; return the commits that name them."""
    if not contents.sites:
        return []
    rewrite(contents.sites, staged)
    return staged.commits


def _encoded(items: Iterable[tuple[Any, Any]]) -> list[Value]:
    """Return values as they are written; all of them are looked at before anything is."""
    return [_value(name, value) for name, value in items]


def _value(name: Any, value: Any) -> Value:
    where = f"cache[{name!r:.80}]"
    if type(name) is not str:
        raise UnsupportedDtypeError(f"{where}: only values under a text as key can be saved.")
    try:
        checked_name(name)
    except CorruptShardError as exc:
        raise UnsupportedDtypeError(
            f"{where} cannot be saved: a key is printable, of 1 to 500 characters."
        ) from exc
    encoder = Encoder(where)
    tree = encoder.tree(value)
    if tree == {"tensor": 0}:
        return Value(name, None, encoder.leaves)
    text = as_text(tree)
    if len(text) > MOST_TREE_BYTES:
        raise UnsupportedDtypeError(
            f"{where} takes {len(text):,} bytes as JSON; {MOST_TREE_BYTES:,} can be saved. Numbers "
            "belong into tensors, not into lists."
        )
    return Value(name, text, encoder.leaves)


def _check_not_behind(store: Store, sites: Iterable[StoredSites]) -> None:
    """Refuse to write over the dataset that is read from."""
    try:
        uuid_there = read_identity(store).uuid
    except DatasetNotFoundError:
        return
    if any(one.snapshot.identity.uuid == uuid_there for one in sites):
        raise DatasetExistsError(
            f"{store.url} is the dataset behind this cache, which is read while it is saved: "
            "cache.persist() adds values to it; save to another address."
        )


def _objects(store: Store) -> list[str]:
    """Return what makes up the dataset that is replaced."""
    ours = (IDENTITY, LOG_PREFIX, *FILE_PREFIXES)
    card = [CARD] if has_card(store) else []
    return [*card, *(info.path for info in store.list("") if info.path.startswith(ours))]


def _with_entries(commits: Sequence[Commit], entries: Sequence[EntryRef]) -> list[Commit]:
    """Return the commits of a new dataset; its values are in the last one."""
    if not entries:
        return list(commits)
    if not commits:
        return [_commit(entries)]
    return [*commits[:-1], replace(commits[-1], entries=tuple(entries))]


def _commit(entries: Sequence[EntryRef]) -> Commit:
    return Commit(
        version=1,
        txn=uuid.uuid4().hex,
        writer=f"{platform.node()}:{os.getpid()}",
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run="",
        entries=tuple(entries),
    )


def _told(exc: StorageError, sites: StoredSites) -> LazycacheError:
    """Return what is told of a store that takes no files."""
    if exc.errno in _DENIED:
        return ReadOnlyError(
            f"{sites.url} cannot be written to ({exc}). Save the cache to another address: "
            "cache.save(url)."
        )
    return exc
