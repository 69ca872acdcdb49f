"""A folder that is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lazycache.errors import DatasetExistsError, StorageError
from lazycache.storage.failures import explained


def checked_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder that will be made. Writes nothing.

    Raises:
        DatasetExistsError: something is there; an empty folder is nothing.
        StorageError: it is no folder of this machine.
    """
    text = os.fspath(out)
    if "://" in text:
        raise StorageError(
            f"An export goes to a folder of this machine, not to {text.split('://')[0]}://: upload "
            "the folder; or lc.copy copies the dataset itself."
        )
    path = Path(text).expanduser().absolute()
    if path.is_symlink() or (path.exists() and not _is_empty(path)):
        raise DatasetExistsError(f"{path} is there already: choose a new folder.")
    return path


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which gets its name when the block ends without an error.

    Raises:
        DatasetExistsError: something was put there meanwhile.
        StorageError: the file system failed; nothing is left.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with explained("export to", url=str(path), path=".", missing_ok=False):
            part.mkdir(parents=True)
            yield part
            for file in part.rglob("*"):
                _sync(file)
            _put(part, path)
            _sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _put(part: Path, path: Path) -> None:
    try:
        part.rename(path)  # replaces an empty folder, and nothing else
    except OSError as exc:
        if path.exists() and not _is_empty(path):
            raise DatasetExistsError(f"{path} was made meanwhile: choose a new folder.") from exc
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
