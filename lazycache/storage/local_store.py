"""A folder of this machine as a store: whole objects, durable when a call returns.

An object is written under a temporary name, synced, and renamed; then its folder is synced. So a
kill or power cut leaves the object whole or not at all. Temporary files start with `.tmp-` and
never show in a listing.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lazycache.errors import CorruptShardError
from lazycache.storage.failures import explained, short_read
from lazycache.storage.layout import check_path
from lazycache.storage.store import ObjectInfo, Upload
from lazycache.storage.writeback import Writeback

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin."""

_BUFFERS_PER_CALL = 1024  # IOV_MAX of Linux and macOS
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class LocalStore:
    """A `Store` over a folder. Safe for any number of threads and processes.

    A dataset may come from anybody, so nothing outside of the folder is reached through it: a link
    that leads out of it is refused, and so is what is no regular file (a pipe would never end).

    Example:
        >>> import tempfile
        >>> store = LocalStore(tempfile.mkdtemp(), create=True)
        >>> store.put_if_absent("notes/a.txt", b"one"), store.put_if_absent("notes/a.txt", b"two")
        (True, False)
        >>> store.get("notes/a.txt")
        b'one'
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool) -> None:
        self._root = Path(path).absolute()
        self._url = str(self._root)
        self._inside: set[Path] = set()
        if create:
            with explained("create", url=self._url, path=".", missing_ok=False):
                _make_folders(self._root)

    @property
    def url(self) -> str:
        """The absolute path of the folder."""
        return self._url

    def __repr__(self) -> str:
        """Return how to make it again."""
        return f"LocalStore({self.url!r})"

    def get(self, path: str) -> bytes:
        """Read a whole object."""
        where = self._readable(path)
        with explained("read", url=self._url, path=path, missing_ok=True), _Descriptor(where) as fd:
            return _read_exactly(fd, 0, os.fstat(fd).st_size)

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of one object: one `pread` each, nothing is merged."""
        where = self._readable(path)
        with explained("read", url=self._url, path=path, missing_ok=True), _Descriptor(where) as fd:
            there = os.fstat(fd).st_size
            for start, stop in ranges:  # a range may come from a hostile log: no memory for it yet
                if start < stop and stop > there:
                    got = max(0, there - start)
                    raise short_read(url=self._url, path=path, wanted=(start, stop), got=got)
            parts = [_read_exactly(fd, start, stop) for start, stop in ranges]
        for wanted, part in zip(ranges, parts, strict=True):
            if len(part) != wanted[1] - wanted[0]:
                raise short_read(url=self._url, path=path, wanted=wanted, got=len(part))
        return parts

    def local_path(self, path: str) -> Path:
        """Where the object (or a folder of objects) is or would be, for reading.

        Cost: one look at the object, and one at each folder for the first object in it.

        Raises:
            CorruptShardError: a link leads out of the dataset, or it is a pipe or device.
        """
        return self._readable(path, also=stat.S_ISDIR)

    def _readable(self, path: str, *, also: Callable[[int], bool] = stat.S_ISREG) -> Path:
        where = self._place(path)
        try:
            mode = where.lstat().st_mode
            target = where.stat().st_mode if stat.S_ISLNK(mode) else mode
        except OSError:  # nothing is there, or it cannot be looked at: reading it will say so
            return where
        if target != mode:
            self._check_inside(where, path)
        if not (stat.S_ISREG(target) or also(target)):
            raise CorruptShardError(
                f"{path!r} of {self._url} is no regular file. Remove it, or restore the file from "
                "a copy of the dataset."
            )
        return where

    def _place(self, path: str) -> Path:
        """Where an object is or would be, if its folder is inside of the dataset."""
        where = self._root / check_path(path)
        folder = where.parent
        if folder != self._root and folder not in self._inside:
            self._check_inside(folder, path)
            if folder.exists():
                self._inside.add(folder)
        return where

    def _check_inside(self, where: Path, path: str) -> None:
        real = Path(os.path.realpath(where))
        if not real.is_relative_to(os.path.realpath(self._root)):
            raise CorruptShardError(
                f"{path!r} of {self._url} is a link out of the dataset, to {real}. What belongs to "
                "a dataset lies in its folder: copy it there."
            )

    def size(self, path: str) -> int:
        """Bytes of an object."""
        where = self._readable(path)
        with explained("look at", url=self._url, path=path, missing_ok=True):
            return where.stat().st_size

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        where = self._place(path)
        with explained("look at", url=self._url, path=path, missing_ok=False):
            return where.is_file()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, in order of path; folders are read one by one as it goes."""
        folder = prefix.rstrip("/")
        where = self._place(folder) if folder else self._root
        return self._walk(where, f"{folder}/" if folder else "")

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        with explained("list", url=self._url, path=prefix, missing_ok=False):
            try:
                with os.scandir(folder) as found:
                    # "a/" sorts between "a-" and "a0" as the full paths below it do
                    entries = sorted((e.name + "/" * e.is_dir(), e) for e in found)
            except (FileNotFoundError, NotADirectoryError):  # nothing is below it
                return
        for name, entry in entries:
            if name.endswith("/"):
                yield from self._walk(folder / entry.name, prefix + name)
            elif not name.startswith(TEMPORARY):
                yield from self._info(entry, prefix + name)

    def _info(self, entry: os.DirEntry[str], path: str) -> Iterator[ObjectInfo]:
        with explained("look at", url=self._url, path=path, missing_ok=False):
            try:
                status = entry.stat()
            except FileNotFoundError:  # deleted since its folder was read
                return
        yield ObjectInfo(path=path, size=status.st_size, modified=status.st_mtime)

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object, durably; replaces one that is there."""
        upload = self.create(path)
        try:
            upload.write([memoryview(data)])
            upload.finish()
        finally:
            upload.abort()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one; of any number of callers one gets True.

        The object appears by a hard link to a synced temporary file. Where the file system has
        no hard links it is created with `O_EXCL` and written in place: still one winner, but a
        crash in the middle of that write leaves a torn object.
        """
        where = self._place(path)
        if self.exists(path):  # spares the loser of a race a file and a sync
            return False
        upload = self.create(path)
        try:
            upload.write([memoryview(data)])
            with explained("create", url=self._url, path=path, missing_ok=False):
                return upload.link(where, data)
        finally:
            upload.abort()

    def create(self, path: str) -> LocalUpload:
        """Begin an object that is written in pieces."""
        where = self._place(path)
        with explained("create", url=self._url, path=path, missing_ok=False):
            _make_folders(where.parent, below=self._root)
            return LocalUpload(where, url=self._url, path=path)

    def delete(self, path: str) -> None:
        """Remove an object; no error if there is none."""
        where = self._place(path)
        with explained("delete", url=self._url, path=path, missing_ok=False):
            where.unlink(missing_ok=True)


class LocalUpload:
    """An `Upload` into a temporary file beside its final name."""

    def __init__(self, where: Path, *, url: str, path: str) -> None:
        self._where, self._url, self._path = where, url, path
        self._temporary = where.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fd: int | None = os.open(self._temporary, flags, 0o666)
        self._writeback = Writeback()

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Append the buffers with as few `writev` calls as the system allows; copies nothing."""
        with explained("write", url=self._url, path=self._path, missing_ok=False):
            fd = self._open_fd()
            _write_all(fd, buffers)
        self._writeback.wrote(fd, sum(view.nbytes for view in buffers))

    def finish(self) -> None:
        """Sync the file, rename it, sync its folder."""
        with explained("write", url=self._url, path=self._path, missing_ok=False):
            os.fsync(self._open_fd())
            self._close()
            self._temporary.replace(self._where)
            _sync_folder(self._where.parent)

    def abort(self) -> None:
        """Remove the temporary file; nothing is left to remove after `finish`."""
        self._close()
        with suppress(OSError):  # cleaning up: what was to be told is told by now
            self._temporary.unlink(missing_ok=True)

    def link(self, where: Path, data: bytes) -> bool:
        """Make what was written appear at `where` unless something is there."""
        os.fsync(self._open_fd())
        try:
            os.link(self._temporary, where)
        except FileExistsError:
            return False
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            return _create_exclusively(where, data)
        _sync_folder(where.parent)
        return True

    def _open_fd(self) -> int:
        assert self._fd is not None, "an upload ends with finish or abort"
        return self._fd

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


class _Descriptor:
    """A file open for reading, without the buffers of `open`."""

    def __init__(self, where: Path) -> None:
        self._where = where

    def __enter__(self) -> int:
        # should a pipe take its place after the look at it, opening it must not wait for ever
        self._fd = os.open(self._where, os.O_RDONLY | os.O_NONBLOCK)
        return self._fd

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        os.close(self._fd)


def _read_exactly(fd: int, start: int, stop: int) -> bytes:
    """Read a range; fewer bytes only where the file ends."""
    part = os.pread(fd, stop - start, start)
    if len(part) == stop - start or not part:
        return part
    parts = [part]  # the kernel hands out at most 2 GiB at once
    while part and (at := start + sum(map(len, parts))) < stop:
        part = os.pread(fd, stop - at, at)
        parts.append(part)
    return b"".join(parts)


def _write_all(fd: int, buffers: Sequence[memoryview]) -> None:
    """Write every byte: `writev` may stop anywhere."""
    left = [view.cast("B") for view in buffers if view.nbytes]
    while left:
        written = os.writev(fd, left[:_BUFFERS_PER_CALL])
        done = 0
        while done < len(left) and written >= left[done].nbytes:
            written -= left[done].nbytes
            done += 1
        left = left[done:]
        if written:
            left[0] = left[0][written:]


def _create_exclusively(where: Path, data: bytes) -> bool:
    """Create a file that must not exist, without hard links."""
    try:
        fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(fd, [memoryview(data)])
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync_folder(where.parent)
    return True


def _make_folders(folder: Path, *, below: Path | None = None) -> None:
    """Create missing folders, down from `below`, and make their names durable."""
    if folder.is_dir():
        return
    if folder == below:
        raise FileNotFoundError(errno.ENOENT, "the folder is not there", str(folder))
    _make_folders(folder.parent, below=below)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(fd)


_: type[Upload] = LocalUpload
