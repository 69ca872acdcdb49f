"""What writers that were killed leave where no listing shows it: unfinished files of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lazycache.storage.failures import explained
from lazycache.storage.layout import FILE_PREFIXES, IDENTITY, LOG_PREFIX
from lazycache.storage.local_store import TEMPORARY
from lazycache.storage.store import Store

_NAME = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object that was begun and not finished."""

    where: Path
    """Its file."""
    size: int
    """Bytes."""
    modified: float
    """When it was last written to, in seconds since the epoch."""


def leftovers(store: Store) -> Iterator[Leftover]:
    """Yield the unfinished files of a dataset in a folder of this machine; elsewhere none.

    Files that are being written are among them. Links are not followed.

    Cost: reads all folders.

    Raises:
        StorageError: a folder cannot be read.
    """
    identity = store.local_path(IDENTITY)
    if identity is None:
        return
    root = identity.parent
    with explained("list", url=store.url, path=".", missing_ok=False):
        yield from _unfinished(root, [entry.name for entry in root.iterdir()])
        for prefix in (LOG_PREFIX, *FILE_PREFIXES):
            for folder, _, names in os.walk(root / prefix, onerror=_raise):
                yield from _unfinished(Path(folder), names)


def remove(store: Store, leftover: Leftover) -> None:
    """Delete an unfinished file; no error if it is not there any more.

    Raises:
        StorageError: it cannot be deleted.
    """
    with explained("delete", url=store.url, path=leftover.where.name, missing_ok=False):
        leftover.where.unlink(missing_ok=True)


def _unfinished(folder: Path, names: list[str]) -> Iterator[Leftover]:
    for name in sorted(filter(_NAME.fullmatch, names)):
        with suppress(FileNotFoundError):  # finished meanwhile
            status = (folder / name).lstat()
            yield Leftover(folder / name, status.st_size, status.st_mtime)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that nobody has needed yet
        raise error
