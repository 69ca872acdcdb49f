"""The statistics of a shard as the log names them: to JSON and back, trusting nothing. Pure."""

from __future__ import annotations

from typing import Any

from lazycache.catalog import fields
from lazycache.codec.statistics import (
    BLOCK_COLUMNS,
    TOP_COLUMNS,
    ZONE_COLUMNS,
    ZONE_ROWS,
    part_sizes,
)
from lazycache.errors import CorruptShardError
from lazycache.types import RAGGED, ShardRef, SiteSpec, StatsPart, StatsRef

_PART = 3  # what the log says of one


def encode_statistics(stats: StatsRef) -> dict[str, Any]:
    """Return the JSON of a reference.

    Example:
        >>> encode_statistics(StatsRef("stats/a/0-r0.parquet", 99, (), None, (), None))["zones"]
        []
    """
    return {
        "path": stats.path,
        "length": stats.length,
        "chunks": stats.chunks,
        "blocks": None if stats.blocks is None else _encode_part(stats.blocks),
        "zones": [_encode_part(part) for part in stats.zones],
        "top": None if stats.top is None else _encode_part(stats.top),
    }


def decode_statistics(value: Any) -> StatsRef:
    """Return the reference of its JSON; `check_statistics` says whether it fits its shard.

    Raises:
        CorruptShardError: it is not one.
    """
    entry = fields.mapping(value)
    blocks, top = entry.get("blocks"), entry.get("top")
    return StatsRef(
        path=fields.path(entry),
        length=fields.integer(entry, "length"),
        chunks=fields.integers(entry.get("chunks")),
        blocks=None if blocks is None else _part(blocks),
        zones=tuple([_part(part) for part in fields.sequence(entry, "zones")]),
        top=None if top is None else _part(top),
    )


def check_statistics(shard: ShardRef, site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless the statistics of a shard are of its rows and in their file.

    Sizes in memory follow from the rows of a part and the site's units: what does not fit in the
    file is refused here, before anything is read.
    """
    stats = shard.stats
    if stats is None:
        return
    where = f"{stats.path!r}, the statistics of {shard.path!r}"
    zones = -(-shard.rows // ZONE_ROWS)
    of_blocks = 0 if stats.blocks is None else stats.blocks.rows
    of_zones = sum(part.rows for part in stats.zones)
    chunks = len(shard.chunks) if of_blocks else 0
    fits = (
        site.layout != RAGGED
        and sum(stats.chunks) == chunks
        and len(stats.chunks) == of_blocks
        and all(stats.chunks)
        and of_zones in (0, zones)
        and (stats.top is None or stats.top.rows <= shard.rows)
    )
    if not fits:
        raise CorruptShardError(
            f"{where} have {of_blocks} blocks of {sum(stats.chunks)} chunks and {of_zones} zones; "
            f"it has {len(shard.chunks)} chunks and {zones} zones of site {site.name!r}."
        )
    parts: list[tuple[StatsPart | None, Any]] = [
        (stats.blocks, BLOCK_COLUMNS),
        (stats.top, TOP_COLUMNS),
        *((part, ZONE_COLUMNS) for part in stats.zones),
    ]
    for part, columns in parts:
        if part is not None and not _inside(part, site, columns, stats.length):
            raise CorruptShardError(
                f"{where}: {part.rows} rows at {part.offsets} do not fit in its {stats.length} "
                "bytes."
            )


def _encode_part(part: StatsPart) -> list[Any]:
    return [part.rows, part.crc, part.offsets]


def _part(value: Any) -> StatsPart:
    if type(value) is not list or len(value) != _PART:
        raise CorruptShardError(f"not a part of statistics: {str(value)[:80]}")
    rows, crc = fields.integers(value[:2])
    offsets = fields.integers(value[2])
    if rows < 1 or crc >> 32 or any(offset % 64 for offset in offsets):
        raise CorruptShardError(f"not a part of statistics: {str(value)[:80]}")
    return StatsPart(rows, crc, offsets)


def _inside(part: StatsPart, site: SiteSpec, columns: tuple[str, ...], length: int) -> bool:
    """Whether the matrices follow each other in the file; only counts may be left out."""
    if len(part.offsets) != len(columns):
        return False
    end = 0
    for name, at, size in zip(columns, part.offsets, part_sizes(site, columns), strict=True):
        if not at and name in _COUNTS:
            continue
        if not at or at < end:
            return False
        end = at + part.rows * size
    return end <= length


_COUNTS = frozenset({"nans", "pos_infs", "neg_infs"})
