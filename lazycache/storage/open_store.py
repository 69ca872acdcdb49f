"""From the address that a user gives to a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lazycache.errors import StorageError
from lazycache.storage.store import Store

Url = str | os.PathLike[str]
"""A folder of this machine, or a URL that fsspec knows."""

_LOCAL = ("file://", "local://")


def open_store(url: Url, *, create: bool, storage_options: Mapping[str, Any] | None) -> Store:
    """Return the store of a folder or URL. Reads nothing.

    A plain path (`~` is the home folder) or `file://` is a folder of this machine, made if
    `create`; anything else with `://` goes to fsspec with `storage_options`.

    Raises:
        StorageError: the folder cannot be made, or no driver for the URL is installed.

    Example:
        >>> open_store("memory://demo", create=False, storage_options=None)
        FsspecStore('memory://demo')
    """
    address = os.fspath(url)
    if not address:
        raise StorageError("The address is empty: give a folder or a URL.")
    if "://" in address and not address.startswith(_LOCAL):
        from lazycache.storage.remote_store import remote_store

        return remote_store(address, storage_options=storage_options or {})
    from lazycache.storage.local_store import LocalStore

    return LocalStore(_folder(address), create=create)


def _folder(address: str) -> Path:
    if not address.startswith(_LOCAL):
        return Path(address).expanduser()
    parts = urlsplit(address)
    if parts.netloc not in {"", "localhost"}:
        raise StorageError(f"{address!r} names another machine: write file:///path, or a path.")
    return Path(unquote(parts.path))
