"""A pack of the log: what a hundred, a thousand, ... commits say, sorted by whose it is.

It is a hint, made of the records and trusted as little as they are: its ops are those of the
records, and go through the same checks. The head says what opening needs; the files of a site or
table are in blocks of their own, read when somebody asks for them. Where anything of a pack is
damaged, its records are read.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lazycache.catalog import fields, records
from lazycache.catalog.chains import CommitLine, Key, Ref
from lazycache.catalog.pack_blocks import Block, unpacked
from lazycache.catalog.pack_files import file_of, order_of
from lazycache.catalog.pack_heads import PackHead, Section
from lazycache.catalog.recorded import Recorded
from lazycache.errors import CorruptShardError, FormatVersionError, LazycacheError, StorageError
from lazycache.types import Commit, Drop

TRAILER_BYTES = 10
"""Bytes behind the line of the head: newline, eight digits, newline."""


Bytes = Callable[[int, int], bytes]
"""Reads bytes `start` to `stop` of a pack."""


class Pack:
    """One pack as a `Source`. Made of its head; blocks are read when they are needed.

    Args:
        path: Where it is, for warnings.
        head: Its first line.
        read: Reads its bytes.
        size: Bytes of all of it.
        plain: Reads the commits that it holds.

    Raises:
        CorruptShardError: the head is damaged, or says what cannot be.
    """

    def __init__(
        self,
        path: str,
        head: bytes,
        *,
        read: Bytes,
        size: int,
        plain: Callable[[int, int], list[Commit]],
    ) -> None:
        self.path, self._read, self._plain = path, read, plain
        self._body = len(head) + TRAILER_BYTES
        self._recorded: Recorded | None = None
        self._lines: list[list[Any]] | None = None
        self.head = PackHead(head, path=path, size=size - self._body)
        """What it says of itself."""
        self.first, self.last = self.head.first, self.head.last

    @property
    def keys(self) -> Sequence[Key]:
        """The sites and tables that it has files of."""
        return list(self.head.sections)

    def run_of(self, version: int) -> str:
        """Return the run that a commit is of."""
        return self.head.owners[version - self.first]

    def rows(self) -> Iterator[tuple[str, Sequence[int], Sequence[int], Sequence[str]]]:
        """Yield for each table the versions that add rows, how many rows, and of which run."""
        for table, (versions, rows) in self.head.rows.items():
            yield table, versions, rows, [self.head.owners[at - self.first] for at in versions]

    def notes(self) -> list[Commit]:
        """Return the commits that say anything else than files, without their files.

        Raises:
            CorruptShardError: an op says what cannot be.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for version, op in self.head.ops:
            found.setdefault(version, []).append(op)
        try:
            return [
                records.decode_ops(found[version], version=version, run=self.run_of(version))
                for version in sorted(found)
            ]
        except (StorageError, FormatVersionError) as exc:
            raise CorruptShardError(f"In {self.path!r}: {exc}") from exc

    def rewrites(self) -> Sequence[int]:
        """Return the versions that replace files."""
        return self.head.rewrites

    def refs(self, key: Key, first: int, last: int) -> Iterator[tuple[int, Ref | Drop]]:
        """Yield version and file, or drop, of what commits say, in order.

        Costs one read. A pack that is damaged or gone is told in a `RuntimeWarning`; then its
        records are read.
        """
        if self._recorded is None:
            try:
                yield from self._decoded(key, first, last)
            except (LazycacheError, FileNotFoundError) as exc:
                self._pass_over(exc)
            else:
                return
        yield from self.plain().refs(key, first, last)

    def _decoded(self, key: Key, first: int, last: int) -> list[tuple[int, Ref | Drop]]:
        found = [
            (version, file_of(key, op))
            for version, op in self.raw(key, whole=(first, last) != (self.first, self.last))
            if first <= version <= last
        ]
        # of one commit what it drops comes first, then files in row order
        found.sort(key=lambda one: (one[0], *order_of(one[1])))
        return found

    def raw(self, key: Key, *, whole: bool) -> list[tuple[int, dict[str, Any]]]:
        """Return version and op of a site or table; `whole`: also those that do not count any more.

        Raises:
            CorruptShardError: a block is damaged.
            StorageError: the store failed.
        """
        section = self.head.sections.get(key, Section((), ()))
        blocks = (*section.live, *section.dead) if whole else section.live
        return [self.head.op(entry) for entry in self._unpacked(blocks)]

    def _unpacked(self, blocks: Sequence[Block]) -> list[Any]:
        """Return the values of blocks; those that follow each other are one read."""
        values: list[Any] = []
        for group in _neighbours(blocks):
            start = self._body + group[0].start
            data = self._read(start, self._body + group[-1].stop)
            for block in group:
                at = self._body + block.start - start
                values += unpacked(data[at : at + block.length], block)
        return values

    def history(self) -> list[list[Any]]:
        """Return what each commit was: txn, writer, time, shards and their bytes.

        Raises:
            CorruptShardError: a block is damaged.
            StorageError: the store failed.
        """
        if self._lines is None:
            self._lines = self._checked_lines()
        return self._lines

    def _checked_lines(self) -> list[list[Any]]:
        values = self._unpacked(self.head.history)
        for value in values:
            if type(value) is not list or list(map(type, value)) != [str, str, str, int, int]:
                raise CorruptShardError(f"In {self.path!r}: not a commit: {str(value)[:80]}")
            for text in value[:3]:
                fields.text({"text": text}, "text")
            fields.integers(value[3:])
        if len(values) != self.last - self.first + 1:
            raise CorruptShardError(f"{self.path!r} does not say what all of its commits were.")
        return values

    def lines(self, first: int, last: int) -> list[CommitLine]:
        """Return what commits were, in short. Costs and warns as `refs` does."""
        if self._recorded is None:
            try:
                history = self.history()
            except (LazycacheError, FileNotFoundError) as exc:
                self._pass_over(exc)
            else:
                return [self._line(version, history) for version in range(first, last + 1)]
        return self.plain().lines(first, last)

    def _line(self, version: int, history: Sequence[Sequence[Any]]) -> CommitLine:
        txn, writer, time, shards, nbytes = history[version - self.first]
        return CommitLine(version, txn, writer, time, self.run_of(version), shards, nbytes)

    def commits(self, first: int, last: int) -> list[Commit]:
        """Return whole commits; reads their records."""
        return self._plain(first, last)

    def plain(self) -> Recorded:
        """Return the same made of the records alone; reads them once."""
        if self._recorded is None:
            self._recorded = Recorded(self._plain(self.first, self.last))
        return self._recorded

    def _pass_over(self, why: Exception) -> None:
        warnings.warn(
            f"{self.path!r} is passed over, its {self.last - self.first + 1} records are read: "
            f"{why}",
            RuntimeWarning,
            stacklevel=4,
        )


def _neighbours(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    group: list[Block] = []
    for block in sorted(blocks, key=lambda one: one.start):
        if group and block.start != group[-1].stop + 1:  # a newline is between them
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def covering(
    spans: Sequence[tuple[int, int]], first: int, last: int
) -> Iterator[tuple[int, int, int]]:
    """Yield which of sorted spans to use for commits `first` to `last`: number or -1, from, to.

    The fewest spans that will do; -1 where there is none.

    Example:
        >>> list(covering([(1, 100), (1, 200), (301, 400)], 1, 310))
        [(1, 1, 200), (-1, 201, 300), (2, 301, 310)]
    """
    at = first
    while at <= last:
        begun = bisect_left(spans, (at + 1, 0))
        best = max(range(begun), key=lambda i: spans[i][1], default=-1)
        if best >= 0 and spans[best][1] >= at:
            stop = min(spans[best][1], last)
            yield best, at, stop
        else:
            stop = min(spans[begun][0] - 1, last) if begun < len(spans) else last
            yield -1, at, stop
        at = stop + 1
