"""Commits in memory as a source of a snapshot: what stands in for a pack. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lazycache.catalog.chains import CommitLine, Key, Ref, Source
from lazycache.catalog.commit_list import line_of
from lazycache.types import Commit, Drop


class Recorded:
    """Commits that follow each other, as a `Source`.

    Example:
        >>> from lazycache.catalog.records import void
        >>> source = Recorded([void(1), void(2)])
        >>> source.first, source.last, list(source.keys)
        (1, 2, [])
    """

    def __init__(self, commits: Sequence[Commit]) -> None:
        self._commits = commits
        self.first, self.last = commits[0].version, commits[-1].version

    @property
    def keys(self) -> list[Key]:
        """The sites and tables that it has files of."""
        return list(dict.fromkeys(key for commit in self._commits for key, _ in refs_of(commit)))

    def rows(self) -> Iterator[tuple[str, Sequence[int], Sequence[int], Sequence[str]]]:
        """Yield for each table the versions that add rows, how many rows, and of which run."""
        found: dict[str, list[tuple[int, int, str]]] = {}
        for commit in self._commits:
            for table, rows in rows_of(commit).items():
                found.setdefault(table, []).append((commit.version, rows, commit.run))
        for table, entries in found.items():
            versions, rows_each, runs = zip(*entries, strict=True)
            yield table, versions, rows_each, runs

    def notes(self) -> list[Commit]:
        """Return all commits without their files."""
        return [replace(one, tables=(), shards=(), drops=()) for one in self._commits]

    def rewrites(self) -> list[int]:
        """Return the versions that replace files."""
        return [commit.version for commit in self._commits if commit.drops]

    def refs(self, key: Key, first: int, last: int) -> Iterator[tuple[int, Ref | Drop]]:
        """Yield version and file, or drop, of what commits say, in order."""
        for commit in self._commits:
            if first <= commit.version <= last:
                yield from ((commit.version, what) for mine, what in refs_of(commit) if mine == key)

    def lines(self, first: int, last: int) -> list[CommitLine]:
        """Return what commits were, in short."""
        return [line_of(commit) for commit in self.commits(first, last)]

    def commits(self, first: int, last: int) -> list[Commit]:
        """Return whole commits."""
        return list(self._commits[first - self.first : last - self.first + 1])

    def plain(self) -> Source:
        """Return itself."""
        return self


def refs_of(commit: Commit) -> Iterator[tuple[Key, Ref | Drop]]:
    """Yield the files that a commit drops, then those that it names, each with whose they are."""
    for drop in commit.drops:
        yield ("site", drop.site) if drop.site is not None else ("table", str(drop.table)), drop
    tables = sorted(commit.tables, key=lambda file: (file.row_start, file.rows))
    yield from ((("table", file.table), file) for file in tables)
    yield from ((("site", shard.site), shard) for shard in commit.shards)


def rows_of(commit: Commit) -> dict[str, int]:
    """Return how many rows a commit adds to each table that it adds any file to."""
    rows: dict[str, int] = {}
    for file in commit.tables:
        if file.covers is None:
            rows[file.table] = rows.get(file.table, 0) + file.rows
    return rows
