"""Which rows of one table each commit has added. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from lazycache.errors import CorruptShardError
from lazycache.types import ShardRef, TableFileRef


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one table that one commit has added."""

    start: int
    """Its first row, counted from the first row of the table."""
    rows: int
    """How many."""
    run: str
    """The run that they belong to."""


class Parts:
    """Parts of one table by the version of their commit, in order; those of removed runs not.

    Columns of plain numbers, since a log may have very many commits.

    Example:
        >>> parts = Parts()
        >>> parts.extend([1, 3], [5, 2], ["main", "main"])
        >>> parts.get(3), parts.get(2), parts.total
        (Part(start=5, rows=2, run='main'), None, 7)
    """

    __slots__ = ("gone", "runs", "starts", "versions")

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.starts: list[int] = [0]  # of each part, and the end of the last one
        self.runs: list[str] = []
        self.gone: dict[int, int] = {}
        """Version of a part whose run was removed, to the version that removed it."""

    @property
    def total(self) -> int:
        """All rows."""
        return self.starts[-1]

    def copy(self) -> Parts:
        """Return one that can change without this one."""
        made = Parts()
        made.versions, made.starts = list(self.versions), list(self.starts)
        made.runs, made.gone = list(self.runs), dict(self.gone)
        return made

    def extend(self, versions: Iterable[int], rows: Iterable[int], runs: Iterable[str]) -> None:
        """Add the rows of later commits behind what is there."""
        self.starts[-1:] = accumulate(rows, initial=self.total)
        self.versions.extend(versions)
        self.runs.extend(runs)

    def remove(self, run: str, *, version: int) -> None:
        """Take the rows of a run away in a version; those behind them move up."""
        kept = [part for part in self.items() if part[1].run != run]
        self.gone |= {
            v: version for v, owner in zip(self.versions, self.runs, strict=True) if owner == run
        }
        self.versions, self.starts, self.runs = [], [0], []
        self.extend(
            [v for v, _ in kept], [part.rows for _, part in kept], [part.run for _, part in kept]
        )

    def items(self) -> Iterator[tuple[int, Part]]:
        """Yield version and part of each commit that has added rows."""
        for at, version in enumerate(self.versions):
            yield version, self._part(at)

    def _part(self, at: int) -> Part:
        start = self.starts[at]
        return Part(start, self.starts[at + 1] - start, self.runs[at])

    def get(self, version: int) -> Part | None:
        """Return the rows that a commit has added; None if there are none, or no longer."""
        at = bisect_left(self.versions, version)
        found = at < len(self.versions) and self.versions[at] == version
        return self._part(at) if found else None

    def owner(self, version: int) -> str:
        """Return the run of a part that is there."""
        return self.runs[bisect_left(self.versions, version)]

    def start_of(self, ref: ShardRef | TableFileRef, *, version: int) -> int:
        """Return the first row of a file that the commit of a version names.

        Raises:
            CorruptShardError: the rows are not there, or not all of one run.
        """
        base = version if ref.covers is None else ref.covers
        at = bisect_left(self.versions, base)
        there = at < len(self.versions) and self.versions[at] == base
        first = self.starts[at] + ref.row_start if there else 0
        if not there or not self._holds(at, first + ref.rows, ref, version):
            added = self._part(at).rows if there else 0
            raise CorruptShardError(
                f"{ref.path!r} covers rows {ref.row_start} to {ref.row_start + ref.rows} of commit "
                f"{base}, which added {added} rows of its table."
            )
        return first

    def _holds(self, at: int, stop: int, ref: ShardRef | TableFileRef, version: int) -> bool:
        """Whether rows up to `stop` are of the run of a part; only a cover may go beyond it."""
        if stop <= self.starts[at + 1] or ref.covers is None:
            return stop <= self.starts[at + 1]
        last = bisect_left(self.starts, stop) - 1
        if last >= len(self.versions) or self.versions[last] > version:
            return False
        return all(run == self.runs[at] for run in self.runs[at : last + 1])
