"""Any fsspec file system as a store: `memory://`, `s3://`, `gs://`, `az://`, and reading from more.

The only module that knows fsspec. Writing needs a file system that can create an object only if
there is none, in one atomic step; where that is not so, reading works and writing is refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from lazycache.errors import StorageError
from lazycache.storage.failures import explained, short_read
from lazycache.storage.layout import check_path
from lazycache.storage.store import ObjectInfo, Upload

_CREATES_ATOMICALLY = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"}
# all stores of a process share fsspec's one memory file system, so they share its lock too
_MEMORY_LOCK = threading.RLock()
_PART_BYTES = 16 << 20  # S3 allows 10,000 parts: objects of up to 160 GB
_LOST_RACE = {409, 412}  # HTTP: conflict, precondition failed


class FsspecStore:
    """A `Store` over an fsspec URL. Safe for threads; for processes as far as the server is.

    Example:
        >>> store = FsspecStore("memory://lazycache-doctest", storage_options={})
        >>> store.put("notes/a.txt", b"abcdef")
        >>> store.get_ranges("notes/a.txt", [(4, 6), (0, 2)])
        [b'ef', b'ab']
        >>> store.delete("notes/a.txt")
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, Any]) -> None:
        self._url = _without_secrets(url)
        self._fs, root = _open(url, self._url, storage_options)
        self._root = root.rstrip("/")
        protocol = self._fs.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._in_memory = "memory" in self._protocols
        self._lock: AbstractContextManager[Any] = _MEMORY_LOCK if self._in_memory else nullcontext()

    @property
    def url(self) -> str:
        """The address, without user, password or query."""
        return self._url

    def __repr__(self) -> str:
        """Return what it is over; no options, they may hold secrets."""
        return f"FsspecStore({self._url!r})"

    def get(self, path: str) -> bytes:
        """Read a whole object: one request."""
        key = self._key(path)
        with explained("read", url=self._url, path=path, missing_ok=True):
            return bytes(self._fs.cat_file(key))

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of one object: one request each, in parallel where fsspec can."""
        key = self._key(path)
        wanted = [r for r in ranges if r[0] < r[1]]  # servers refuse a range of no bytes
        starts, stops = [r[0] for r in wanted], [r[1] for r in wanted]
        with explained("read", url=self._url, path=path, missing_ok=True):
            got = self._fs.cat_ranges([key] * len(wanted), starts, stops, on_error="raise")
        for asked, part in zip(wanted, got, strict=True):
            if isinstance(part, OSError):  # some file systems return errors whatever they are told
                with explained("read", url=self._url, path=path, missing_ok=True):
                    raise part
            if len(part) != asked[1] - asked[0]:
                raise short_read(url=self._url, path=path, wanted=asked, got=len(part))
        parts = iter(got)
        return [bytes(next(parts)) if r[0] < r[1] else b"" for r in ranges]

    def local_path(self, path: str) -> None:
        """Nothing here is a file of this machine."""
        check_path(path)

    def size(self, path: str) -> int:
        """Bytes of an object: one request."""
        key = self._key(path)
        with explained("look at", url=self._url, path=path, missing_ok=True):
            self._forget_listings()
            return int(self._fs.size(key))

    def exists(self, path: str) -> bool:
        """Whether there is such an object: one request."""
        key = self._key(path)
        with explained("look at", url=self._url, path=path, missing_ok=False):
            self._forget_listings()
            return bool(self._fs.isfile(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, in order of path: one request per 1,000 or so."""
        folder = prefix.rstrip("/")
        below = self._key(folder) if folder else self._root
        with explained("list", url=self._url, path=prefix, missing_ok=False):
            found = self._find(below)
        cut = len(self._root.lstrip("/")) + 1 if self._root else 0
        paths = {str(key).lstrip("/")[cut:]: info for key, info in found.items()}
        for path in sorted(paths):
            info = paths[path]
            yield ObjectInfo(path=path, size=int(info.get("size") or 0), modified=_modified(info))

    def _find(self, below: str) -> dict[str, dict[str, Any]]:
        """Everything below a folder by its key; an object of the very name is not below it."""
        try:
            with self._lock:  # memory:// walks a dictionary that others change
                self._forget_listings()
                found = self._fs.find(below, detail=True)
        except FileNotFoundError:
            return {}
        return {key: info for key, info in found.items() if key.strip("/") != below.strip("/")}

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object; replaces one that is there."""
        key = self._key(path)
        with explained("write", url=self._url, path=path, missing_ok=False), self._lock:
            self._fs.pipe_file(key, data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one; of any number of callers one gets True.

        Raises:
            StorageError: the file system cannot decide who is first, or failed.
        """
        key = self._key(path)
        if not self._protocols & _CREATES_ATOMICALLY:
            raise StorageError(
                f"{self._url} cannot create an object only if there is none, so writers would "
                "overwrite each other. Write to a local folder, s3://, gs:// or az://, and copy."
            )
        with explained("create", url=self._url, path=path, missing_ok=False):
            try:
                with self._lock:  # for memory:// check and write are two steps
                    self._fs.pipe_file(key, data, mode="create")
            except FileExistsError:
                return False
            except OSError as exc:
                if not _lost_race(exc):
                    raise
                return False
        return True

    def create(self, path: str) -> Upload:
        """Begin an object that is written in pieces: a multipart upload, or held in memory."""
        key = self._key(path)
        if self._in_memory:
            return _MemoryUpload(self, path)
        with explained("create", url=self._url, path=path, missing_ok=False):
            opened = self._fs.open(key, "wb", block_size=_PART_BYTES)
        return _StreamUpload(opened, url=self._url, path=path)

    def delete(self, path: str) -> None:
        """Remove an object; no error if there is none."""
        key = self._key(path)
        with explained("delete", url=self._url, path=path, missing_ok=False), self._lock:
            try:
                self._fs.rm_file(key)
            except FileNotFoundError:
                return

    def _key(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    def _forget_listings(self) -> None:
        """Drop what fsspec remembers of folders: other processes write there."""
        self._fs.invalidate_cache()


class _MemoryUpload:
    """Pieces of an object for a file system whose open files are visible at once."""

    def __init__(self, store: FsspecStore, path: str) -> None:
        self._store, self._path = store, path
        self._pieces: list[bytes] = []

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Copy the buffers: the caller may reuse them."""
        self._pieces.extend(bytes(view) for view in buffers)

    def finish(self) -> None:
        """Put the whole object."""
        self._store.put(self._path, b"".join(self._pieces))
        self._pieces = []

    def abort(self) -> None:
        """Forget the pieces."""
        self._pieces = []


class _StreamUpload:
    """A file of fsspec whose object appears when it is closed, as on object stores."""

    def __init__(self, opened: Any, *, url: str, path: str) -> None:
        self._file, self._url, self._path = opened, url, path

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Append; parts are sent as they fill."""
        with explained("write", url=self._url, path=self._path, missing_ok=False):
            for view in buffers:
                self._file.write(view)

    def finish(self) -> None:
        """Send the last part and complete the object."""
        with explained("write", url=self._url, path=self._path, missing_ok=False):
            self._file.close()

    def abort(self) -> None:
        """Discard the parts. The file must not close itself later: that would complete it."""
        if self._file.closed:
            return
        self._file.closed = True
        with explained("abort", url=self._url, path=self._path, missing_ok=False):
            self._file.discard()


def _open(url: str, shown: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and the path of the URL in it."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, **storage_options)
    except ImportError as exc:
        raise StorageError(f"{shown} needs a package that is not installed: {exc}") from exc
    except (OSError, ValueError) as exc:
        reason = str(exc).replace(url, shown)
        raise StorageError(f"Could not open {shown}: {reason}") from exc
    return fs, str(root)


def _without_secrets(url: str) -> str:
    """Drop `user:password@` and the query of a URL: signed addresses carry keys there."""
    return re.sub(r"://[^/@]*@", "://", re.split(r"[?#]", url, maxsplit=1)[0])


def _lost_race(exc: OSError) -> bool:
    """Whether a server said by status that the object exists; drivers map that differently."""
    response = getattr(exc.__cause__, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return metadata.get("HTTPStatusCode") in _LOST_RACE


def _modified(info: dict[str, Any]) -> float:
    """Seconds since the epoch from whatever a file system calls it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
