"""One shard: its length, its footer, every chunk's checksum and index columns, its statistics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lazycache.care.checks.footers import Page, differences, read_footer, right_headers
from lazycache.care.checks.report import RESTORE, Findings, Problem
from lazycache.care.checks.statistics_check import StatisticsCheck
from lazycache.care.checks.statistics_file_check import file_differences
from lazycache.care.checks.tables_check import Columns, Tables
from lazycache.catalog.snapshot import PlacedShard
from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import by_name, from_buffer
from lazycache.codec.footer import Footer
from lazycache.codec.shard import INDEX_TYPES, VALUE
from lazycache.codec.tiles import join_tiles, layout_of, tile_names, tile_widths, units_of
from lazycache.errors import StorageError
from lazycache.storage.store import Store
from lazycache.types import (
    INDEX_COLUMNS,
    RAGGED,
    WIDTH,
    ChunkRef,
    ShardRef,
    SiteSpec,
    index_columns,
)

_PIECE_BYTES = 16 << 20
"""Bytes of values that are read at once, or those of one row."""

_REBUILD = (
    "reading is right where statistics are not asked; restore the file, or write the site again "
    "with lc.copy(url, dst, sites=...)"
)


_OTHERS = "lazycache reads it, other readers of Parquet may not: restore the file from a copy"


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What the shards of a dataset are checked against."""

    store: Store
    """Where they are."""
    tables: Tables
    """The rows that they must name."""
    found: Findings
    """Where problems go."""

    def check(self, spec: SiteSpec, placed: PlacedShard) -> None:
        """Check one shard; every problem that can be told from another is told.

        Cost: reads the shard once, its statistics and its footer; memory of a piece of 16 MiB.
        """
        try:
            self._check(spec, placed)
        except FileNotFoundError:
            self._tell(placed, "the file is missing")
        except StorageError as exc:
            self._tell(placed, str(exc).removesuffix("."))

    def _check(self, spec: SiteSpec, placed: PlacedShard) -> None:
        ref = placed.ref
        there = self.store.size(ref.path)
        self.found.count("files")
        if there != ref.length:
            what = f"the file has {there:,} bytes, the log recorded {ref.length:,}"
            self._tell(placed, what)
            return
        footer = read_footer(self.store, ref.path, ref.length)
        differing = list(self._differences(footer, spec, placed))
        for difference in differing:
            self._tell(placed, difference)
        statistics = self._statistics(spec, placed)
        row, whole, as_said = placed.row_start, True, not differing
        for number, chunk in enumerate(ref.chunks):
            good = self._chunk(spec, placed, number, row=row, statistics=statistics)
            if good and as_said:  # one problem of this kind is enough of a file
                as_said = self._headers(footer, spec, placed, number)
            whole &= good
            row += chunk.rows
        if statistics is not None:
            self._compare(spec, placed, statistics if whole else None)

    def _tell(self, placed: PlacedShard, what: str, advice: str = RESTORE) -> None:
        ref = placed.ref
        self.found.add(Problem(what, advice, ref.path, site=ref.site, commit=placed.version))

    def _differences(self, footer: Footer, spec: SiteSpec, placed: PlacedShard) -> Iterator[str]:
        ref, names = placed.ref, index_columns(spec)
        return differences(
            footer,
            columns=(*names, *_value_columns(spec, ref)),
            rows=[chunk.rows for chunk in ref.chunks],
            pages=[list(_pages(spec, ref, chunk)) for chunk in ref.chunks],
            metadata={
                "lazycache.site": json.dumps(spec.name),
                "lazycache.table": json.dumps(spec.table),
                "lazycache.dtype": json.dumps(spec.dtype),
                "lazycache.shape": json.dumps(list(spec.shape)),
                "lazycache.layout": json.dumps(
                    RAGGED if spec.layout == RAGGED else layout_of(ref.tile)
                ),
            },
        )

    def _headers(self, footer: Footer, spec: SiteSpec, placed: PlacedShard, number: int) -> bool:
        """Check the headers of the pages of a chunk that is whole: other readers go by them."""
        ref, group = placed.ref, footer.groups[number]
        pages = list(_pages(spec, ref, ref.chunks[number]))
        crcs = self._crcs(spec, ref, ref.chunks[number])
        if not right_headers(self.store, ref.path, group, pages, crcs):
            what = f"headers of pages of row group {number} are not those of their values"
            self._tell(placed, what, _OTHERS)
            return False
        return True

    def _crcs(self, spec: SiteSpec, ref: ShardRef, chunk: ChunkRef) -> list[int]:
        """Return the checksums of the pages of a chunk."""
        index = self._index_bytes(spec, ref, chunk)
        return [*map(crc32, index), *(chunk.tile_crcs or (chunk.value_crc,))]

    def _chunk(
        self,
        spec: SiteSpec,
        placed: PlacedShard,
        number: int,
        *,
        row: int,
        statistics: StatisticsCheck | None,
    ) -> bool:
        """Check a chunk whose first row is `row` of the table; whether its values are whole."""
        chunk, ref = placed.ref.chunks[number], placed.ref
        what = f"rows {row:,} to {row + chunk.rows:,} of {spec.table!r}"
        columns = self._index_columns(spec, placed, chunk)
        wrong = self._wrong_index(spec, chunk, columns, row=row)
        if wrong:
            self._tell(placed, f"{what}: {wrong}")
        crcs, dtype = Checksums(), by_name(spec.dtype)
        for piece in _pieces(spec, ref, chunk):
            tiles = self.store.get_ranges(ref.path, piece)
            data = crcs.add(tiles, row_bytes=_tile_bytes(spec, ref) if ref.tile else None)
            self.found.count("bytes", len(data))
            if statistics is not None:
                shape = (len(data) // spec.row_bytes, units_of(spec))
                statistics.add(from_buffer(data, dtype, shape))
        self.found.count("chunks")
        self.found.count("rows of values", chunk.rows)
        whole = crcs.rows == chunk.value_crc and tuple(crcs.tiles) == chunk.tile_crcs
        if not whole:
            self._tell(placed, f"{what}: the checksum of their values is not the recorded one")
        return whole and wrong is None

    def _index_columns(self, spec: SiteSpec, placed: PlacedShard, chunk: ChunkRef) -> Columns:
        raw = self._index_bytes(spec, placed.ref, chunk)
        self.found.count("bytes", sum(map(len, raw)))
        pairs = zip(index_columns(spec), raw, strict=True)
        return {name: np.frombuffer(data, INDEX_TYPES[name]) for name, data in pairs}

    def _index_bytes(self, spec: SiteSpec, ref: ShardRef, chunk: ChunkRef) -> Sequence[bytes]:
        ranges = [
            (at, at + chunk.rows * INDEX_TYPES[name].itemsize)
            for name, at in zip(index_columns(spec), chunk.index_offsets, strict=True)
        ]
        return self.store.get_ranges(ref.path, ranges)

    def _wrong_index(
        self, spec: SiteSpec, chunk: ChunkRef, columns: Columns, *, row: int
    ) -> str | None:
        if spec.layout == RAGGED:
            widths = columns[WIDTH].astype(np.int64)
            if (widths < 1).any() or int(widths.sum()) != chunk.width:
                return "their widths are not those that the log recorded"
        expected = self.tables.index(spec.table, row, row + chunk.rows)
        if expected is None:
            return None
        for name in INDEX_COLUMNS[spec.table]:
            differs = np.flatnonzero(columns[name] != expected[name])
            if len(differs):
                at = int(differs[0])
                return (
                    f"row {row + at:,} is of {name} {columns[name][at]} here, but "
                    f"{expected[name][at]} in the table"
                )
        return None

    def _statistics(self, spec: SiteSpec, placed: PlacedShard) -> StatisticsCheck | None:
        stats = placed.ref.stats
        if stats is None:
            return None
        try:
            there = self.store.size(stats.path)
            if there != stats.length:
                what = f"the file has {there:,} bytes, the log recorded {stats.length:,}"
                self._tell_statistics(placed, what)
                return None
            read_footer(self.store, stats.path, stats.length)
            return StatisticsCheck(self.store, placed.ref, spec)
        except FileNotFoundError:
            self._tell_statistics(placed, "the file is missing")
        except StorageError as exc:
            self._tell_statistics(placed, str(exc).removesuffix("."))
        return None

    def _compare(
        self, spec: SiteSpec, placed: PlacedShard, statistics: StatisticsCheck | None
    ) -> None:
        """Check statistics; None: of damaged values they cannot be right."""
        self.found.count("statistics")
        found = [] if statistics is None else list(statistics.differences())
        try:
            if not found and placed.ref.stats is not None:
                found += file_differences(self.store, spec, placed.ref.stats)
        except StorageError as exc:
            found.append(str(exc).removesuffix("."))
        for difference in found:
            self._tell_statistics(placed, difference)

    def _tell_statistics(self, placed: PlacedShard, what: str) -> None:
        ref = placed.ref
        path = None if ref.stats is None else ref.stats.path
        self.found.add(Problem(what, _REBUILD, path, site=ref.site, commit=placed.version))


class Checksums:
    """The checksums of the values of a chunk, piece by piece."""

    def __init__(self) -> None:
        self.rows = 0
        """CRC-32 of the rows."""
        self.tiles: list[int] = []
        """CRC-32 of each tile; empty where rows are not cut."""

    def add(self, parts: Sequence[bytes], *, row_bytes: Sequence[int] | None) -> memoryview:
        """Take the next rows, whole (None) or as tiles; return their bytes, row-major."""
        data = memoryview(parts[0])
        if row_bytes is not None:
            self.tiles = self.tiles or [0] * len(parts)
            self.tiles = [crc32(part, crc) for part, crc in zip(parts, self.tiles, strict=True)]
            views = [memoryview(part) for part in parts]
            data = join_tiles(views, rows=len(parts[0]) // row_bytes[0])
        self.rows = crc32(data, self.rows)
        return data


def _value_columns(spec: SiteSpec, ref: ShardRef) -> list[str]:
    return [VALUE] if ref.tile is None else tile_names(VALUE, units_of(spec), ref.tile)


def _tile_bytes(spec: SiteSpec, ref: ShardRef) -> list[int]:
    """Return the bytes of a row in each tile; those of the row where it is not cut."""
    if ref.tile is None:
        return [spec.row_bytes]
    size = by_name(spec.dtype).itemsize
    return [units * size for units in tile_widths(units_of(spec), ref.tile)]


def _places(spec: SiteSpec, ref: ShardRef, chunk: ChunkRef) -> list[tuple[int, int]]:
    """Return where the tiles of a chunk begin, and the bytes of a row in each."""
    starts = chunk.tile_offsets if ref.tile is not None else (chunk.value_offset,)
    return list(zip(starts, _tile_bytes(spec, ref), strict=True))


def _units(chunk: ChunkRef) -> int:
    """Return the rows of a chunk; of a ragged one, all widths together."""
    return chunk.rows if chunk.width is None else chunk.width


def _pages(spec: SiteSpec, ref: ShardRef, chunk: ChunkRef) -> Iterator[Page]:
    """Yield where the pages of a chunk end, as the log says."""
    names = index_columns(spec)
    for number, (name, at) in enumerate(zip(names, chunk.index_offsets, strict=True)):
        yield Page(number, at, at + chunk.rows * INDEX_TYPES[name].itemsize)
    for number, (start, size) in enumerate(_places(spec, ref, chunk), len(names)):
        yield Page(number, start, start + _units(chunk) * size)


def _pieces(spec: SiteSpec, ref: ShardRef, chunk: ChunkRef) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges of the values of a chunk: some rows, of each tile one range."""
    size, rows = max(1, _PIECE_BYTES // spec.row_bytes), _units(chunk)
    for first in range(0, rows, size):
        stop = min(rows, first + size)
        yield [
            (start + first * part, start + stop * part) for start, part in _places(spec, ref, chunk)
        ]
