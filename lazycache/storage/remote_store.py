"""Which store serves an address that is no folder of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.http_store import HttpStore
from lazycache.storage.retrying import RetryingStore
from lazycache.storage.store import Store

_HTTP = ("http://", "https://")


def remote_store(url: str, *, storage_options: Mapping[str, Any]) -> Store:
    """Return the store of a URL: retrying, but for `memory://`, which does not fail for a moment.

    Raises:
        StorageError: no driver for the URL is installed, or it refuses the options.

    Example:
        >>> remote_store("memory://demo", storage_options={})
        FsspecStore('memory://demo')
    """
    kind = HttpStore if url.lower().startswith(_HTTP) else FsspecStore
    store = kind(url, storage_options=storage_options)
    return store if url.startswith("memory://") else RetryingStore(store)
