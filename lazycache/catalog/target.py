"""Where a capture writes to: a new dataset, one that is continued, or one that is replaced."""

from __future__ import annotations

from dataclasses import dataclass

from lazycache.catalog.identity import (
    check_decides,
    create_dataset,
    foreign_files,
    has_card,
    read_identity,
    refuse_foreign,
)
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import DatasetExistsError, DatasetNotFoundError
from lazycache.storage.layout import CARD, FILE_PREFIXES, IDENTITY, LOG_PREFIX
from lazycache.storage.store import Store


@dataclass(frozen=True, slots=True)
class Target:
    """A place to write to, looked at but not touched yet."""

    snapshot: Snapshot | None
    """What is there and stays; None if a dataset is created."""
    replace: bool
    """Whether a dataset that is there is removed first."""
    resume: bool
    """Whether a dataset that another process makes meanwhile is as welcome as an own one."""

    def prepare(self, store: Store) -> Snapshot:
        """Make the place a dataset to write to; return what it holds. The first write.

        Raises:
            StorageError: the store failed, or does not decide who is first; then nothing changed.
        """
        if self.snapshot is not None or self.replace:
            check_decides(store)
        if self.snapshot is not None:
            return self.snapshot
        if self.replace:
            remove_dataset(store)
        try:
            return Snapshot.replay(create_dataset(store), [])
        except DatasetExistsError:
            if not self.resume:
                raise
            return load_snapshot(store)


def find_target(store: Store, *, resume: bool, overwrite: bool) -> Target:
    """Look at a place and decide what writing to it means. Nothing is written.

    A dataset without a commit counts as empty: it may be what an interrupted start left.

    Raises:
        DatasetExistsError: a dataset with rows is there and neither `resume` nor `overwrite` is
            said, or the folder holds files of another kind, which `overwrite` never removes.
    """
    try:
        identity = read_identity(store)
    except DatasetNotFoundError:
        refuse_foreign(store)
        return Target(None, replace=False, resume=resume)
    if overwrite:
        _check_own(store)
        return Target(None, replace=True, resume=resume)
    snapshot = load_snapshot(store, identity)
    if snapshot.version and not resume:
        raise DatasetExistsError(
            f"{store.url} already holds a dataset (version {snapshot.version}, "
            f"{snapshot.rows('tokens'):,} tokens of {snapshot.rows('examples'):,} examples). "
            "Open it with lc.open(url), add to it with resume=True, or replace it with "
            "overwrite=True."
        )
    return Target(snapshot, replace=False, resume=resume)


def remove_dataset(store: Store) -> None:
    """Remove a dataset: its log first, so that a half removed one is an empty dataset, not a lie.

    Raises:
        DatasetNotFoundError: the place holds no dataset; nothing is removed.
        DatasetExistsError: it also holds files of another kind; nothing is removed.
    """
    read_identity(store)
    _check_own(store)
    paths = [info.path for info in store.list("")]
    log = sorted((path for path in paths if path.startswith(LOG_PREFIX)), reverse=True)
    data = [path for path in paths if path.startswith(FILE_PREFIXES)]
    card = [CARD] if has_card(store) else []
    for path in (*log, *data, *card):
        store.delete(path)
    # a writer that had looked before has perhaps committed: no dataset shall begin with its record
    late = sorted((info.path for info in store.list(LOG_PREFIX)), reverse=True)
    for path in (*late, IDENTITY):
        store.delete(path)


def _check_own(store: Store) -> None:
    if foreign := foreign_files(store):
        raise DatasetExistsError(
            f"{store.url} holds files that are not of its dataset ({foreign}); nothing was "
            "removed. Move them away, or choose another folder."
        )
