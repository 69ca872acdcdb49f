"""What was begun and never finished: temporary files of a folder, multipart uploads of a bucket."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lazycache.errors import StorageError
from lazycache.storage.leftovers import leftovers, remove
from lazycache.storage.open_store import Url
from lazycache.storage.stale_uploads import StaleUploads
from lazycache.storage.store import Store


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One of them; its writer may still be at it."""

    name: str
    """What it is called."""
    size: int
    """Bytes; 0 where the store does not say."""
    modified: float
    """Seconds since the epoch: when a file was last written to, when an upload was begun."""
    discard: Callable[[], None]
    """Removes it; raises `StorageError`."""


def unfinished(
    url: Url, store: Store, storage_options: Mapping[str, Any] | None
) -> list[Unfinished]:
    """Return what is unfinished in a dataset.

    Where uploads cannot be listed, a `RuntimeWarning` says why.

    Cost: reads all folders of this machine; in a bucket a request for a thousand uploads.

    Raises:
        StorageError: a folder cannot be read.
    """
    found = [
        Unfinished(str(one.where), one.size, one.modified, partial(remove, store, one))
        for one in leftovers(store)
    ]
    try:
        uploads = StaleUploads(url, storage_options=storage_options)
        for upload in uploads.list():
            name = f"upload {upload.id} of {upload.path}"
            found.append(Unfinished(name, 0, upload.begun, partial(uploads.abort, upload)))
    except StorageError as exc:
        warnings.warn(
            f"Uploads that were never finished stay where they are: {exc}",
            RuntimeWarning,
            stacklevel=3,
        )
    return found
