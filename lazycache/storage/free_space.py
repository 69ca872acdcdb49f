"""How much room is left where a dataset is, or will be."""

from __future__ import annotations

import shutil

from lazycache.errors import StorageError
from lazycache.storage.layout import IDENTITY
from lazycache.storage.store import Store


def free_bytes(store: Store) -> int | None:
    """Return the bytes that can still be written; None of a bucket, which does not say.

    Cost: one system call. The folder of the dataset need not exist.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> free_bytes(open_store("memory://free", create=False, storage_options=None)) is None
        True
    """
    try:
        where = store.local_path(IDENTITY)
    except StorageError:  # a link that leads out of the dataset: who reads or writes it will say so
        return None
    if where is None:
        return None
    folder = next(parent for parent in where.parents if parent.is_dir())
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
