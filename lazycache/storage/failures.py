"""One way from an `OSError` of some store to a `StorageError` that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lazycache.errors import LazycacheError, StorageError

_ADVICE = {
    errno.ENOSPC: "The disk is full: free space or choose another place.",
    errno.EDQUOT: "The disk quota is used up: free space or choose another place.",
    errno.EACCES: "Permission denied: check who owns it and who may write.",
    errno.EPERM: "The operation is not permitted here: check the owner and the mount options.",
    errno.EROFS: "The file system is read-only: copy the dataset to a writable place.",
    errno.EMFILE: "Too many open files: close some, or raise the limit (ulimit -n).",
    errno.EIO: "The device failed: check the disk.",
}


@contextmanager
def explained(doing: str, *, url: str, path: str, missing_ok: bool) -> Iterator[None]:
    """Turn any `OSError` inside the block into a `StorageError` with the same `errno`.

    With `missing_ok` a `FileNotFoundError` passes as it is: the object is not there, which is an
    answer. Without, it is a failure like any other (the folder vanished).
    """
    try:
        yield
    except LazycacheError:
        raise
    except OSError as exc:
        if missing_ok and isinstance(exc, FileNotFoundError):
            raise
        raise failure(doing, url=url, path=path, cause=exc) from exc


def failure(doing: str, *, url: str, path: str, cause: OSError) -> StorageError:
    """Return the `StorageError` that tells about `cause`."""
    reason = cause.strerror or str(cause) or type(cause).__name__
    advice = _ADVICE.get(cause.errno or 0, "")
    message = f"Could not {doing} {path!r} of {url}: {reason}. {advice}".strip()
    return StorageError(cause.errno, message) if cause.errno else StorageError(message)


def short_read(*, url: str, path: str, wanted: tuple[int, int], got: int) -> StorageError:
    """Return the error of an object that ends before the range that was asked for."""
    return StorageError(
        f"{path!r} of {url} ends early: bytes {wanted[0]} to {wanted[1]} were asked for, "
        f"{got} of them are there. The object is truncated or not the one that was recorded."
    )
