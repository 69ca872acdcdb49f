"""Which files become one: neighbours of one run that are small. Pure.

What a shard holds, not how long its file is, decides; merging does not change it. So a second plan,
of what the first one has made, finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lazycache.catalog.snapshot import PlacedShard, PlacedTable, Snapshot
from lazycache.codec.shard import INDEX_TYPES
from lazycache.codec.tiles import fitting_tile, tile_of
from lazycache.types import SiteSpec, index_columns

TABLE_BYTES = 16 << 20
"""Bytes of a merged table file, at most, if it is merged of several."""

TABLE_ROWS = 1 << 20
"""Rows of a merged table file, at most."""


@dataclass(frozen=True, slots=True)
class ShardMerge:
    """Shards that are written again as one, or as few where they are large."""

    site: SiteSpec
    """Whose rows they have."""
    shards: tuple[PlacedShard, ...]
    """In row order, without a hole, of one run."""
    tile: int | None
    """Units of a tile of what is written; None: rows are not cut."""

    @property
    def nbytes(self) -> int:
        """Bytes of their files."""
        return sum(shard.ref.length for shard in self.shards)


@dataclass(frozen=True, slots=True)
class TableMerge:
    """Table files that become one."""

    table: str
    """Whose rows they have."""
    files: tuple[PlacedTable, ...]
    """In row order, of one run."""

    @property
    def nbytes(self) -> int:
        """Bytes of their files."""
        return sum(file.ref.length for file in self.files)


class Stretches:
    """Which commits' rows of a table lie side by side and belong to one run."""

    def __init__(self, snapshot: Snapshot, table: str) -> None:
        self._number: dict[int, int] = {}
        run, number = None, 0
        for addition in snapshot.additions:
            if table in addition.rows:
                number += addition.run != run
                run = addition.run
                self._number[addition.version] = number

    def number(self, version: int) -> int:
        """Return which stretch the rows of a commit are in."""
        return self._number[version]


def shard_merges(
    snapshot: Snapshot, site: SiteSpec, *, shard_bytes: int, layout: str | None
) -> Iterator[ShardMerge]:
    """Yield what is to be written again of a site.

    Shards of at least half of what a merged one may have are left alone, unless their layout
    changes.
    """
    stretches = Stretches(snapshot, site.table)
    most = max(1, shard_bytes - shard_bytes // 16)  # the rest is for headers and the footer
    group: list[PlacedShard] = []
    size = 0
    for shard in snapshot.shards(site.name):
        tile, held = target_tile(shard, site, layout), content_bytes(shard, site)
        stays = held >= most // 2 and tile == shard.ref.tile
        if group and (stays or size + held > most or not _follows(group[-1], shard, stretches)):
            yield from _worth(site, group, layout)
            group, size = [], 0
        if group and target_tile(group[-1], site, layout) != tile:
            yield from _worth(site, group, layout)
            group, size = [], 0
        if not stays:
            group.append(shard)
            size += held
    yield from _worth(site, group, layout)


def content_bytes(shard: PlacedShard, site: SiteSpec) -> int:
    """Return the bytes of the values and index columns of a shard."""
    index = sum(INDEX_TYPES[name].itemsize for name in index_columns(site))
    units = sum(chunk.rows if chunk.width is None else chunk.width for chunk in shard.ref.chunks)
    return shard.ref.rows * index + units * site.row_bytes


def target_tile(shard: PlacedShard, site: SiteSpec, layout: str | None) -> int | None:
    """Return the units of a tile that the rows of a shard are to have; None: they are not cut.

    Sites whose rows are not wider than a tile are not, nor are ragged ones.
    """
    return shard.ref.tile if layout is None else fitting_tile(site, tile_of(layout))


def table_merges(snapshot: Snapshot, table: str) -> Iterator[TableMerge]:
    """Yield the table files that become one: those of less than half of what one may have.

    Neighbours that give a column two types stay apart.
    """
    stretches = Stretches(snapshot, table)
    group = _TableGroup(table)
    for file in snapshot.table_files(table):
        large = 2 * file.ref.length >= TABLE_BYTES or 2 * file.ref.rows >= TABLE_ROWS
        if large or not group.takes(file, stretches.number(file.base)):
            yield from group.merge()
            group = _TableGroup(table)
        if not large:
            group.add(file, stretches.number(file.base))
    yield from group.merge()


class _TableGroup:
    """Table files that may become one."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._files: list[PlacedTable] = []
        self._types: dict[str, str] = {}
        self._stretch = self._rows = self._bytes = 0

    def takes(self, file: PlacedTable, stretch: int) -> bool:
        """Whether a file can join."""
        ref = file.ref
        if not self._files:
            return True
        room = self._rows + ref.rows <= TABLE_ROWS and self._bytes + ref.length <= TABLE_BYTES
        same = all(self._types.get(name, kind) == kind for name, kind in ref.columns.items())
        return room and same and stretch == self._stretch

    def add(self, file: PlacedTable, stretch: int) -> None:
        """Take a file."""
        self._files.append(file)
        self._types.update(file.ref.columns)
        self._stretch = stretch
        self._rows += file.ref.rows
        self._bytes += file.ref.length

    def merge(self) -> Iterator[TableMerge]:
        """Yield what they become, if they are several."""
        if len(self._files) > 1:
            yield TableMerge(self._table, tuple(self._files))


def _follows(before: PlacedShard, shard: PlacedShard, stretches: Stretches) -> bool:
    if before.row_stop != shard.row_start:
        return False
    return stretches.number(before.base) == stretches.number(shard.base)


def _worth(
    site: SiteSpec, group: Sequence[PlacedShard], layout: str | None
) -> Iterator[ShardMerge]:
    if not group:
        return
    tile = target_tile(group[0], site, layout)
    if len(group) > 1 or group[0].ref.tile != tile:
        yield ShardMerge(site, tuple(group), tile)
