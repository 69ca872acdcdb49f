"""The replay of packs of the log: the rows of all commits, but their files when asked for. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lazycache.catalog.chains import Chain, Key, OpenChain, Segment
from lazycache.catalog.placing import MOST_ROWS
from lazycache.catalog.replaying import Replay
from lazycache.catalog.site_shards import PlacedShard, packed_shards
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError
from lazycache.types import Identity

_NO_SHARDS: Chain[PlacedShard] = Chain()


def replay_packed(identity: Identity, segments: Iterable[Segment]) -> Snapshot:
    """Return the snapshot after the first commits of a log, which segments hold.

    Costs time for their rows and for what is not of files; what files there are is looked at when
    it is asked for.

    Raises:
        CorruptShardError: the segments contradict themselves or each other.
    """
    replay = PackedReplay(Snapshot(identity))
    for segment in segments:
        replay.add_segment(segment)
    return replay.result()


class PackedReplay(Replay):
    """A snapshot that is made of nothing but packs."""

    def __init__(self, before: Snapshot) -> None:
        super().__init__(before)
        self._segments: dict[Key, list[Segment]] = {}

    def add_segment(self, segment: Segment) -> None:
        """Apply commits of a pack. Costs time for their rows and notes, none for their files."""
        source, first = segment.source, segment.first
        self._follow(first)
        rows = {table: columns for table, *columns in source.rows()}
        for note in source.notes():
            if first <= note.version <= segment.last:
                self._extend(rows, first, note.version)
                first = note.version
                self._version = first
                for name in note.removed:
                    self._remove_packed(name, segment)
                self._introduce(note)
                self._extend(rows, first, first + 1)
                self._note(note)
                first += 1
        self._extend(rows, first, segment.last + 1)
        self._version = segment.last
        self._commits.append(segment)
        self._rest_on(segment)
        rewrites = [at for at in source.rewrites() if segment.first <= at <= segment.last]
        self._rewritten = max([self._rewritten, *rewrites])

    def _extend(self, rows: dict[str, list[Sequence[object]]], first: int, stop: int) -> None:
        """Add the rows of the commits from `first` to before `stop`."""
        for table, columns in rows.items():
            versions: Sequence[int] = columns[0]  # type: ignore[assignment]
            a, b = bisect_left(versions, first), bisect_left(versions, stop)
            if a == b:
                continue
            counts: Sequence[int] = columns[1][a:b]  # type: ignore[assignment]
            runs: Sequence[str] = columns[2][a:b]  # type: ignore[assignment]
            self._version = stop - 1
            for run in dict.fromkeys(runs):
                self._check_run(run, "adds rows to")
            target = self._table(table)
            target.parts.extend(versions[a:b], counts, runs)
            if target.rows > MOST_ROWS:
                raise CorruptShardError(f"Table {table!r} would have {target.rows} rows.")

    def _rest_on(self, segment: Segment) -> None:
        """Let the files of a pack be those of their sites and tables."""
        whole = segment.last == segment.source.last
        for kind, name in segment.source.keys:
            mine = self._segments.setdefault((kind, name), [])
            if kind == "table" and name in self._tables:
                mine.append(segment)
            elif kind == "site" and name in self._sites:
                mine.append(replace(segment, first=max(segment.first, self._owners[name][1])))
            elif whole and not (kind == "site" and self._rewritten):
                raise CorruptShardError(f"A pack has files of {kind} {name!r}: nobody declared it.")

    def _remove_packed(self, run: str, segment: Segment) -> None:
        """Take a run away; which of its sites have other rows is what their files say."""
        self._forget(run)
        for name in self._tables:
            self._table(name).parts.remove(run, version=self._version)
        for name, site in list(self._sites.items()):
            owner, declared = self._owners[name]
            if owner != run:
                continue
            until = replace(segment, first=max(segment.first, declared), last=self._version - 1)
            segments = [*self._segments.get(("site", name), []), until]
            files = packed_shards(site, segments, parts=self._table(site.table).parts.copy())
            if not files.files():
                del self._sites[name], self._owners[name]
                self._segments.pop(("site", name), None)

    def _settle(self) -> None:
        """Have sites and tables stand on the packs, once all of these are known."""
        segments, self._segments = self._segments, {}
        for (kind, name), mine in segments.items():
            if kind == "table" and mine:
                self._table(name).rest_on(name, mine)
            elif mine:
                site = self._sites[name]
                parts = self._table(site.table).parts.copy()
                chain: OpenChain[PlacedShard] = OpenChain(_NO_SHARDS)
                chain.rest_on(packed_shards(site, mine, parts=parts))
                self._shards[name] = chain

    def result(self) -> Snapshot:
        """Return the snapshot after what was added."""
        self._settle()
        return super().result()
