"""Files from one store to another, several at once, checked while they pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from operator import itemgetter

from lazycache.care.checked_files import CheckedFile, Range
from lazycache.codec.checksum import crc32
from lazycache.codec.page_checks import HEADER_ROOM, page_crc
from lazycache.codec.tables import decode_table
from lazycache.errors import CorruptShardError
from lazycache.progress import Bar
from lazycache.storage.store import Store

PIECE_BYTES = 8 << 20
"""Most bytes of a file that are in memory at once."""

FILES_AT_ONCE = 8
"""How many files are on their way at once."""


class MissingFileError(CorruptShardError):
    """The source lacks a file; who knows whether it should have it tells it better."""

    def __init__(self, path: str, url: str) -> None:
        super().__init__(f"{path!r} of {url} is missing.")
        self.path = path
        """The file."""


def transfer(files: Iterable[CheckedFile], source: Store, target: Store, bar: Bar) -> None:
    """Copy files whose bytes are what the log says; a file is there whole or not at all.

    Cost: every byte is read and written once; 8 files in pieces of 8 MiB are in memory, table files
    as a whole, besides what uploads of the store hold. After an error no further file is begun.

    Raises:
        MissingFileError: the source lacks one.
        CorruptShardError: one is not what the log says; it is not written.
        StorageError: a store failed.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE, "lazycache-copy") as pool:
        jobs = [pool.submit(_transfer, file, source, target, bar) for file in files]
        done, rest = wait(jobs, return_when=FIRST_EXCEPTION)
        for job in rest:
            job.cancel()
        for job in done:
            job.result()


def _transfer(file: CheckedFile, source: Store, target: Store, bar: Bar) -> None:
    try:
        _pass_on(file, source, target, bar)
    except FileNotFoundError as exc:
        raise MissingFileError(file.path, source.url) from exc


def _pass_on(file: CheckedFile, source: Store, target: Store, bar: Bar) -> None:
    if file.is_table:
        _put_table(file, source, target)
        bar.advance(file.length)
        return
    length = _length(file, source)
    sums = _Sums(file, source.url)
    upload = target.create(file.path)
    try:
        for start in range(0, length, PIECE_BYTES):
            stop = min(length, start + PIECE_BYTES)
            (piece,) = source.get_ranges(file.path, [(start, stop)])
            sums.add(piece)
            upload.write([memoryview(piece)])
            bar.advance(len(piece))
        sums.check()
        upload.finish()
    except BaseException:
        upload.abort()
        raise


def _length(file: CheckedFile, source: Store) -> int:
    there = source.size(file.path)
    if there < file.length or (file.is_exact and there != file.length):
        raise CorruptShardError(
            f"{file.path!r} of {source.url} has {there:,} bytes; the log says {file.length:,}. "
            "Take it from another copy; lc.verify(url) says what else is damaged."
        )
    return there


def _put_table(file: CheckedFile, source: Store, target: Store) -> None:
    _length(file, source)
    data = source.get(file.path)
    decode_table(data)  # compares the checksum of every page
    target.put(file.path, data)


class _Sums:
    """The checksums of a file whose pieces come in order."""

    def __init__(self, file: CheckedFile, url: str) -> None:
        self._file, self._url = file, url
        self._ranges: Sequence[Range] = sorted(set(file.ranges), key=itemgetter(0, 1))
        self._crcs = [0] * len(self._ranges)
        self._headers: dict[int, bytes] = {}
        self._at = self._first = 0
        self._tail = b""

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        view, begin, end = memoryview(piece), self._at, self._at + len(piece)
        for number in range(self._first, len(self._ranges)):
            start, stop, _ = self._ranges[number]
            if start >= end:
                break
            if start >= begin:
                self._headers[number] = self._before(view, start - begin)
            mine = view[max(0, start - begin) : max(0, stop - begin)]
            self._crcs[number] = crc32(mine, self._crcs[number])
            if stop <= end and number == self._first:
                self._first += 1
        self._at, self._tail = end, self._before(view, len(view))

    def _before(self, view: memoryview, at: int) -> bytes:
        """Return the bytes before a place of a piece that hold the header of a page."""
        near = bytes(view[max(0, at - HEADER_ROOM) : at])
        return (self._tail + near)[-HEADER_ROOM:]

    def check(self) -> None:
        """Raise unless all bytes were what they should be.

        Raises:
            CorruptShardError: some were not.
        """
        for number, (start, stop, said) in enumerate(self._ranges):
            header = self._headers.get(number, b"")
            wanted = page_crc(header, size=stop - start) if said is None else said
            if self._crcs[number] != wanted or stop > self._at:
                raise CorruptShardError(
                    f"Bytes {start:,} to {stop:,} of {self._file.path!r} of {self._url} are not "
                    "what was written: their checksum differs. Take the file from another copy; "
                    "lc.verify(url) says what else is damaged."
                )
