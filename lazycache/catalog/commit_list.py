"""All commits of a snapshot as a sequence; those of packs are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from lazycache.catalog.chains import CommitLine, Segment
from lazycache.types import Commit

_READ_TOGETHER = 500  # commits in memory at once while somebody goes through all


class CommitList(Sequence[Commit]):
    """Commits in order: number v is at v - 1. Those of packs cost a read of their record.

    Example:
        >>> from lazycache.catalog.records import void
        >>> commits = CommitList([void(1), void(2)])
        >>> len(commits), commits[-1].version, [one.version for one in commits]
        (2, 2, [1, 2])
    """

    __slots__ = ("_packed", "_tail")

    def __init__(self, tail: Sequence[Commit] = (), packed: Sequence[Segment] = ()) -> None:
        self._packed = tuple(packed)
        self._tail = tuple(tail)

    @staticmethod
    def joined(before: Sequence[Commit], more: Sequence[Commit | Segment]) -> Sequence[Commit]:
        """Return commits and what follows them: a tuple, where there are no packs."""
        commits = [one for one in more if isinstance(one, Commit)]
        packed = [one for one in more if isinstance(one, Segment)]
        if isinstance(before, CommitList):
            return CommitList((*before.tail, *commits), before.packed)
        return CommitList(commits, packed) if packed else (*before, *commits)

    @property
    def packed(self) -> tuple[Segment, ...]:
        """The packs that it begins with."""
        return self._packed

    @property
    def tail(self) -> tuple[Commit, ...]:
        """The commits behind the packs."""
        return self._tail

    def until(self, version: int) -> Iterator[Segment]:
        """Yield the packs as far as they hold commits up to a version."""
        for segment in self._packed:
            if segment.first <= version:
                yield replace(segment, last=min(segment.last, version))

    @property
    def _packed_last(self) -> int:
        return self._packed[-1].last if self._packed else 0

    def __len__(self) -> int:
        """Return how many there are."""
        return self._packed_last + len(self._tail)

    @overload
    def __getitem__(self, at: int) -> Commit: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Commit]: ...
    def __getitem__(self, at: int | slice) -> Commit | Sequence[Commit]:
        """Return one commit, or some; reads the records of packed ones."""
        if isinstance(at, slice):
            return tuple([self[i] for i in range(*at.indices(len(self)))])
        place = range(len(self))[at]
        if place >= self._packed_last:
            return self._tail[place - self._packed_last]
        version = place + 1
        segment = next(one for one in self._packed if version <= one.last)
        return segment.source.commits(version, version)[0]

    def __iter__(self) -> Iterator[Commit]:
        """Yield them in order; records of packed ones are read some hundred at a time."""
        for segment in self._packed:
            for first in range(segment.first, segment.last + 1, _READ_TOGETHER):
                last = min(segment.last, first + _READ_TOGETHER - 1)
                yield from segment.source.commits(first, last)
        yield from self._tail


def line_of(commit: Commit) -> CommitLine:
    """Return what a commit is, in short."""
    return CommitLine(
        version=commit.version,
        txn=commit.txn,
        writer=commit.writer,
        time=commit.time,
        run=commit.run,
        shards=len(commit.shards),
        nbytes=sum([shard.length for shard in commit.shards]),
    )


def lines_after(commits: Sequence[Commit], version: int) -> list[CommitLine]:
    """Return what the commits after a version were; reads no record."""
    if not isinstance(commits, CommitList):
        return [line_of(commit) for commit in commits[version:]]
    lines: list[CommitLine] = []
    for segment in commits.packed:
        if segment.last > version:
            lines += segment.source.lines(max(segment.first, version + 1), segment.last)
    return lines + [line_of(commit) for commit in commits.tail if commit.version > version]
