"""The statistics of a shard: what they say, and how they are read.

A statistics file belongs to one shard. It has a matrix of one number per unit for every block
(consecutive chunks), every zone (128 rows) and every rank (the greatest values of the shard). The
log says where each lies, so that one ranged read brings the blocks without zones and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import by_name, from_buffer
from lazycache.errors import CorruptShardError
from lazycache.types import ShardRef, SiteSpec, StatsPart

ZONE_ROWS = 128
"""Rows of a zone; the last one of a shard may have fewer."""

TOP_ROWS = 32
"""Greatest values that a shard keeps of each unit."""

GetRanges = Callable[[str, Sequence[tuple[int, int]]], Sequence[bytes | memoryview]]
"""Reads byte ranges of one file: `Store.get_ranges`."""

BLOCK_COLUMNS = ("nans", "pos_infs", "neg_infs", "min", "max", "sum", "mean", "m2")
"""The matrices of blocks, in file order."""

ZONE_COLUMNS = ("min", "max")
"""The matrices of zones, in file order."""

TOP_COLUMNS = ("top_value", "top_row")
"""The matrices of ranks, in file order."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkStatistics:
    """Numbers of each block of a shard, unit by unit; units are flattened, row-major.

    A block is some consecutive chunks. But for the counts of what is not finite, every number is of
    the finite values alone; of a unit that has none in a block, `min`, `max` and `mean` are NaN.
    """

    starts: np.ndarray
    """int64[blocks]: the first row of each, counted from the first row of the shard."""
    rows: np.ndarray
    """int64[blocks]: how many rows."""
    nans: np.ndarray
    """int64[blocks, units]: values that are NaN."""
    pos_infs: np.ndarray
    """int64[blocks, units]: values that are +Inf."""
    neg_infs: np.ndarray
    """int64[blocks, units]: values that are -Inf."""
    min: torch.Tensor
    """[blocks, units] in the site's dtype: the least."""
    max: torch.Tensor
    """[blocks, units] in the site's dtype: the greatest."""
    sum: torch.Tensor
    """[blocks, units]: float64; int64 for integers and bool, modulo 2**64 as torch sums them."""
    mean: torch.Tensor
    """float64[blocks, units]: the mean."""
    m2: torch.Tensor
    """float64[blocks, units]: the sum of squared deviations from `mean`."""

    @property
    def finite(self) -> np.ndarray:
        """int64[blocks, units]: how many values are finite."""
        count: np.ndarray = self.rows[:, None] - self.nans - self.pos_infs - self.neg_infs
        return count


@dataclass(frozen=True, slots=True, eq=False)
class Zones:
    """Least and greatest finite value of every 128 rows of a shard; NaN where there is none."""

    min: torch.Tensor
    """[zones, units] in the site's dtype; zone z has the rows from 128 * z on."""
    max: torch.Tensor
    """[zones, units] in the site's dtype."""


@dataclass(frozen=True, slots=True, eq=False)
class TopRows:
    """The greatest finite values of each unit of a shard, descending; of equal ones, first rows.

    There are as many ranks as the shard has rows, at most 32.
    """

    values: torch.Tensor
    """[ranks, units] in the site's dtype; unspecified where the row is -1."""
    rows: np.ndarray
    """int32[ranks, units]: the row, counted from the first row of the shard; -1 where a unit has
    fewer finite values than ranks."""


@lru_cache(maxsize=1024)  # asked for every part of every shard when a dataset is opened
def part_sizes(spec: SiteSpec, columns: tuple[str, ...]) -> tuple[int, ...]:
    """Return the bytes of one row of each matrix.

    Example:
        >>> spec = SiteSpec("a", "tokens", "bfloat16", (3,), 6)
        >>> part_sizes(spec, ZONE_COLUMNS), part_sizes(spec, TOP_COLUMNS)
        ((6, 6), (6, 12))
    """
    units = math.prod(spec.shape)
    return tuple(_item_bytes(name, spec) * units for name in columns)


def part_range(part: StatsPart, spec: SiteSpec, columns: tuple[str, ...]) -> tuple[int, int]:
    """Return the first byte of a part's matrices and the one behind the last.

    Example:
        >>> spec = SiteSpec("a", "tokens", "bfloat16", (3,), 6)
        >>> part_range(StatsPart(rows=2, crc=0, offsets=(64, 128)), spec, ZONE_COLUMNS)
        (64, 140)
    """
    sizes = part_sizes(spec, columns)
    stored = [
        (at, at + part.rows * size) for at, size in zip(part.offsets, sizes, strict=True) if at
    ]
    return stored[0][0], stored[-1][1]


def read_blocks(shard: ShardRef, spec: SiteSpec, get_ranges: GetRanges) -> ChunkStatistics | None:
    """Return the statistics of a shard's blocks; None if it has none.

    Args:
        shard: The shard as the log names it.
        spec: Its site.
        get_ranges: Reads the file: `store.get_ranges`.

    Cost: one ranged read, about 30 bytes for each block and unit. Nothing but counts is copied.

    Raises:
        CorruptShardError: the file is missing, the bytes do not have the checksum that the log
            recorded, or say what cannot be.
        StorageError: the file cannot be read.
    """
    stats = shard.stats
    if stats is None or stats.blocks is None:
        return None
    (found,) = _read(stats.path, [stats.blocks], spec, BLOCK_COLUMNS, get_ranges)
    rows = _block_rows(shard, stats.chunks)
    nans, pos_infs, neg_infs = (_integers(found[n]) for n in ("nans", "pos_infs", "neg_infs"))
    least = np.minimum(np.minimum(nans, pos_infs), neg_infs)
    odd = nans + pos_infs + neg_infs
    _check((least >= 0) & (odd <= rows[:, None]), "counts of values beyond their rows", stats.path)
    return ChunkStatistics(
        starts=np.cumsum(rows) - rows,
        rows=rows,
        nans=nans,
        pos_infs=pos_infs,
        neg_infs=neg_infs,
        min=found["min"],
        max=found["max"],
        sum=found["sum"],
        mean=found["mean"],
        m2=found["m2"],
    )


def read_zones(
    shard: ShardRef,
    spec: SiteSpec,
    get_ranges: GetRanges,
    *,
    parts: Sequence[StatsPart] | None = None,
) -> Zones | None:
    """Return the least and greatest of every 128 rows of a shard; None if it has none.

    Args:
        shard: As of `read_blocks`, like `spec` and `get_ranges`.
        spec: Its site.
        get_ranges: Reads the file.
        parts: Some of `shard.stats.zones`, for the zones of these alone; None for all.

    Cost: a ranged read of about 1/64 of the shard's values, one range for about every MiB.

    Raises:
        As `read_blocks`.
    """
    if shard.stats is None or not shard.stats.zones:
        return None
    wanted = shard.stats.zones if parts is None else parts
    found = _read(shard.stats.path, wanted, spec, ZONE_COLUMNS, get_ranges)
    if len(found) == 1:
        return Zones(found[0]["min"], found[0]["max"])
    return Zones(*(torch.cat([part[name] for part in found]) for name in ZONE_COLUMNS))


def read_top(shard: ShardRef, spec: SiteSpec, get_ranges: GetRanges) -> TopRows | None:
    """Return the greatest values of a shard and their rows; None if it has none.

    Cost: one ranged read, 32 values and row numbers for each unit.

    Raises:
        As `read_blocks`.
    """
    stats = shard.stats
    if stats is None or stats.top is None:
        return None
    (found,) = _read(stats.path, [stats.top], spec, TOP_COLUMNS, get_ranges)
    rows = found["top_row"].numpy()
    _check((rows >= -1) & (rows < shard.rows), "ranks of rows that are not there", stats.path)
    return TopRows(found["top_value"], rows)


def _read(
    path: str,
    parts: Sequence[StatsPart],
    spec: SiteSpec,
    columns: tuple[str, ...],
    get_ranges: GetRanges,
) -> list[dict[str, torch.Tensor]]:
    ranges = [part_range(part, spec, columns) for part in parts]
    try:
        found = get_ranges(path, ranges)
    except FileNotFoundError as exc:
        raise CorruptShardError(
            f"statistics {path} of site {spec.name!r} are missing: restore the file from a copy."
        ) from exc
    pairs = zip(parts, found, strict=True)
    return [
        _decode(path, part, data, start=start, spec=spec, columns=columns)
        for (part, data), (start, _) in zip(pairs, ranges, strict=True)
    ]


def _check(possible: np.ndarray | np.bool_, what: str, path: str) -> None:
    """Refuse numbers that no shard has; a file may have the right checksum and lie."""
    if not np.all(possible):
        raise CorruptShardError(f"statistics {path} have {what}, which cannot be.")


def _decode(
    path: str,
    part: StatsPart,
    data: bytes | memoryview,
    *,
    start: int,
    spec: SiteSpec,
    columns: Sequence[str],
) -> dict[str, torch.Tensor]:
    if crc32(data) != part.crc:
        raise CorruptShardError(
            f"statistics {path} of site {spec.name!r}: bytes {start:,} to {start + len(data):,} do "
            "not have the checksum that was recorded when they were written: restore the file from "
            "a copy."
        )
    shape = (part.rows, math.prod(spec.shape))
    buffer = memoryview(bytearray(data))  # torch takes only what may be written
    return {
        name: from_buffer(buffer[at - start :], by_name(_dtype(name, spec)), shape)
        if at
        else torch.zeros(shape, dtype=by_name(_dtype(name, spec)).torch, device="cpu")
        for name, at in zip(columns, part.offsets, strict=True)
    }


def _block_rows(shard: ShardRef, chunks: Sequence[int]) -> np.ndarray:
    """Rows of each block."""
    rows = np.array([chunk.rows for chunk in shard.chunks], np.int64)
    firsts = np.cumsum(np.array(chunks, np.int64)) - chunks
    summed: np.ndarray = np.add.reduceat(rows, firsts)
    return summed


def _integers(matrix: torch.Tensor) -> np.ndarray:
    return matrix.numpy().astype(np.int64)


def _item_bytes(column: str, spec: SiteSpec) -> int:
    return by_name(_dtype(column, spec)).itemsize


def _dtype(column: str, spec: SiteSpec) -> str:
    """Return the dtype of a matrix."""
    if column in ("min", "max", "top_value"):
        return spec.dtype
    if column == "sum":
        return "float64" if by_name(spec.dtype).torch.is_floating_point else "int64"
    return "float64" if column in ("mean", "m2") else "int32"
