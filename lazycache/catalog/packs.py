"""A pack of the log: what a hundred, a thousand, ... commits say, sorted by whose it is.

It is a hint, made of the records and trusted as little as they are: its ops are those of the
records, and go through the same checks. The head says what opening needs; the files of a site or
table are in blocks of their own, read when somebody asks for them. Where anything of a pack is
damaged, its records are read.
"""

from __future__ import annotations

import json
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazycache.catalog import fields, records
from lazycache.catalog.chains import CommitLine, Key, Ref
from lazycache.catalog.int_lists import decode_ints
from lazycache.catalog.pack_blocks import Block, blocks_of, unpacked
from lazycache.catalog.recorded import Recorded
from lazycache.errors import CorruptShardError, FormatVersionError, LazycacheError, StorageError
from lazycache.storage.layout import DATA_PREFIX, STATS_PREFIX, TABLES_PREFIX, site_dir
from lazycache.types import Commit, Drop, ShardRef

FORMAT = "lazycache-pack"
"""What a head calls itself."""

VERSION = 1
"""The packs that this code reads and writes; others are passed over."""

TRAILER_BYTES = 10
"""Bytes behind the line of the head: newline, eight digits, newline."""

_OP_KINDS = {"site": "shard", "table": "rows"}
_MOST_COMMITS = 1 << 40

Bytes = Callable[[int, int], bytes]
"""Reads bytes `start` to `stop` of a pack."""


@dataclass(frozen=True, slots=True)
class Section:
    """Where the ops of one site or table are."""

    live: tuple[Block, ...]
    """What counts at the end of the pack."""
    dead: tuple[Block, ...]
    """Files that the pack itself replaces, and that it does."""


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
        try:
            self._fill(fields.mapping(json.loads(head)), size - self._body)
        except CorruptShardError as exc:
            raise CorruptShardError(f"In {path!r}: {exc}") from exc
        except (ValueError, RecursionError, StorageError, FormatVersionError) as exc:
            raise CorruptShardError(f"In {path!r}: {exc}") from exc

    def _fill(self, head: Mapping[str, Any], size: int) -> None:
        if (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise CorruptShardError(f"it is no pack of version {VERSION}")
        self.uuid = fields.text(head, "uuid")
        self.first, self.last = fields.integer(head, "first"), fields.integer(head, "last")
        if not 0 < self.first <= self.last < _MOST_COMMITS:
            raise CorruptShardError(f"it holds commits {self.first} to {self.last}")
        self.sizes = self._each(head, "records")
        """Bytes of each record: who has others must not use it."""
        self._owners = self._runs(head)
        self._rows = dict(map(self._table_rows, fields.sequence(head, "rows")))
        self._rewrites = self._versions(head.get("rewrites"))
        self.ops = [self._op(entry) for entry in fields.sequence(head, "ops")]
        """Version and op of all that is not of files."""
        self.sections = dict(
            self._section(fields.mapping(entry), size)
            for entry in fields.sequence(head, "sections")
        )
        """Whose ops are where."""
        self._history = blocks_of(head.get("history"), size=size)

    def _each(self, head: Mapping[str, Any], key: str) -> NDArray[np.int64]:
        """Return one number from 0 for each commit."""
        count = self.last - self.first + 1
        numbers = decode_ints(head.get(key), at_most=count)
        if len(numbers) != count or (numbers < 0).any():
            raise CorruptShardError(f"{key} must be {count} numbers")
        return numbers

    def _runs(self, head: Mapping[str, Any]) -> list[str]:
        names = [fields.text({"name": name}, "name") for name in fields.sequence(head, "runs")]
        at = self._each(head, "run")
        if at.max() >= len(names):
            raise CorruptShardError("a commit is of a run that is not in its list")
        return [names[i] for i in at.tolist()]

    def _versions(self, value: Any) -> list[int]:
        versions = decode_ints(value, at_most=self.last - self.first + 1)
        if len(versions) and (
            versions[0] < self.first or versions[-1] > self.last or (np.diff(versions) <= 0).any()
        ):
            raise CorruptShardError("versions must count up, from the first one to the last one")
        return list(versions.tolist())

    def _table_rows(self, value: Any) -> tuple[str, tuple[list[int], list[int]]]:
        entry = fields.mapping(value)
        versions = self._versions(entry.get("versions"))
        rows = decode_ints(entry.get("rows"), at_most=len(versions))
        if len(rows) != len(versions) or (rows < 0).any() or (rows > records.MOST_ROWS).any():
            raise CorruptShardError("a table does not have rows for its commits")
        return fields.name(entry, "table"), (versions, list(rows.tolist()))

    def _op(self, value: Any) -> tuple[int, dict[str, Any]]:
        if type(value) is not list or len(value) != 2:  # noqa: PLR2004 - version and op
            raise CorruptShardError("an op must have a version")
        (version,) = fields.integers(value[:1])
        if not self.first <= version <= self.last:
            raise CorruptShardError(f"an op is of version {version}")
        return version, fields.mapping(value[1])

    def _section(self, entry: Mapping[str, Any], size: int) -> tuple[Key, Section]:
        kind = "site" if "site" in entry else "table"
        live, dead = (blocks_of(entry.get(part), size=size) for part in ("live", "dead"))
        return (kind, fields.name(entry, kind)), Section(live, dead)

    @property
    def keys(self) -> Sequence[Key]:
        """The sites and tables that it has files of."""
        return list(self.sections)

    def run_of(self, version: int) -> str:
        """Return the run that a commit is of."""
        return self._owners[version - self.first]

    def rows(self) -> Iterator[tuple[str, Sequence[int], Sequence[int], Sequence[str]]]:
        """Yield for each table the versions that add rows, how many rows, and of which run."""
        for table, (versions, rows) in self._rows.items():
            yield table, versions, rows, [self._owners[at - self.first] for at in versions]

    def notes(self) -> list[Commit]:
        """Return the commits that say anything else than files, without their files.

        Raises:
            CorruptShardError: an op says what cannot be.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for version, op in self.ops:
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
        return self._rewrites

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
            (version, _file(key, op))
            for version, op in self.raw(key, whole=(first, last) != (self.first, self.last))
            if first <= version <= last
        ]
        # of one commit what it drops comes first, then files in row order
        found.sort(key=lambda one: (one[0], *_order(one[1])))
        return found

    def raw(self, key: Key, *, whole: bool) -> list[tuple[int, dict[str, Any]]]:
        """Return version and op of a site or table; `whole`: also those that do not count any more.

        Raises:
            CorruptShardError: a block is damaged.
            StorageError: the store failed.
        """
        section = self.sections.get(key, Section((), ()))
        blocks = (*section.live, *section.dead) if whole else section.live
        return [self._op(entry) for entry in self._unpacked(blocks)]

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
        values = self._unpacked(self._history)
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


def _order(what: Ref | Drop) -> tuple[int, int, int]:
    return (0, 0, 0) if isinstance(what, Drop) else (1, what.row_start, what.rows)


def _file(key: Key, op: Mapping[str, Any]) -> Ref | Drop:
    """Return the file or drop of an op of a site or table.

    Raises:
        CorruptShardError: it is not one, or lies where files of others do.
    """
    kind, name = key
    try:
        if op.get("op") not in {"drop", _OP_KINDS[kind]}:
            raise CorruptShardError(f"{str(op.get('op'))[:80]!r} is no op of a {kind}")
        ref: Ref | Drop = records.decode_op(op)
    except (StorageError, FormatVersionError) as exc:
        raise CorruptShardError(str(exc)) from exc
    if isinstance(ref, Drop):
        return ref
    check_folder(key, ref)
    if name != (ref.site if isinstance(ref, ShardRef) else ref.table):
        raise CorruptShardError(f"{ref.path!r} is not of {kind} {name!r}")
    return ref


def check_folder(key: Key, ref: Ref) -> None:
    """Refuse a file that does not lie in the folder of its site or table.

    So no two sites can have one file, though nobody looks at all of them at once.

    Raises:
        CorruptShardError: says where it lies.
    """
    folder, of_statistics = _folders(key)
    outside = not ref.path.startswith(folder)
    if isinstance(ref, ShardRef) and ref.stats is not None:
        outside |= not ref.stats.path.startswith(of_statistics)
    if outside:
        raise CorruptShardError(f"{ref.path!r} is not in {folder!r}, where its files are")


@lru_cache(maxsize=1024)  # asked for each file
def _folders(key: Key) -> tuple[str, str]:
    kind, name = key
    prefix = DATA_PREFIX if kind == "site" else TABLES_PREFIX
    return f"{prefix}{site_dir(name)}/", f"{STATS_PREFIX}{site_dir(name)}/"


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
