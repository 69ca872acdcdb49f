"""`lc.gc`: files that nobody needs any more are deleted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

from lazycache.cache.files.parallel import ordered
from lazycache.care.collecting_clock import Times, store_times
from lazycache.care.collecting_files import Needs, is_ours
from lazycache.care.collecting_unfinished import Unfinished, unfinished
from lazycache.care.drafts import Dataset, draft
from lazycache.catalog.identity import read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.named_files import named_files
from lazycache.errors import SelectionError
from lazycache.progress import progress_bar
from lazycache.storage.layout import FILE_PREFIXES, IDENTITY
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import ObjectInfo, Store

GRACE_SECONDS = 86400.0
"""Age below which nothing is deleted: a day."""

_DELETERS = 16
_TOGETHER = 256  # files that are deleted before the log is looked at again


@dataclass(frozen=True, slots=True)
class Collected:
    """What was deleted; of a dry run, what would be."""

    files: int
    """How many files."""
    bytes: int
    """Their bytes."""
    orphans: int
    """Those among them that no commit names: what writers left that were killed."""
    expired: int
    """Versions before this one can no longer be opened; 0: all can."""
    waiting: int
    """Files that nobody needs either, but that are too young yet."""
    paths: tuple[str, ...]
    """The files."""
    refused: str | None
    """Why nothing was deleted, although there may be what nobody needs; None: nothing stood in the
    way."""


def gc(
    url: Url,
    *,
    grace_seconds: float = GRACE_SECONDS,
    keep_versions: int = 1,
    dry_run: bool = False,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Collected:
    """Delete the files of a dataset that nobody needs any more.

    That is: files that no commit names, left by writers that were killed; files that `compact`,
    `remove_run` or a later value of the same name replaced; packs of the log that larger ones have
    replaced; unfinished files and uploads. Each only when it is older than the grace by the clock
    of the store, and is called as a writer calls it: other files in the folder stay. A version that
    needs a file that is deleted cannot be opened any more, and the log says so before the first one
    goes.

    Args:
        url: Folder or URL of the dataset.
        grace_seconds: How long a file must have been there, or must have been replaced. Longer than
            any reader stays with an old version and any writer takes from a file to its commit: a
            writer that takes more than an hour looks before it commits, and fails if its files are
            gone. With less than an hour, nobody else may be writing; with 0, readers of old
            versions lose them.
        keep_versions: How many of the newest versions stay readable, however old they are.
        dry_run: Say what would be deleted, and write nothing; by the clock of this machine.
        progress: Show a bar where a person can see it.
        storage_options: Handed to fsspec.

    Returns:
        What was deleted. Where the store says no times, or its clock was set back, nothing is:
        `refused` and a `RuntimeWarning` say why.

    Cost: reads the log and lists all files; a commit if versions expire; a request for each file
    that is deleted, 16 at a time.

    Raises:
        DatasetNotFoundError: there is no dataset.
        SelectionError: a grace or a number of versions that cannot be.
        CorruptShardError: the log is damaged; nothing was deleted.
        StorageError: the store failed; what was deleted stays so, and the next call goes on.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0") as run:
        ...     for _ in range(2):
        ...         _ = model(torch.ones(4, 2))
        ...         _ = run.commit()
        >>> done = lc.compact(url)
        >>> lc.gc(url).files, lc.gc(url, grace_seconds=0).files
        (0, 4)
    """
    if not 0 <= grace_seconds < inf or type(keep_versions) is not int or keep_versions < 1:
        raise SelectionError(
            "grace_seconds must be a number from 0 on and keep_versions a whole one from 1 on, "
            f"not {grace_seconds!r} and {keep_versions!r}."
        )
    store = open_store(url, create=False, storage_options=storage_options)
    identity = read_identity(store)
    # files before the log: what is committed in between is then named, and is no orphan
    listed = [info for prefix in FILE_PREFIXES for info in store.list(prefix)]
    begun = unfinished(url, store, storage_options)
    times = store_times(store, write=not dry_run)
    needs = Needs.of(identity, CommitLog(store).read())
    found = _found(listed, begun, needs, times, _Limits(grace_seconds, keep_versions))
    refused = times.doubt(info for info in listed if is_ours(info.path))
    if refused is not None:
        return _refused(store, found, needs, refused)
    if not dry_run:
        found = _delete(store, found, needs, progress=progress)
    return found.collected(needs.snapshot.expired)


def _refused(store: Store, found: _Found, needs: Needs, why: str) -> Collected:
    warnings.warn(
        f"Nothing of {store.url} was deleted: {why}. Ages cannot be told.",
        RuntimeWarning,
        stacklevel=3,
    )
    waiting = found.waiting + len(found.all)
    return Collected(0, 0, 0, needs.snapshot.expired, waiting, (), why)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What is asked for."""

    grace: float
    keep: int


@dataclass(frozen=True, slots=True)
class _Found:
    """What may go."""

    orphans: Sequence[ObjectInfo]
    """No commit names them."""
    replaced: Sequence[ObjectInfo]
    """No version needs them that is to be kept."""
    unfinished: Sequence[Unfinished]
    """Their writers have gone."""
    expires: int
    """The first version that needs none of `replaced`."""
    waiting: int
    """Files that may go later."""

    @property
    def all(self) -> list[ObjectInfo | Unfinished]:
        return [*self.orphans, *self.replaced, *self.unfinished]

    def collected(self, expired: int) -> Collected:
        paths = [one.path if isinstance(one, ObjectInfo) else one.name for one in self.all]
        return Collected(
            files=len(paths),
            bytes=sum(one.size for one in self.all),
            orphans=len(paths) - len(self.replaced),
            expired=max(self.expires, expired),
            waiting=self.waiting,
            paths=tuple(paths),
            refused=None,
        )


def _found(
    listed: Sequence[ObjectInfo],
    begun: Sequence[Unfinished],
    needs: Needs,
    times: Times,
    limits: _Limits,
) -> _Found:
    """Sort out what may go."""
    spare = [one for one in listed if is_ours(one.path) and one.path not in needs.live]
    dead = [one for one in spare if one.path in needs.replaced]
    orphans = [one for one in (*spare, *times.spare) if one.path not in needs.replaced]
    gone = [one for one in dead if _may_go(needs.replaced[one.path], needs, times, limits)]
    old = [one for one in orphans if times.now - one.modified >= limits.grace]
    stale = [one for one in begun if times.now - one.modified >= limits.grace]
    kept = len(dead) - len(gone) + len(orphans) - len(old) + len(begun) - len(stale)
    expires = max((needs.replaced[one.path] for one in gone), default=0)
    return _Found(old, gone, stale, expires, kept)


def _may_go(version: int, needs: Needs, times: Times, limits: _Limits) -> bool:
    """Whether files may go that this version was the first not to need."""
    if version <= needs.snapshot.expired:  # the log has said so already
        return True
    kept = version > needs.snapshot.version - limits.keep + 1
    return not kept and times.age_of_commit(version) >= limits.grace


def _delete(store: Store, found: _Found, needs: Needs, *, progress: bool) -> _Found:
    """Say in the log what expires, then delete; return what was deleted."""
    log, version = CommitLog(store), needs.snapshot.version
    if found.expires > needs.snapshot.expired:
        Dataset(store, log, needs.snapshot).commit(draft(expired=found.expires))
    late: set[str] = set()
    kept: set[str] = set()
    workers = 1 if store.local_path(IDENTITY) is not None else _DELETERS
    with progress_bar("gc", total=len(found.all), unit=" files", show=progress) as bar:
        for first in range(0, len(found.all), _TOGETHER):
            # a writer that took longer than the grace from its file to its commit: the file stays
            for commit in log.read_new(version):
                late |= {path for path, _ in named_files(commit)}
                version = commit.version
            batch = found.all[first : first + _TOGETHER]
            kept |= late & {one.path for one in batch if isinstance(one, ObjectInfo)}
            going = [one for one in batch if not (isinstance(one, ObjectInfo) and one.path in kept)]
            for _ in ordered(lambda one: _discard(store, one)(), going, workers=workers):
                bar.advance(1)
    return replace(found, orphans=[one for one in found.orphans if one.path not in kept])


def _discard(store: Store, one: ObjectInfo | Unfinished) -> Callable[[], None]:
    return partial(store.delete, one.path) if isinstance(one, ObjectInfo) else one.discard
