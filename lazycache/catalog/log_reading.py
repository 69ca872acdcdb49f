"""Reading the commit log: what is in its folder, and its records in order, without a hole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from lazycache.catalog import records
from lazycache.errors import CorruptShardError
from lazycache.storage.layout import IDENTITY, LOG_PREFIX, log_path, parse_log_path, parse_pack_path
from lazycache.storage.store import ObjectInfo, Store
from lazycache.types import Commit

_PARALLEL_GETS = 16
_FEW = 8  # new records that are looked for one by one, before the log is listed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a log consists of."""

    sizes: list[int]
    """Bytes of each record, from that of version 1 on; -1: not known."""
    packs: dict[tuple[int, int], int]
    """First and last version of each pack, and its bytes."""


class LogReader:
    """The log of one dataset, to be read. Holds no state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def store(self) -> Store:
        """Where the dataset is."""
        return self._store

    def read(self, after: int = 0) -> list[Commit]:
        """Return the commits after version `after`, in order, without a hole.

        Costs one listing of the log and one read per commit; remote reads run in parallel. Every
        torn record that is passed over is told in a `RuntimeWarning`.

        Raises:
            CorruptShardError: a record is damaged, says what cannot be, or is missing.
            FormatVersionError: a record needs a newer lazycache.
        """
        return self.read_whole(after, self.contents(after))

    def read_new(self, after: int) -> list[Commit]:
        """Return the commits after version `after`, as `read` does, where they are few or none.

        Costs one look at the next record if there is none; of up to eight a look and a read each;
        of more what `read` costs.
        """
        sizes: list[int] = []
        while len(sizes) < _FEW and (size := self._size(after + len(sizes) + 1)) is not None:
            sizes.append(size)
        if len(sizes) == _FEW:
            return self.read(after)
        return self.read_whole(after, Contents([-1] * after + sizes, {}))

    def _size(self, version: int) -> int | None:
        """Return the bytes of a record, if it is there and not too large to be one."""
        path = log_path(version)
        try:
            size = self._store.size(path)
        except FileNotFoundError:
            return None
        _check_size(ObjectInfo(path, size, 0.0))
        return size

    def contents(self, after: int = 0) -> Contents:
        """Return what is in the folder of the log. Costs a listing.

        Raises:
            CorruptShardError: a record after version `after` is missing.
        """
        sizes: dict[int, int] = {}
        packs: dict[tuple[int, int], int] = {}
        for info in self._store.list(LOG_PREFIX):
            if version := parse_log_path(info.path):
                _check_size(info)
                sizes[version] = info.size
            elif span := parse_pack_path(info.path):
                packs[span] = info.size
        self._check_whole(sorted(version for version in sizes if version > after), after=after)
        last = max(sizes, default=0)
        return Contents([sizes.get(version, -1) for version in range(1, last + 1)], packs)

    def read_whole(self, after: int, contents: Contents) -> list[Commit]:
        """Return the commits after version `after` of a log with these contents; as `read`."""
        last = max(after, len(contents.sizes))
        commits = self._read_all(range(after + 1, last + 1))
        for version, commit in enumerate(commits, after + 1):
            if commit is None:
                self._warn_torn(version, last=version == last)
        if commits and commits[-1] is None:
            commits.pop()
        return [commit or records.void(after + 1 + i) for i, commit in enumerate(commits)]

    def read_range(self, first: int, last: int) -> list[Commit]:
        """Return commits `first` to `last`, which are there; a torn one counts as empty.

        Costs one read per commit. Raises as `read` does.
        """
        found = self._read_all(range(first, last + 1))
        return [commit or records.void(first + i) for i, commit in enumerate(found)]

    def records(self, first: int, last: int) -> list[bytes]:
        """Return the bytes of records `first` to `last`, which are there; raises as `read`."""
        return self._all(self._get, range(first, last + 1))

    def _check_whole(self, versions: Sequence[int], *, after: int) -> None:
        """Raise if a record before the last is missing, before any is read."""
        expected = after + 1
        for version in versions:
            # a listing may miss a record that appears while it runs: a look at it decides
            while expected < version and self._store.exists(log_path(expected)):
                expected += 1
            if expected < version:
                which = f"{expected} of {self._store.url} is"
                if version - expected > 1:
                    which = f"{expected} to {version - 1} of {self._store.url} are"
                raise CorruptShardError(
                    f"Log record {which} missing, but {version} is there. Copy the log again from "
                    "where the dataset came from, or remove what is no record of it."
                )
            expected = version + 1

    def _warn_torn(self, version: int, *, last: bool) -> None:
        why = (
            "its writer is still writing it, or was killed"
            if last
            else "its writer was killed, or it was copied in part. Nothing of it is in the dataset"
        )
        warnings.warn(
            f"Log record {version} of {self._store.url} is torn and passed over: {why}.",
            RuntimeWarning,
            stacklevel=4,
        )

    def _read_all(self, versions: Sequence[int]) -> list[Commit | None]:
        """Read records; None for a torn one."""
        return self._all(self._read_one, versions)

    def _all(self, read: Callable[[int], T], versions: Sequence[int]) -> list[T]:
        if self._store.local_path(IDENTITY) is not None or len(versions) < 2:  # noqa: PLR2004
            return [read(version) for version in versions]
        with ThreadPoolExecutor(_PARALLEL_GETS) as pool:
            return list(pool.map(read, versions))

    def _read_one(self, version: int) -> Commit | None:
        record = self._get(version)
        return None if records.is_torn(record) else records.decode(record, version=version)

    def _get(self, version: int) -> bytes:
        try:
            return self._store.get(log_path(version))
        except FileNotFoundError as exc:
            raise CorruptShardError(
                f"Log record {version} of {self._store.url} is missing, but later ones are there."
            ) from exc


def _check_size(info: ObjectInfo) -> None:
    """Refuse a record that is larger than any, before it is read."""
    if info.size > records.MOST_BYTES:
        raise CorruptShardError(
            f"{info.path} has {info.size:,} bytes; a record of the log has {records.MOST_BYTES:,} "
            "at most. Copy the log again from where the dataset came from."
        )
