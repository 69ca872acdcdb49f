"""Any fsspec file system as a store: `memory://`, `s3://`, `gs://`, `az://`, and reading from more.

Writing needs a file system that can create an object only if there is none, in one atomic step;
where that is not so, reading works and writing is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from lazycache.errors import StorageError
from lazycache.storage.drivers import asks_in_turn, open_driver
from lazycache.storage.failures import explained, long_read, replaces_objects, short_read
from lazycache.storage.layout import IDENTITY, check_path
from lazycache.storage.multipart import MultipartUpload
from lazycache.storage.retrying import Patience
from lazycache.storage.secrets import Secrets, shown_url
from lazycache.storage.store import ObjectInfo, Upload
from lazycache.storage.streamed import MemoryUpload, StreamUpload
from lazycache.storage.transience import status_of

T = TypeVar("T")

_CREATES_ATOMICALLY = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"}
# all stores of a process share fsspec's one memory file system, so they share its lock too
_MEMORY_LOCK = threading.RLock()
_LOST_RACE = {409, 412}  # HTTP: conflict, precondition failed
_RANGES_AT_ONCE = 16
_SLOWEST = 1 << 20  # bytes per second: slower than that counts as broken


class FsspecStore:
    """A `Store` over an fsspec URL. Safe for threads; for processes as far as the server is.

    One try of a call ends after half of the deadline (see `retrying`) and a second per MB that it
    moves, so that a server that fell silent leaves time for another try.

    Example:
        >>> store = FsspecStore("memory://lazycache-doctest", storage_options={})
        >>> store.put("notes/a.txt", b"abcdef")
        >>> store.get_ranges("notes/a.txt", [(4, 6), (0, 2)])
        [b'ef', b'ab']
        >>> store.delete("notes/a.txt")
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, Any]) -> None:
        self._url = shown_url(url)
        self._secrets = Secrets(url, storage_options)
        self._patience = Patience.of_environment()
        silence = self._patience.one_try
        self._fs, root = open_driver(url, self._url, storage_options, silence_s=silence)
        self._root = root.rstrip("/")
        protocol = self._fs.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._in_memory = "memory" in self._protocols
        self._asks_in_turn = not self._in_memory and asks_in_turn(self._fs)
        self._proven = self._in_memory
        self._lock: AbstractContextManager[Any] = _MEMORY_LOCK if self._in_memory else nullcontext()

    @property
    def url(self) -> str:
        """The address, without user, password or query."""
        return self._url

    def __repr__(self) -> str:
        """Return what it is over; no options, they may hold secrets."""
        return f"{type(self).__name__}({self._url!r})"

    def get(self, path: str) -> bytes:
        """Read a whole object: one request."""
        key = self._key(path)
        with self._explained("read", path, missing_ok=True):
            return bytes(self._call(self._fs.cat_file, key))

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of one object: one request each, in parallel where fsspec can."""
        key = self._key(path)
        wanted = [r for r in ranges if r[0] < r[1]]  # servers refuse a range of no bytes
        starts, stops = [r[0] for r in wanted], [r[1] for r in wanted]
        moved = sum(stops) - sum(starts)
        with self._explained("read", path, missing_ok=True):
            got = self._cat(key, starts, stops, moved=moved)
        for asked, part in zip(wanted, got, strict=True):
            self._check_range(path, asked, part)
        parts = iter(got)
        return [bytes(next(parts)) if r[0] < r[1] else b"" for r in ranges]

    def _cat(self, key: str, starts: list[int], stops: list[int], *, moved: int) -> Sequence[Any]:
        if starts and self._asks_in_turn:
            # an answer from far away takes its time
            with ThreadPoolExecutor(min(len(starts), _RANGES_AT_ONCE)) as pool:
                return list(pool.map(partial(self._read, key), starts, stops))
        keys, cat = [key] * len(starts), self._fs.cat_ranges
        return self._call(cat, keys, starts, stops, on_error="raise", moved=moved)

    def _read(self, key: str, start: int, stop: int) -> Any:
        # the files of hf:// would read megabytes ahead
        options = {"cache_type": "none"} if "hf" in self._protocols else {}
        return self._fs.cat_file(key, start, stop, **options)

    def _check_range(self, path: str, asked: tuple[int, int], part: Any) -> None:
        if isinstance(part, Exception):  # some file systems return errors whatever they are told
            with self._explained("read", path, missing_ok=True):
                raise part
        length = asked[1] - asked[0]
        if len(part) != length:
            wrong = long_read if len(part) > length else short_read
            raise wrong(url=self._url, path=path, wanted=asked, got=len(part))

    def local_path(self, path: str) -> None:
        """Nothing here is a file of this machine."""
        check_path(path)

    def size(self, path: str) -> int:
        """Bytes of an object: one request."""
        with self._explained("look at", path, missing_ok=True):
            return int(self._info(path)["size"])

    def exists(self, path: str) -> bool:
        """Whether there is such an object: one request, or two if there is none."""
        try:
            with self._explained("look at", path, missing_ok=True):
                return bool(self._info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def _info(self, path: str) -> dict[str, Any]:
        """What is at a path. Not `isfile` of fsspec: that says False of every failure."""
        key = self._key(path)
        self._forget_listings()
        info: dict[str, Any] = self._call(self._fs.info, key)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, in order of path: one request per 1,000 or so."""
        folder = prefix.rstrip("/")
        below = self._key(folder) if folder else self._root
        with self._explained("list", prefix):
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
                found = self._call(self._fs.find, below, detail=True)
        except FileNotFoundError:
            return {}
        if not isinstance(found, dict):  # of a name that is an object, adlfs returns a list
            found = {key: self._call(self._fs.info, key) for key in found}
        return {key: info for key, info in found.items() if key.strip("/") != below.strip("/")}

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object; replaces one that is there."""
        key = self._key(path)
        with self._explained("write", path), self._lock:
            self._call(self._fs.pipe_file, key, data, moved=len(data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one; of any number of callers one gets True.

        The first call asks a server two things more: see `_probe`.

        Raises:
            StorageError: the file system cannot decide who is first, or failed.
        """
        self._key(path)
        self._check_arbitrates()
        if path != IDENTITY:  # whoever writes that one probes by itself
            self._probe()
        created = self._created(path, data)
        self._proven |= not created  # a no is what the probe would ask for
        return created

    def _created(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        with self._explained("create", path):
            try:
                with self._lock:  # for memory:// check and write are two steps
                    self._call(self._fs.pipe_file, key, data, mode="create", moved=len(data))
            except FileExistsError:
                return False
            except OSError as exc:
                if status_of(exc) not in _LOST_RACE:
                    raise
                return False
        return True

    def _probe(self) -> None:
        """Find out once whether the server honours conditions, with bytes that are there already.

        Costs two requests before the first commit.
        """
        if self._proven:
            return
        try:
            record = self.get(IDENTITY)
        except FileNotFoundError:  # no dataset: there are no commits to lose
            return
        if self._created(IDENTITY, record):
            raise replaces_objects(self._url)
        self._proven = True

    def _check_arbitrates(self) -> None:
        if not self._protocols & _CREATES_ATOMICALLY:
            raise StorageError(
                f"{self._url} cannot create an object only if there is none, so writers would "
                "overwrite each other. Write to a local folder, s3://, gs:// or az://, and copy."
            )

    def create(self, path: str) -> Upload:
        """Begin an object that is written in pieces: a multipart upload, or held in memory.

        Costs no request yet. On `s3://` full parts are sent in the background.
        """
        key = self._key(path)
        if self._in_memory:
            return MemoryUpload(self, path)

        def said(doing: str) -> AbstractContextManager[None]:
            return self._explained(doing, path)

        if self._protocols & {"s3", "s3a"}:
            return MultipartUpload(
                self._fs, key, self, path, explained=said, patience=self._patience
            )
        with said("create"):
            return StreamUpload(self._fs, key, explained=said)

    def delete(self, path: str) -> None:
        """Remove an object; no error if there is none."""
        key = self._key(path)
        with self._explained("delete", path), self._lock:
            try:
                self._call(self._fs.rm_file, key)
            except FileNotFoundError:
                return

    def _key(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    def _explained(
        self, doing: str, path: str, *, missing_ok: bool = False
    ) -> AbstractContextManager[None]:
        secrets = self._secrets
        return explained(doing, url=self._url, path=path, missing_ok=missing_ok, secrets=secrets)

    def _call(self, method: Callable[..., T], *args: Any, moved: int = 0, **named: Any) -> T:
        """Call the driver; a server that does not answer is left after a while."""
        if getattr(self._fs, "async_impl", False):  # the others work in this process
            named["timeout"] = self._patience.one_try + moved / _SLOWEST
        return method(*args, **named)

    def _forget_listings(self) -> None:
        """Drop what fsspec remembers of folders: other processes write there."""
        self._fs.invalidate_cache()


def _modified(info: dict[str, Any]) -> float:
    """Seconds since the epoch from whatever a file system calls it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
