"""One way from an error of some store to a `StorageError` that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lazycache.errors import LazycacheError, StorageError
from lazycache.storage.secrets import Secrets
from lazycache.storage.transience import TRANSIENT, driver_errors, number_of

_ADVICE = {
    errno.ENOSPC: "The disk is full: free space or choose another place.",
    errno.EDQUOT: "The disk quota is used up: free space or choose another place.",
    errno.EACCES: "Permission denied: check who owns it and who may write, and the credentials.",
    errno.EPERM: "The operation is not permitted here: check the owner and the mount options.",
    errno.EROFS: "The file system is read-only: copy the dataset to a writable place.",
    errno.EMFILE: "Too many open files: close some, or raise the limit (ulimit -n).",
    errno.EIO: "The device failed: check the disk.",
}
_PASSING = "The store is busy or out of reach: check the address and the network, or try later."
_PERMISSION = {errno.EACCES, errno.EPERM}


@contextmanager
def explained(
    doing: str, *, url: str, path: str, missing_ok: bool, secrets: Secrets | None = None
) -> Iterator[None]:
    """Turn any error of a driver inside the block into a `StorageError` with an `errno`.

    With `missing_ok` a `FileNotFoundError` passes as it is: the object is not there, which is an
    answer. Without, it is a failure like any other (the folder vanished). What `secrets` knows is
    in no message, and in no error that the message came from.
    """
    try:
        yield
    except LazycacheError:
        raise
    except driver_errors() as exc:
        if isinstance(exc, FileNotFoundError) and missing_ok and _is_missing(exc):
            raise
        error = failure(doing, url=url, path=path, cause=exc, secrets=secrets)
        if secrets is not None and _tells(exc, secrets):
            raise error from None
        raise error from exc


def _is_missing(exc: FileNotFoundError) -> bool:
    """Whether the object is not there: some drivers say so of every failure to find out."""
    cause = exc.__cause__
    number = None if cause is None else number_of(cause)
    return number not in TRANSIENT | _PERMISSION


def _tells(exc: BaseException | None, secrets: Secrets) -> bool:
    """Whether an error that would be shown below ours holds a secret."""
    while exc is not None:
        text = f"{exc} {exc!r}"
        if secrets.hidden(text) != text:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def failure(
    doing: str, *, url: str, path: str, cause: BaseException, secrets: Secrets | None = None
) -> StorageError:
    """Return the `StorageError` that tells about `cause`; its `errno` tells if it may pass."""
    number = number_of(cause)
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    reason = secrets.hidden(reason) if secrets is not None else reason
    advice = _PASSING if number in TRANSIENT else _ADVICE.get(number or 0, "")
    message = f"Could not {doing} {path!r} of {url}: {reason.rstrip('.')}. {advice}".strip()
    return StorageError(number, message) if number else StorageError(message)


def short_read(*, url: str, path: str, wanted: tuple[int, int], got: int) -> StorageError:
    """Return the error of an object that ends before the range that was asked for."""
    return StorageError(
        f"{path!r} of {url} ends early: bytes {wanted[0]} to {wanted[1]} were asked for, "
        f"{got} of them are there. The object is truncated or not the one that was recorded."
    )


def long_read(*, url: str, path: str, wanted: tuple[int, int], got: int) -> StorageError:
    """Return the error of a server that sends more than the range that was asked for."""
    return StorageError(
        f"The server of {url} does not read ranges: bytes {wanted[0]} to {wanted[1]} of {path!r} "
        f"were asked for, {got} bytes came. Copy the dataset to a disk, or serve it from a bucket "
        "or a web server that answers range requests."
    )


def replaces_objects(url: str) -> StorageError:
    """Return the error of a server that overwrites although it was told to create only."""
    return StorageError(
        f"{url} replaces objects although it was told not to, so that writers would lose "
        "each other's commits. It can be read, not written: capture to a local folder and copy "
        "the dataset there with a tool of the server."
    )
