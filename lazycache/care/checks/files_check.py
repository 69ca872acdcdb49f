"""The other files of a dataset: arrays, values beside the sites, and what nobody names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from lazycache.care.checks.footers import Page, differences, read_footer, right_headers
from lazycache.care.checks.report import RESTORE, Findings, Problem
from lazycache.catalog.entry_records import entry_lengths
from lazycache.catalog.named_files import named_files
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import by_name
from lazycache.codec.shard import VALUE
from lazycache.errors import StorageError
from lazycache.storage.layout import FILE_PREFIXES
from lazycache.storage.store import Store
from lazycache.types import ArrayRef, Commit, EntryRef, TensorRef

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of a file that have a checksum."""

    start: int
    size: int
    crc: int
    rows: int = 0  # of a tensor


class FilesCheck:
    """Checks files that are no shards and no tables.

    Args:
        store: Where they are.
        found: Where problems go.
    """

    def __init__(self, store: Store, found: Findings) -> None:
        self._store = store
        self._found = found

    def arrays(self, snapshot: Snapshot) -> None:
        """Check length and checksum of the tensors that runs keep. Reads them once."""
        for run in snapshot.runs:
            for array in snapshot.arrays(run).values():
                self._check(array.path, array.length, [_of_array(array)])

    def entries(self, entries: Iterable[EntryRef]) -> None:
        """Check length and checksums of values beside the sites. Reads them once."""
        values = list(entries)
        lengths = dict(entry_lengths(values))
        trees = {entry.path for entry in values if entry.path is not None}
        for entry in values:
            if entry.path is not None:
                part = _Part(entry.start, entry.length, entry.crc)
                self._check(entry.path, lengths[entry.path], [part], at_least=True)
            for tensor in entry.tensors:
                if tensor.path is not None and tensor.path not in trees:
                    self._check(tensor.path, tensor.length, _of_tensor(tensor))

    def _check(
        self, path: str, length: int, parts: Sequence[_Part], *, at_least: bool = False
    ) -> None:
        try:
            there = self._store.size(path)
            self._found.count("files")
            if there < length or (there > length and not at_least):
                self._tell(path, f"the file has {there:,} bytes, the log recorded {length:,}")
                return
            for part in parts:
                if self._crc(path, part) != part.crc:
                    what = f"bytes {part.start:,} to {part.start + part.size:,} do not have the "
                    self._tell(path, f"{what}checksum that was recorded")
                    return
            if not at_least:  # what is whole, and not several values in one file, is Parquet
                self._check_parquet(path, length, parts)
        except FileNotFoundError:
            self._tell(path, "the file is missing")
        except StorageError as exc:
            self._tell(path, str(exc).removesuffix("."))

    def _check_parquet(self, path: str, length: int, parts: Sequence[_Part]) -> None:
        """Check what other readers go by: the footer, and headers of pages."""
        footer = read_footer(self._store, path, length)
        pages = [[Page(0, part.start, part.start + part.size)] for part in parts]
        rows = [part.rows for part in parts]
        found = list(differences(footer, columns=[VALUE], rows=rows, pages=pages, metadata={}))
        if not found:
            groups = zip(footer.groups, pages, parts, strict=True)
            right = all(
                right_headers(self._store, path, group, of_group, [part.crc])
                for group, of_group, part in groups
            )
            found += [] if right else ["headers of its pages are not those of their values"]
        for difference in found:
            self._tell(path, difference)

    def _crc(self, path: str, part: _Part) -> int:
        crc, stop = 0, part.start + part.size
        for at in range(part.start, stop, _PIECE_BYTES):
            (data,) = self._store.get_ranges(path, [(at, min(at + _PIECE_BYTES, stop))])
            crc = crc32(data, crc)
            self._found.count("bytes", len(data))
        return crc

    def _tell(self, path: str, what: str) -> None:
        self._found.add(Problem(what, RESTORE, path))

    def orphans(self, commits: Sequence[Commit]) -> tuple[list[str], int]:
        """Return the files that no commit names, and their bytes; missing old ones are problems.

        Cost: one listing of the dataset.
        """
        there = {
            info.path: info.size for prefix in FILE_PREFIXES for info in self._store.list(prefix)
        }
        named = {path for commit in commits for path, _ in named_files(commit)}
        self._check_replaced(commits, there.keys())
        lost = sorted(there.keys() - named)
        return lost, sum(there[path] for path in lost)

    def _check_replaced(self, commits: Sequence[Commit], there: Iterable[str]) -> None:
        """Files that were replaced are still needed by versions that nobody has expired."""
        known = set(there)
        expired = max((commit.expired for commit in commits), default=0)
        for commit in commits:
            paths = [path for drop in commit.drops for path in drop.paths]
            for path in paths if commit.version > expired else ():
                if path not in known:
                    what = f"the file is missing; versions before {commit.version} need it"
                    self._found.add(Problem(what, RESTORE, path, commit=commit.version))


def _of_array(array: ArrayRef) -> _Part:
    size = prod(array.shape) * by_name(array.dtype).itemsize
    return _Part(array.value_offset, size, array.value_crc, array.shape[0])


def _of_tensor(tensor: TensorRef) -> list[_Part]:
    row = prod(tensor.shape[tensor.lead :]) * by_name(tensor.dtype).itemsize
    return [_Part(c.value_offset, c.rows * row, c.value_crc, c.rows) for c in tensor.chunks]
