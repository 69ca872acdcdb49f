"""A store whose log is held back: files are written to it at once, commits all at the end.

So what takes long, writing files, changes nothing that a reader sees; a process that is killed
meanwhile leaves files that no record names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lazycache.catalog.checkpoints import after_commit
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.log import CommitLog
from lazycache.errors import CommitConflictError, DatasetExistsError, StorageError
from lazycache.storage.layout import IDENTITY, LOG_PREFIX
from lazycache.storage.store import ObjectInfo, Store, Upload
from lazycache.types import Commit


class StagedStore:
    """A `Store` with an empty log of its own in memory; all other objects are those of `store`.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://staging-doctest", create=True, storage_options=None)
        >>> staged = StagedStore(store)
        >>> _ = create_dataset(staged)
        >>> store.exists("lazycache.json"), staged.exists("lazycache.json")
        (False, True)
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, bytes] = {}
        self._written: list[str] = []

    @property
    def url(self) -> str:
        """The address of the store."""
        return self._store.url

    @property
    def commits(self) -> list[Commit]:
        """The commits that are held back."""
        return CommitLog(self).read()

    def get(self, path: str) -> bytes:
        """Read a whole object."""
        if not _is_held(path):
            return self._store.get(path)
        if path not in self._held:
            raise FileNotFoundError(path)
        return self._held[path]

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read ranges of an object."""
        return self._store.get_ranges(path, ranges)

    def local_path(self, path: str) -> Path | None:
        """Say where an object is as a file; what is held is none."""
        return None if _is_held(path) else self._store.local_path(path)

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return len(self._held[path]) if path in self._held else self._store.size(path)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return path in self._held if _is_held(path) else self._store.exists(path)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects that are held, and none of the others: a new dataset."""
        for path, data in sorted(self._held.items()):
            if path.startswith(prefix):
                yield ObjectInfo(path, len(data), 0.0)

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object; what is of the log is held."""
        if _is_held(path):
            self._held[path] = data
            return
        self._written.append(path)
        self._store.put(path, data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Hold an object, unless there is one."""
        assert _is_held(path), "only what makes a dataset is put if absent"
        if path in self._held:
            return False
        self._held[path] = data
        return True

    def create(self, path: str) -> Upload:
        """Begin an object that is written in pieces."""
        self._written.append(path)
        return self._store.create(path)

    def delete(self, path: str) -> None:
        """Remove an object."""
        self._store.delete(path)

    def keep(self) -> None:
        """Let `discard` spare what was written until now."""
        self._written.clear()

    def discard(self) -> None:
        """Delete what was written: no commit will name it. Errors are not told."""
        for path in self._written:
            with suppress(StorageError):  # invisible all the same; there is an error to tell
                self._store.delete(path)


def _is_held(path: str) -> bool:
    return path == IDENTITY or path.startswith(LOG_PREFIX)


def publish(
    store: Store, commits: Sequence[Commit], *, create: bool, replaced: Sequence[str]
) -> None:
    """Make a place a dataset of these commits. Their files are there already.

    Args:
        store: The place.
        commits: In order; the dataset has one record for each.
        create: Whether the place is not a dataset yet, or no longer.
        replaced: Objects of the dataset that was there. Its log goes first, newest record first;
            its other files when the new one is visible.

    Raises:
        StorageError: the store failed. What it then holds is what was there, or, if it could not
            be put back either, a dataset with fewer commits, or with none.
        DatasetExistsError: another process has made it a dataset meanwhile.
    """
    before = {path: store.get(path) for path in replaced if _is_held(path)}
    try:
        _become(store, commits, before, create=create)
    except (DatasetExistsError, CommitConflictError):  # what is there now is of others
        raise
    except BaseException:
        _put_back(store, before)
        raise
    for path in replaced:
        if not _is_held(path):
            with suppress(StorageError):  # no record names it any more: it is never read
                store.delete(path)


def _become(
    store: Store, commits: Sequence[Commit], before: Mapping[str, bytes], *, create: bool
) -> None:
    """Remove the identity and the log that were there, and write new ones."""
    for path in sorted(before.keys() - {IDENTITY}, reverse=True):
        store.delete(path)
    if before:
        store.delete(IDENTITY)
    if create:
        create_dataset(store)
    log = CommitLog(store)
    for base, commit in enumerate(commits):
        after_commit(store, log.append(commit, base=base, validate=None).version)


def _put_back(store: Store, before: Mapping[str, bytes]) -> None:
    """Show the dataset again that was to be replaced, as far as the store lets us."""
    if not before:
        return
    with suppress(StorageError, FileNotFoundError):  # there is an error to tell
        now = {info.path for info in store.list("") if _is_held(info.path)}
        for path in sorted(now, reverse=True):
            if store.get(path) != before.get(path):
                store.delete(path)
        for path in (IDENTITY, *sorted(before.keys() - {IDENTITY})):
            store.put_if_absent(path, before[path])
