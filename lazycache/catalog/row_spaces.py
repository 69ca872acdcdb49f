"""The rows of one table as the log gives them: which commit added which, in which files. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lazycache.errors import CorruptShardError
from lazycache.types import ShardRef, TableFileRef


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """A table file, the run it belongs to, and where its rows are in its table."""

    ref: TableFileRef
    """The file as its commit names it."""
    run: str
    """Name of the run that its rows belong to."""
    row_start: int
    """Its first row, counted from the first row of the table."""
    version: int
    """Version of the commit that names it."""

    @property
    def base(self) -> int:
        """Version of the commit whose first row its own `row_start` counts from."""
        return self.version if self.ref.covers is None else self.ref.covers


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one table that one commit has added."""

    start: int
    """Its first row, counted from the first row of the table."""
    rows: int
    """How many."""
    run: str
    """The run that they belong to."""


@dataclass(frozen=True, slots=True)
class Table:
    """One row space, as far as it is replayed."""

    rows: int = 0
    """All its rows."""
    parts: Mapping[int, Part] = field(default_factory=dict)
    """Version of each commit that added rows, in order, and which; removed ones are not there."""
    files: tuple[PlacedTable, ...] = ()
    """Its files in row order; they follow each other without a hole."""


class OpenTable:
    """A `Table` that still changes."""

    def __init__(self, before: Table) -> None:
        self.rows = before.rows
        self.parts = dict(before.parts)
        self._files = list(before.files)
        self._versions: list[int] | None = None

    def extend(self, files: Sequence[TableFileRef], *, run: str, version: int) -> None:
        """Add the rows of one commit behind what is there."""
        base = self.rows
        for file in files:
            self._files.append(PlacedTable(file, run, base + file.row_start, version))
            self.rows += file.rows
        self.parts[version] = Part(base, self.rows - base, run)
        self._versions = None

    def start_of(self, ref: ShardRef | TableFileRef, version: int) -> int:
        """Return the first row of a file whose `row_start` counts from a commit's first row.

        Raises:
            CorruptShardError: the rows are not there, or not all of one run.
        """
        part = self.parts.get(version)
        first = (part.start if part else 0) + ref.row_start
        if part is None or not self._holds(version, part, first + ref.rows, ref):
            added = part.rows if part else 0
            raise CorruptShardError(
                f"{ref.path!r} covers rows {ref.row_start} to {ref.row_start + ref.rows} of commit "
                f"{version}, which added {added} rows of its table."
            )
        return first

    def _holds(self, version: int, part: Part, stop: int, ref: ShardRef | TableFileRef) -> bool:
        """Whether rows up to `stop` are of the run of a commit; only a cover may go beyond it."""
        if stop <= part.start + part.rows or ref.covers is None:
            return stop <= part.start + part.rows
        if stop > self.rows:
            return False
        if self._versions is None:
            self._versions = list(self.parts)
        at = bisect_left(self._versions, version)
        while part.start + part.rows < stop:
            at += 1
            following = self.parts[self._versions[at]]
            if following.run != part.run:
                return False
            part = following
        return True

    def replace(self, file: TableFileRef, *, version: int) -> None:
        """Put a file in the place of dropped ones."""
        assert file.covers is not None
        start = self.start_of(file, file.covers)
        placed = PlacedTable(file, self.parts[file.covers].run, start, version)
        at = bisect_left(self._files, start, key=lambda one: one.row_start)
        self._files.insert(at, placed)

    def drop(self, paths: set[str]) -> set[str]:
        """Take files away; return those that were there."""
        gone = {file.ref.path for file in self._files if file.ref.path in paths}
        self._files = [file for file in self._files if file.ref.path not in gone]
        return gone

    def check_whole(self) -> None:
        """Raise `CorruptShardError` unless the files follow each other without a hole."""
        at = 0
        for file in self._files:
            if file.row_start != at:
                raise CorruptShardError(
                    f"{file.ref.path!r} starts at row {file.row_start} of its table; {at} was "
                    "expected."
                )
            at += file.ref.rows
        if at != self.rows:
            raise CorruptShardError(f"A table of {self.rows} rows has files of {at} of them.")

    def remove(self, run: str) -> None:
        """Take the rows of a run away; those behind them move up."""
        kept = {version: part for version, part in self.parts.items() if part.run != run}
        self.parts, self.rows, self._versions = {}, 0, None
        for version, part in kept.items():
            self.parts[version] = replace(part, start=self.rows)
            self.rows += part.rows
        self._files = [
            replace(file, row_start=self.parts[file.base].start + file.ref.row_start)
            for file in self._files
            if file.run != run
        ]

    def closed(self) -> Table:
        """Return it as it is now."""
        return Table(rows=self.rows, parts=self.parts, files=tuple(self._files))
