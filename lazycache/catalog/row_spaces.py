"""The rows of one table as the log gives them: which commit added which, in which files. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lazycache.catalog.chains import Chain, OpenChain, Packed, Ref, Segment
from lazycache.catalog.parts import Part, Parts
from lazycache.errors import CorruptShardError
from lazycache.types import TableFileRef

__all__ = ["OpenTable", "Part", "PlacedTable", "Table"]


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
class Table:
    """One row space, as far as it is replayed."""

    parts: Parts = field(default_factory=Parts)
    """Which rows each commit has added."""
    chain: Chain[PlacedTable] = field(default_factory=Chain)
    """Its files in row order; they follow each other without a hole."""

    @property
    def rows(self) -> int:
        """All its rows."""
        return self.parts.total


class OpenTable:
    """A `Table` that still changes."""

    def __init__(self, before: Table) -> None:
        self.parts = before.parts.copy()
        self._chain = OpenChain(before.chain)

    @property
    def rows(self) -> int:
        """All its rows."""
        return self.parts.total

    def extend(self, files: Sequence[TableFileRef], *, run: str, version: int) -> None:
        """Add the rows of one commit behind what is there."""
        base = self.rows
        mine = self._chain.behind(version)
        mine += [PlacedTable(file, run, base + file.row_start, version) for file in files]
        self.parts.extend([version], [sum([file.rows for file in files])], [run])

    def replace(self, file: TableFileRef, *, version: int) -> None:
        """Put a file in the place of dropped ones."""
        assert file.covers is not None
        start = self.parts.start_of(file, version=version)
        placed = PlacedTable(file, self.parts.owner(file.covers), start, version)
        files = self._chain.whole()
        # files without rows, of other runs, may begin at the same row: they come before it
        place = (start, file.rows > 0)
        at = bisect_left(files, place, key=lambda one: (one.row_start, one.ref.rows > 0))
        files.insert(at, placed)

    def drop(self, paths: set[str]) -> set[str]:
        """Take files away; return those that were there."""
        files = self._chain.whole()
        gone = {file.ref.path for file in files if file.ref.path in paths}
        files[:] = [file for file in files if file.ref.path not in gone]
        return gone

    def check_whole(self) -> None:
        """Raise `CorruptShardError` unless the files follow each other without a hole."""
        _check_whole(self._chain.whole(), rows=self.rows)

    def remove(self, run: str, *, version: int) -> None:
        """Take the rows of a run away; those behind them move up."""
        if run not in self.parts.runs:
            return
        files = self._chain.whole()
        self.parts.remove(run, version=version)
        parts = self.parts
        files[:] = [
            replace(file, row_start=parts.start_of(file.ref, version=file.version))
            for file in files
            if file.run != run
        ]

    def rest_on(self, name: str, segments: Sequence[Segment]) -> None:
        """Have the files that segments name, which has the rows that are there."""
        parts = self.parts.copy()  # those of later commits do not count

        def make(ref: Ref, start: int, version: int) -> PlacedTable:
            if not isinstance(ref, TableFileRef) or ref.table != name:
                raise CorruptShardError(f"{ref.path!r} is no file of table {name!r}.")
            base = version if ref.covers is None else ref.covers
            run = "" if base in parts.gone else parts.owner(base)
            return PlacedTable(ref, run, start, version)

        packed = Packed(
            ("table", name),
            segments,
            parts=parts,
            make=make,
            check=lambda files: _check_whole(files, rows=parts.total),
        )
        self._chain.rest_on(packed)

    def closed(self) -> Table:
        """Return it as it is now."""
        return Table(parts=self.parts, chain=self._chain.closed())


def _check_whole(files: Sequence[PlacedTable], *, rows: int) -> None:
    at = 0
    for file in files:
        if file.row_start != at:
            raise CorruptShardError(
                f"{file.ref.path!r} starts at row {file.row_start} of its table; {at} was expected."
            )
        at += file.ref.rows
    if at != rows:
        raise CorruptShardError(f"A table of {rows} rows has files of {at} of them.")
